//! Ollama's library: `ollama:[namespace/]name[:tag]`, through the OCI distribution API
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>).
//!
//! A manifest lists layers; the one of Ollama's media type for models is a GGUF file, named by the
//! SHA-256 of its contents. The file goes into the store. Names and digests become parts of URLs and of
//! file names, so both have narrow grammars, and a `WWW-Authenticate` that names a server is never
//! followed.

use std::fmt;
use std::sync::Arc;

use reqwest::{Method, StatusCode, Url};
use sha2::{Digest, Sha256};

use crate::error::{Code, Failure, Result};
use crate::models::library::headers::{check_projector, vet_model, vet_projector};
use crate::models::library::ollama_store::{Descriptor, Layers as Parts, Manifest};
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::library::split::stem;
use crate::models::library::store::{self, projector_name};
use crate::models::sources::in_store::{first, further};
use crate::models::sources::places::Places;
use crate::models::sources::registry::{self, RegistryRequest, RegistryResponse};
use crate::models::sources::request::DownloadRequest;
use crate::models::sources::resolution::{ModelSource, Resolution, ResolvedModel};
use crate::models::transfer::fetch::{FetchConfig, Fetcher};
use crate::models::transfer::purpose::Purpose;
use crate::models::transfer::remote::{GGUF_MAGIC, ModelFile, RemoteFile, Trust, Vet};
use crate::text::{bytes, excerpt, hex};
use crate::{n, spawn};

const MANIFEST: &str =
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
/// What a name begins with, as it is written and as it is copied. A longer one stands before its beginning.
const PREFIXES: [&str; 8] = [
    "ollama://",
    "ollama:",
    "https://ollama.com/library/",
    "https://ollama.com/",
    "ollama.com/library/",
    "ollama.com/",
    "https://registry.ollama.ai/",
    "registry.ollama.ai/",
];

/// A model of Ollama's library, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaName {
    /// `library`, or the name of a user or an organisation.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) tag: String,
}

/// The file of a model, as the registry's manifest states it.
#[derive(Debug)]
struct Layer {
    url: Url,
    /// In bytes.
    size: u64,
    /// In lower-case hexadecimal.
    sha256: String,
}

/// A model, as the registry's manifest states it.
#[derive(Debug)]
struct Layers {
    model: Layer,
    projector: Option<Layer>,
    /// The kinds of the other layers that say something of the model.
    left_out: Vec<String>,
    /// The manifest's digest, `sha256:…`: the version of the whole model.
    manifest: String,
}

impl ModelSource for OllamaName {
    const EXAMPLE: &'static str = "ollama:name:tag for a model of Ollama's library";
    const HAS_REVISIONS: bool = false;

    fn parse(text: &str) -> Option<Result<Self>> {
        let after = |prefix: &&str| text.strip_prefix(*prefix);
        PREFIXES.iter().find_map(after).map(|name| Self::parse_name(name.trim_end_matches('/')))
    }

    /// # Errors
    /// [`Code::SourceNotFound`], [`Code::SourceUnauthorized`], [`Code::ModelUnsupported`] for what is
    /// not a single GGUF file; [`Code::ModelExists`] where another model has the name; those of the
    /// transport.
    async fn resolve(&self, request: &DownloadRequest, places: &Places) -> Result<Resolution> {
        let resolved = self.resolve_name(request, places).await;
        resolved.map(Resolution::Fetch).map_err(|failure| failure.stage("preflight"))
    }
}

impl OllamaName {
    /// Parses a name without a prefix: `[namespace/]name[:tag]`.
    pub(crate) fn parse_name(text: &str) -> Result<Self> {
        let (path, tag) = text.split_once(':').unwrap_or((text, "latest"));
        let (namespace, name) = path.split_once('/').unwrap_or(("library", path));
        if [namespace, name, tag].into_iter().all(is_component) {
            return Ok(Self { namespace: namespace.into(), name: name.into(), tag: tag.into() });
        }
        Err(Failure::new(
            Code::InvalidField,
            format!("model: '{}' is not a name of Ollama's library", excerpt(text)),
        )
        .hint("write ollama:name, ollama:name:tag or ollama:user/name:tag, as on the library's pages"))
    }

