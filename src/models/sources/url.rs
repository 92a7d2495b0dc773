//! Models by URL: `https://host/path/x.gguf[#sha256=HEX]`. The server is asked once for the file's size,
//! and the file goes into the store.

use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use reqwest::Url;
use sha2::{Digest, Sha256};

use crate::error::{Code, Failure, Result};
use crate::models::library::Library;
use crate::models::library::file_name::is_model_name;
use crate::models::library::headers::{check_model, vet_model};
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::library::split::{SplitPart, stem};
use crate::models::library::store::{self, NameStatus, name_taken};
use crate::models::sources::grammar::invalid;
use crate::models::sources::places::Places;
use crate::models::sources::request::DownloadRequest;
use crate::models::sources::resolution::{ModelSource, Resolution, ResolvedModel};
use crate::models::transfer::fetch::Fetcher;
use crate::models::transfer::partial;
use crate::models::transfer::purpose::Purpose;
use crate::models::transfer::remote::{Destination, GGUF_MAGIC, Refusal, RemoteFile, StoredFile, Trust};
use crate::text::{hex, is_sha256};
use crate::{n, spawn};

/// A GGUF file on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlSource {
    /// Without user, password and fragment.
    pub(crate) url: Url,
    /// The file's name in the store.
    pub(crate) file_name: String,
    /// The SHA-256 that `#sha256=…` requires, in lower-case hexadecimal.
    pub(crate) sha256: Option<String>,
}

/// What the store has of a URL.
enum StoreStatus {
    /// The model, at this path.
    Present(PathBuf),
    /// Nothing that can be used. A file that exists is to be replaced where `replace` is set.
    Missing { replace: bool },
}

impl ModelSource for UrlSource {
    const EXAMPLE: &'static str = "https://…/x.gguf";
    const HAS_REVISIONS: bool = false;

    fn parse(text: &str) -> Option<Result<Self>> {
        (has_scheme(text, "https") || has_scheme(text, "http")).then(|| Self::parse_url(text))
    }

    /// # Errors
    /// [`Code::ModelExists`] where another model has the name; [`Code::SourceNotFound`] and
    /// [`Code::SourceRefused`] for the URL.
    async fn resolve(&self, request: &DownloadRequest, places: &Places) -> Result<Resolution> {
        let resolved = self.resolve_url(request, places).await;
        resolved.map_err(|failure| failure.stage("preflight"))
    }
}

impl UrlSource {
    fn parse_url(text: &str) -> Result<Self> {
        let mut url = Url::parse(text).map_err(|error| {
            invalid("it is not a valid URL", "write it as https://host/path/model.gguf").cause(&error)
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("a URL must not hold a user or a password", "leave them out"));
        }
        let sha256 = match url.fragment() {
            None | Some("") => None,
            Some(fragment) => {
                let digits = fragment.strip_prefix("sha256=").map(str::to_ascii_lowercase);
                Some(digits.filter(|digits| is_sha256(digits)).ok_or_else(|| {
                    invalid(
                        "what follows # in the URL is not understood",
                        "write #sha256= and 64 hexadecimal digits",
                    )
                })?)
            }
        };
        url.set_fragment(None);
        let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
        let name = percent_decode_str(last).decode_utf8_lossy().into_owned();
        if !is_model_name(&name) {
            return Err(Failure::new(
                Code::SourceUnsupported,
                format!("the URL's file '{name}' is not the file of a model"),
            )
            .hint("the URL's path must end in the name of a .gguf file that is a model by itself"));
        }
        if let Some(part) = SplitPart::parse(&name) {
            return Err(Failure::new(
                Code::SourceUnsupported,
                format!(
                    "{name} is one of the {} parts of a split model, which cannot be downloaded by URL",
                    part.count
                ),
            )
            .hint("download all parts into one folder yourself and import the first with file:/path"));
        }
        let file_name = store::file_name(&name);
        Ok(Self { url, file_name, sha256 })
    }

