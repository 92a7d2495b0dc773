//! Ollama's library: `ollama:[namespace/]name[:tag]`, through the OCI distribution API
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>).
//!
//! A manifest lists layers; the one of Ollama's media type for models is a GGUF file, named by the
//! SHA-256 of its contents. Names and digests become parts of URLs and of file names, so both have
//! narrow grammars, and a `WWW-Authenticate` that names a server is never followed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ask::{Answer, Question, ask};
use super::is_sha256;
use crate::error::{Code, Failure, Result};
use crate::models::Catalog;
use crate::models::catalog::Inner;
use crate::models::catalog::import::{Present, exists};
use crate::models::library::headers::{accept_model, sound_model};
use crate::models::library::split;
use crate::models::library::store::{self, Record, RecordedFile};
use crate::models::plan::Request;
use crate::models::transfer::fetch::{FetchConfig, Fetcher};
use crate::models::transfer::remote::{
    Destination, GGUF_MAGIC, Refusal, RemoteFile, Resolved, StoredFile, Trust,
};
use crate::models::units;
use crate::n;

const MANIFEST: &str =
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
const MODEL_LAYER: &str = "application/vnd.ollama.image.model";

/// A model of Ollama's library, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaName {
    namespace: String,
    name: String,
    tag: String,
}

/// Where the model's file is, and what it is.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) url: Url,
    /// In bytes.
    pub(crate) size: u64,
    /// In lower-case hexadecimal.
    pub(crate) sha256: String,
    /// The manifest's digest, `sha256:…`: the version of the whole model.
    pub(crate) manifest: String,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl OllamaName {
    /// Understands a name. `None` where the text is none of Ollama's.
    pub(crate) fn parse(text: &str) -> Option<Result<Self>> {
        text.strip_prefix("ollama:").map(Self::understand)
    }

    fn understand(text: &str) -> Result<Self> {
        let (path, tag) = text.split_once(':').unwrap_or((text, "latest"));
        let (namespace, name) = path.split_once('/').unwrap_or(("library", path));
        if [namespace, name, tag].into_iter().all(is_component) {
            return Ok(Self { namespace: namespace.into(), name: name.into(), tag: tag.into() });
        }
        Err(Failure::new(
            Code::InvalidField,
            format!("model: '{}' is no name of Ollama's library", crate::text::excerpt(text)),
        )
        .hint("write ollama:name, ollama:name:tag or ollama:user/name:tag, as on the library's pages"))
    }

    /// What the model's file would be called if names had no limits.
    pub(crate) fn file_name(&self) -> String {
        let user = if self.namespace == "library" { String::new() } else { format!("{}-", self.namespace) };
        format!("{user}{}-{}.gguf", self.name, self.tag)
    }

    /// Asks the registry at `endpoint` for the model's layer.
    ///
    /// # Errors
    /// [`Code::SourceNotFound`], [`Code::SourceUnauthorized`], [`Code::ModelUnsupported`] for what
    /// is no single GGUF file, and those of the transport.
    pub(crate) async fn layer(&self, endpoint: &Url, config: &FetchConfig) -> Result<Layer> {
        let fetcher = Fetcher::new(config, &Trust::Endpoint(endpoint.clone()), endpoint);
        let url = self.url(endpoint, "manifests", &self.tag)?;
        let question = Question { method: Method::GET, url, credentials: None, accept: MANIFEST };
        let answer = ask(&question, &fetcher, &config.timers).await?;
        if !answer.status.is_success() {
            return Err(self.refusal(answer));
        }
        let unusable = |what: &str| {
            Failure::new(Code::DownloadFailed, format!("{} answered {what}", answer.host))
                .hint("check [ollama] endpoint: is it a registry of this kind?")
        };
        let manifest: Manifest =
            serde_json::from_slice(&answer.body).map_err(|_| unusable("something that is no manifest"))?;
        let mut models = manifest.layers.into_iter().filter(|layer| layer.media_type == MODEL_LAYER);
        let (Some(layer), None) = (models.next(), models.next()) else {
            return Err(Failure::new(
                Code::ModelUnsupported,
                format!("{self} is not one GGUF file: it runs in a cloud, or has another format"),
            )
            .hint("choose another tag, or the same model on the Hugging Face Hub"));
        };
        let sha256 = layer.digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits));
        let sha256 = sha256.ok_or_else(|| unusable("with a digest that is none"))?.to_owned();
        Ok(Layer {
            url: self.url(endpoint, "blobs", &layer.digest)?,
            size: layer.size,
            sha256,
            manifest: format!("sha256:{}", units::hex(&Sha256::digest(&answer.body))),
        })
    }

    fn url(&self, endpoint: &Url, kind: &str, reference: &str) -> Result<Url> {
        let base = endpoint.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/v2/{}/{}/{kind}/{reference}", self.namespace, self.name))
            .map_err(|error| Failure::internal("a URL of a registry could not be made").detail(error))
    }

    fn refusal(&self, answer: Answer) -> Failure {
        match answer.status {
            StatusCode::NOT_FOUND => {
                Failure::new(Code::SourceNotFound, format!("{} has no {self}", answer.host)).hint(format!(
                    "check the name and the tag; https://ollama.com/{}/{}/tags lists them",
                    self.namespace, self.name
                ))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::new(
                Code::SourceUnauthorized,
                format!("{} does not give {self} to everybody ({})", answer.host, answer.status.as_u16()),
            )
            .hint("only public models can be fetched: check the name"),
            _ => answer.unexpected,
        }
    }
}