    async fn resolve_name(&self, request: &DownloadRequest, places: &Places) -> Result<ResolvedModel> {
        let endpoint = &places.ollama;
        n!("ollama_ask", "Asking {} for {self}", endpoint.host_str().unwrap_or_default());
        let layers = self.layers(endpoint, &places.fetch).await?;
        n!("ollama_chosen", "{self} is {} ({})", layers.manifest, bytes(layers.model.size));
        if !layers.left_out.is_empty() {
            n!(warn: "ollama_left_out", "Left out of {self}: its {}; the file's own chat template and the settings \
                of each request apply", layers.left_out.join(", "));
        }
        let record = self.record(&layers);
        let (file_name, path) = (record.name().to_owned(), places.library.store().path(record.name()));
        let (library, force) = (Arc::clone(&places.library), request.force);
        let destinations = spawn::blocking(move || {
            let projector = record.projector.as_ref();
            let projector = projector.map(|file| further(&library, file, check_projector, force));
            Ok::<_, Failure>(
                std::iter::once(first(&library, record.clone(), force)?).chain(projector).collect::<Vec<_>>(),
            )
        })
        .await??;
        let file = |layer: Layer, name: &str, companion_of, vet| RemoteFile {
            purpose: Purpose::Model,
            name: name.to_owned(),
            source: self.to_string(),
            url: layer.url,
            credentials: None,
            size: Some(layer.size),
            sha256: Some(layer.sha256.clone()),
            version: Some(layer.sha256),
            companion_of,
            magic: GGUF_MAGIC,
            vet,
            trust: Trust::Endpoint(endpoint.clone()),
        };
        let model = ModelFile { name: file_name.clone(), target: file_name.clone() };
        let projector = |layer| file(layer, &projector_name(&file_name), Some(model), vet_projector as Vet);
        let mut files = vec![file(layers.model, &file_name, None, vet_model)];
        files.extend(layers.projector.map(projector));
        Ok(ResolvedModel {
            model: stem(&file_name).to_owned(),
            source: self.to_string(),
            revision: Some(layers.manifest),
            gated: None,
            architecture: None,
            remarks: Vec::new(),
            files: files.into_iter().zip(destinations).collect(),
            commit: Box::new(move |_| Ok(path)),
        })
    }

    fn record(&self, layers: &Layers) -> StoreRecord {
        let name = store::file_name(&self.file_name());
        let projector = layers.projector.as_ref().map(|layer| RecordedFile {
            sha256: Some(layer.sha256.clone()),
            ..RecordedFile::new(projector_name(&name), layer.size, None)
        });
        StoreRecord {
            revision: Some(layers.manifest.clone()),
            sha256: Some(layers.model.sha256.clone()),
            projector,
            left_out: layers.left_out.clone(),
            ..StoreRecord::new(self.to_string(), vec![RecordedFile::new(name, layers.model.size, None)])
        }
    }

    /// The name of the model's file, before the limits of names in the store.
    fn file_name(&self) -> String {
        let user = if self.namespace == "library" { String::new() } else { format!("{}-", self.namespace) };
        format!("{user}{}-{}.gguf", self.name, self.tag)
    }

    /// Asks the registry at `endpoint` for the model's manifest.
    async fn layers(&self, endpoint: &Url, config: &FetchConfig) -> Result<Layers> {
        let fetcher = Fetcher::new(config, &Trust::Endpoint(endpoint.clone()), endpoint);
        let url = self.url(endpoint, "manifests", &self.tag)?;
        let request = RegistryRequest { method: Method::GET, url, credentials: None, accept: MANIFEST };
        let response = registry::send(&request, &fetcher, &config.timers).await?;
        if !response.status.is_success() {
            return Err(self.refusal(response));
        }
        let unusable = |what: &str| {
            Failure::new(Code::DownloadFailed, format!("{} answered {what}", response.host))
                .hint("check [ollama] endpoint: is it a registry of this kind?")
        };
        let manifest: Manifest = serde_json::from_slice(&response.body)
            .map_err(|_| unusable("something that is not a manifest"))?;
        let unsupported = |why: &str| {
            Failure::new(Code::ModelUnsupported, format!("{self} {why}"))
                .hint("choose another tag, or the same model on the Hugging Face Hub")
        };
        let Parts { model, projector, left_out } =
            manifest.layers().map_err(|why| unsupported(&why.to_string()))?;
        let layer = |layer: Descriptor| {
            let sha256 = layer.sha256().ok_or_else(|| unusable("with an invalid digest"))?.to_owned();
            Ok::<_, Failure>(Layer {
                url: self.url(endpoint, "blobs", &layer.digest)?,
                size: layer.size,
                sha256,
            })
        };
        Ok(Layers {
            model: layer(model)?,
            projector: projector.map(layer).transpose()?,
            left_out,
            manifest: format!("sha256:{}", hex(&Sha256::digest(&response.body))),
        })
    }

    fn url(&self, endpoint: &Url, kind: &str, reference: &str) -> Result<Url> {
        let base = endpoint.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/v2/{}/{}/{kind}/{reference}", self.namespace, self.name))
            .map_err(|error| Failure::internal("a URL of a registry could not be made").detail(error))
    }

    /// What the registry means by a status other than success.
    fn refusal(&self, response: RegistryResponse) -> Failure {
        match response.status {
            StatusCode::NOT_FOUND => {
                Failure::new(Code::SourceNotFound, format!("{} has no {self}", response.host)).hint(format!(
                    "check the name and the tag; https://ollama.com/{}/{}/tags lists them",
                    self.namespace, self.name
                ))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::new(
                Code::SourceUnauthorized,
                format!("{} requires a token for {self} ({})", response.host, response.status.as_u16()),
            )
            .hint("only public models can be downloaded: check the name"),
            _ => response.unexpected,
        }
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
    fn names_have_defaults_and_no_path_segments() {
        let shown = |text: &str| OllamaName::parse(text).unwrap().unwrap().to_string();
        assert_eq!(shown("ollama:smollm"), "ollama:smollm:latest");
        assert_eq!(shown("ollama:u/m:7b"), "ollama:u/m:7b");
        for copied in ["ollama://m:7b", "https://ollama.com/library/m:7b", "registry.ollama.ai/library/m:7b"]
        {
            assert_eq!(shown(copied), "ollama:m:7b");
        }
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