    /// The URL without its query, which may hold a signature.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    fn record(&self, size_bytes: u64, sha256: Option<String>) -> StoreRecord {
        let file = RecordedFile::new(self.file_name.clone(), size_bytes, None);
        StoreRecord {
            // Tells one URL from another without keeping its query.
            url_sha256: Some(hex(&Sha256::digest(self.url.as_str()))),
            sha256,
            ..StoreRecord::new(self.shown(), vec![file])
        }
    }

    async fn resolve_url(&self, request: &DownloadRequest, places: &Places) -> Result<Resolution> {
        let (source, library, force) = (self.clone(), Arc::clone(&places.library), request.force);
        let replace = match spawn::blocking(move || source.store_status(&library, force)).await?? {
            StoreStatus::Present(path) => return Ok(Resolution::Present(path)),
            StoreStatus::Missing { replace } => replace,
        };
        let fetcher = Fetcher::new(&places.fetch, &Trust::Named, &self.url);
        let size = fetcher.size_of(&self.url, Purpose::Model).await?;
        let file = RemoteFile {
            purpose: Purpose::Model,
            name: self.file_name.clone(),
            source: self.shown(),
            url: self.url.clone(),
            credentials: None,
            size,
            sha256: self.sha256.clone(),
            version: None,
            companion_of: None,
            magic: GGUF_MAGIC,
            vet: vet_model,
            trust: Trust::Named,
        };
        let destination = self.destination(&places.library, replace);
        let (library, source, path) = (Arc::clone(&places.library), self.clone(), destination.target.clone());
        Ok(Resolution::Fetch(ResolvedModel {
            model: stem(&self.file_name).to_owned(),
            source: self.shown(),
            revision: None,
            gated: None,
            architecture: None,
            remarks: Vec::new(),
            files: vec![(file, destination)],
            commit: Box::new(move |_: &[StoredFile]| source.check_stored(&library).map(|()| path)),
        }))
    }

    /// Whether this very URL was downloaded before and is sound. Blocks on the disk.
    fn store_status(&self, library: &Library, force: bool) -> Result<StoreStatus> {
        let (store, name) = (library.store(), &self.file_name);
        let replace = match store.name_status(&self.record(0, None), &library.probe())? {
            NameStatus::Free => false,
            NameStatus::OtherModel { .. } if self.is_half_replaced(library) => true,
            NameStatus::OtherModel { is_owned } if !(is_owned && force) => {
                return Err(name_taken(name, is_owned));
            }
            NameStatus::SameModel if !force => {
                let path = store.path(name);
                let sha256 = store.record(name).and_then(|record| record.sha256);
                let problem = if matches!(check_model(&path), Err(Refusal::Unusable(_))) {
                    "but damaged"
                } else if self.sha256.is_some() && sha256 != self.sha256 {
                    "with other contents"
                } else {
                    return Ok(StoreStatus::Present(path));
                };
                n!(warn: "model_download_present", "{name} is here, {problem}: downloading it again");
                true
            }
            NameStatus::SameModel | NameStatus::OtherModel { .. } => {
                n!("model_download_present", "The {name} that is here will be replaced");
                true
            }
        };
        Ok(StoreStatus::Missing { replace })
    }

    /// Whether the record is of this URL already, and its file still a partial: a hive was killed
    /// between writing the record and renaming the file.
    fn is_half_replaced(&self, library: &Library) -> bool {
        let store = library.store();
        let wanted = self.record(0, None);
        store.record(&self.file_name).is_some_and(|record| record.has_same_source(&wanted))
            && partial::unfinished_at(&store.partial_path(&self.file_name), None).is_some()
    }

    fn destination(&self, library: &Arc<Library>, replace: bool) -> Destination {
        let store = library.store();
        let (library, source) = (Arc::clone(library), self.clone());
        Destination {
            partial: store.partial_path(&self.file_name),
            target: store.path(&self.file_name),
            lock: None,
            replace,
            empty_folders: Vec::new(),
            accept: Arc::new(move |path, stored| {
                check_model(path)?;
                let record = source.record(stored.size, stored.sha256.clone());
                library.store().write_record(&record).map_err(Refusal::Unfinished)
            }),
        }
    }

    /// Checks that the store's model is the one of this URL: another job may have replaced it. Blocks
    /// on the disk.
    fn check_stored(&self, library: &Library) -> Result<()> {
        match library.store().name_status(&self.record(0, None), &library.probe())? {
            NameStatus::SameModel => Ok(()),
            NameStatus::OtherModel { is_owned } => Err(name_taken(&self.file_name, is_owned)),
            NameStatus::Free => Err(Failure::new(
                Code::ModelNotFound,
                format!("{} was removed from the disk meanwhile", self.file_name),
            )
            .hint("another program removed it: try again")),
        }
    }
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    text.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_parsed_into_name_hash_and_what_is_shown() {
        let source = |text: &str| UrlSource::parse(text).unwrap().unwrap();
        let digits = "AB".repeat(32);
        let url = source(&format!("https://h.example/a/b%2e%20c.gguf?signature=s#sha256={digits}"));
        assert_eq!(url.file_name, "b.-c.gguf");
        assert_eq!(url.sha256, Some(digits.to_lowercase()));
        assert_eq!(url.shown(), "https://h.example/a/b%2e%20c.gguf");
        assert_eq!(source("https://h/..%2f..%2fetc%2fx.gguf").file_name, "-.-..-etc-x.gguf");
        assert_eq!(source("https://h/50%+1.gguf").file_name, "50-+1.gguf");
        assert!(UrlSource::parse("ftp://h/x.gguf").is_none());
    }
}