impl Catalog {
    /// Resolves a model of Ollama's library: it goes into the store.
    ///
    /// # Errors
    /// Those of [`OllamaName::layer`]; [`Code::ModelExists`] where another model has its name.
    pub(crate) async fn resolve_ollama(&self, name: &OllamaName, request: &Request) -> Result<Resolved> {
        let endpoint = &self.0.ollama;
        n!("ollama_ask", "Asking {} for {name}", endpoint.host_str().unwrap_or_default());
        let layer = name.layer(endpoint, &self.0.fetch).await?;
        n!("ollama_chosen", "{name} is {} ({})", layer.manifest, units::bytes(layer.size));
        let file_name = store::file_name(&name.file_name());
        let file = RecordedFile { name: file_name.clone(), size_bytes: layer.size, link: None };
        let record = Record {
            source: name.to_string(),
            url_sha256: None,
            revision: Some(layer.manifest.clone()),
            sha256: Some(layer.sha256.clone()),
            files: vec![file],
        };
        let (catalog, force) = (self.clone(), request.force);
        let destination = self.on_pool(move |inner| inner.place_of_layer(catalog, record, force)).await??;
        let remote = RemoteFile {
            name: file_name.clone(),
            source: name.to_string(),
            url: layer.url,
            credentials: None,
            size: Some(layer.size),
            sha256: Some(layer.sha256.clone()),
            version: Some(layer.sha256),
            magic: GGUF_MAGIC,
            trust: Trust::Endpoint(endpoint.clone()),
        };
        let path = self.0.store.path(&file_name);
        Ok(Resolved {
            model: split::stem(&file_name).to_owned(),
            source: name.to_string(),
            revision: Some(layer.manifest),
            gated: None,
            remarks: Vec::new(),
            files: vec![(remote, destination)],
            commit: Box::new(move |_| Ok(path)),
        })
    }
}

impl Inner {
    fn place_of_layer(&self, catalog: Catalog, record: Record, force: bool) -> Result<Destination> {
        let name = record.files[0].name.clone();
        let target = self.store.path(&name);
        let replace = match self.present(&record) {
            Present::No => force,
            Present::Other { owned } if !(owned && force) => return Err(exists(&name, owned)),
            Present::Other { .. } => true,
            Present::Same => {
                let known = self.store.record(&name).and_then(|known| known.sha256);
                let is_current = known == record.sha256 && sound_model(&target).is_ok();
                if !is_current {
                    n!("model_download_present", "The {name} that is here is another version, or damaged");
                }
                force || !is_current
            }
        };
        Ok(Destination {
            partial: self.store.partial_path(&name),
            target,
            lock: None,
            replace,
            empty_folders: Vec::new(),
            accept: Arc::new(move |path: &Path, _: &StoredFile| {
                accept_model(path)?;
                // The record comes first: a record without its file is ignored, and a file without its
                // record would not be the hive's own.
                catalog.0.store.write_record(&record).map_err(Refusal::Unfinished)
            }),
        })
    }
}

impl fmt::Display for OllamaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.namespace == "library" { String::new() } else { format!("{}/", self.namespace) };
        write!(f, "ollama:{user}{}:{}", self.name, self.tag)
    }
}

/// A part of a name: what the distribution specification allows for a tag.
fn is_component(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_defaults_and_cannot_climb() {
        let shown = |text: &str| OllamaName::parse(text).unwrap().unwrap().to_string();
        assert_eq!(shown("ollama:smollm"), "ollama:smollm:latest");
        assert_eq!(shown("ollama:u/m:7b"), "ollama:u/m:7b");
        let name = OllamaName::parse("ollama:u/m:7b").unwrap().unwrap();
        assert_eq!(name.file_name(), "u-m-7b.gguf");
        for text in
            ["ollama:", "ollama:a:", "ollama:../x", "ollama:a/b/c", "ollama:a b", "ollama:a:b:c", "ollama:.a"]
        {
            assert_eq!(OllamaName::parse(text).unwrap().unwrap_err().code, Code::InvalidField, "{text}");
        }
        assert!(OllamaName::parse("org/repo").is_none());
    }
}
