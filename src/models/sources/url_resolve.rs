//! A model at a URL: asked for once to learn its size, and put into the store.

use std::sync::Arc;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};

use super::UrlSource;
use crate::error::{Code, Failure, Result};
use crate::models::catalog::Inner;
use crate::models::catalog::import::{self, Present};
use crate::models::library::headers::accept_model;
use crate::models::library::split;
use crate::models::library::store::{Record, RecordedFile};
use crate::models::plan::Request;
use crate::models::transfer::fetch::{FetchRequest, Fetcher};
use crate::models::transfer::partial;
use crate::models::transfer::remote::{
    Destination, GGUF_MAGIC, Refusal, RemoteFile, Resolved, StoredFile, Trust,
};
use crate::models::transfer::trouble::{Trouble, TroubleKind};
use crate::models::{Catalog, Model, Status};
use crate::n;
use crate::narration::waiting_for;

impl Catalog {
    /// The model, if this very URL was brought before and is sound; and whether what is there is to
    /// be replaced.
    pub(crate) async fn url_present(
        &self,
        source: &UrlSource,
        request: &Request,
    ) -> Result<(Option<Model>, bool)> {
        let (name, wanted) = (&source.file_name, record(source, 0, None));
        let (present, known) = self
            .on_pool({
                let name = name.clone();
                move |inner| (inner.present(&wanted), inner.store.record(&name))
            })
            .await?;
        match present {
            Present::No => Ok((None, false)),
            // A kill between the new record and the new file.
            Present::Other { .. } if self.is_half_replaced(source).await? => Ok((None, true)),
            Present::Other { owned } if !(owned && request.force) => Err(import::exists(name, owned)),
            Present::Same if !request.force => {
                let model = self.at(&self.0.store.path(name)).await?;
                let hash = known.and_then(|record| record.sha256);
                if model.status != Status::Available {
                    n!(warn: "model_download_present", "{name} is here, but damaged: fetching it again");
                    return Ok((None, true));
                }
                if source.sha256.is_some() && hash != source.sha256 {
                    n!(warn: "model_download_present", "{name} is here with other contents: fetching it again");
                    return Ok((None, true));
                }
                Ok((Some(model), false))
            }
            Present::Same | Present::Other { .. } => {
                n!("model_download_present", "The {name} that is here will be replaced");
                Ok((None, true))
            }
        }
    }

    /// Whether the record is of this URL already, and the file that it speaks of still a partial.
    async fn is_half_replaced(&self, source: &UrlSource) -> Result<bool> {
        let (name, wanted) = (source.file_name.clone(), record(source, 0, None));
        self.on_pool(move |inner| {
            let is_recorded = inner.store.record(&name).is_some_and(|record| record.is_from(&wanted));
            is_recorded && partial::unfinished_at(&inner.store.partial_path(&name), None).is_some()
        })
        .await
    }

    /// The one file of a URL.
    pub(crate) async fn resolve_url(&self, source: &UrlSource, replace: bool) -> Result<Resolved> {
        let host = source.url.host_str().unwrap_or_default();
        let fetcher = Fetcher::new(&self.0.fetch, &Trust::Named, &source.url);
        let size = {
            let _waiting = waiting_for(format!("{host} to answer"));
            n!(debug: "model_download_connect", "Asking {host}");
            size(&fetcher, source).await?
        };
        let file = RemoteFile {
            name: source.file_name.clone(),
            source: source.shown(),
            url: source.url.clone(),
            credentials: None,
            size,
            sha256: source.sha256.clone(),
            version: None,
            magic: GGUF_MAGIC,
            trust: Trust::Named,
        };
        let store = &self.0.store;
        let (accepting, target) = (Arc::clone(&self.0), store.path(&source.file_name));
        let (host, wanted) = (host.to_owned(), source.clone());
        let destination = Destination {
            partial: store.partial_path(&source.file_name),
            target: target.clone(),
            lock: None,
            replace,
            empty_folders: Vec::new(),
            accept: Arc::new(move |path, whole| {
                accept_model(path).map_err(|refusal| match refusal {
                    Refusal::Unusable(failure) => Refusal::Unusable(damaged(&host, failure)),
                    refusal => refusal,
                })?;
                // The record comes first: a record without its file is ignored, and a file without
                // its record would not be the hive's own.
                let record = record(&wanted, whole.size, whole.sha256.clone());
                accepting.store.write_record(&record).map_err(Refusal::Unfinished)
            }),
        };
        let (inner, wanted) = (Arc::clone(&self.0), source.clone());
        Ok(Resolved {
            model: split::stem(&source.file_name).to_owned(),
            source: source.shown(),
            revision: None,
            gated: None,
            remarks: Vec::new(),
            files: vec![(file, destination)],
            commit: Box::new(move |_: &[StoredFile]| inner.commit_url(&wanted).map(|()| target)),
        })
    }
}

impl Inner {
    /// Whether what is there now is what this job wanted.
    fn commit_url(&self, source: &UrlSource) -> Result<()> {
        match self.present(&record(source, 0, None)) {
            Present::Same => Ok(()),
            Present::Other { owned } => Err(import::exists(&source.file_name, owned)),
            Present::No => Err(Failure::new(
                Code::ModelNotFound,
                format!("{} is gone from the disk again", source.file_name),
            )
            .hint("something else removed it in the meantime: try again")),
        }
    }
}

/// Asks for the first byte: the answer tells how many there are, and that there is a file at all.
/// `HEAD` would not do, because signed URLs are for one method.
///
/// A server that is only busy or slow now is left to the transfer, which knows how to wait.
async fn size(fetcher: &Fetcher, source: &UrlSource) -> Result<Option<u64>> {
    let mut headers = HeaderMap::new();
    headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
    let asked = fetcher.follow(FetchRequest { headers, ..FetchRequest::get(&source.url, None) }).await;
    let later = |trouble: Trouble| match trouble.kind {
        TroubleKind::Fatal => Err(trouble.failure.stage("preflight")),
        _ => {
            n!(warn: "model_download_preflight", "{}", trouble.failure);
            Ok(None)
        }
    };
    let hop = match asked {
        Ok(hop) => hop,
        Err(trouble) => return later(trouble),
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match hop.response.status() {
        StatusCode::OK => Ok(hop.header(CONTENT_LENGTH).and_then(number)),
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            let range = hop.header(CONTENT_RANGE);
            Ok(range.and_then(|range| range.rsplit_once('/')).and_then(|(_, size)| number(size)))
        }
        _ => later(hop.trouble()),
    }
}

fn record(source: &UrlSource, size_bytes: u64, sha256: Option<String>) -> Record {
    Record {
        source: source.shown(),
        url_sha256: Some(source.digest()),
        revision: None,
        sha256,
        files: vec![RecordedFile { name: source.file_name.clone(), size_bytes, link: None }],
    }
}

fn damaged(host: &str, failure: Failure) -> Failure {
    let message = format!("the file that {host} sent is no usable model: {}", failure.message);
    Failure { message, ..failure }.stage("verify")
}
