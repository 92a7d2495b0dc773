//! The models of this machine as a registry of Ollama's has them: the manifests of Ollama's own stores as they are, and
//! for the other models that are one file of known SHA-256 a manifest that is made on the spot.
//!
//! Invariant: a manifest that is made says the same as long as the model is the same, so that what it names can be
//! found again.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Catalog;
use crate::error::Result;
use crate::models::library::Library;
use crate::models::library::hub_cache::layout::sha256_of;
use crate::models::library::listing::ListedModel;
use crate::models::library::location::ModelLocation;
use crate::models::library::ollama_store::{self, Manifest, StoredManifest};
use crate::models::library::probe::DiskProbe;
use crate::models::model::{Model, Status};
use crate::models::sources::OllamaName;
use crate::text::{count, hex};

/// The media type of manifests.
pub(crate) const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The tag of a name that has none.
const LATEST: &str = "latest";
/// What the Hub gives where no quantization is asked for, if a repository has it.
const USUAL: &str = "Q4_K_M";

/// A model, as a registry has it.
#[derive(Debug)]
pub(crate) struct RegistryModel {
    pub(crate) tag: String,
    /// The id of the model in the catalog; `None` where it is not listed.
    pub(crate) id: Option<String>,
    pub(crate) manifest: Arc<str>,
    /// What the manifest names as its configuration, where the hive has made that.
    pub(crate) config: Option<String>,
    /// Whether it is in the Hugging Face cache.
    pub(crate) is_of_hub: bool,
}

impl RegistryModel {
    /// Whether its manifest names the file with that SHA-256.
    pub(crate) fn names(&self, sha256: &str) -> bool {
        serde_json::from_str::<Manifest>(&self.manifest).is_ok_and(|manifest| manifest.names(sha256))
    }

    /// The configuration, if the hive has made it and it has that SHA-256.
    pub(crate) fn config_of(&self, sha256: &str) -> Option<&str> {
        self.config.as_deref().filter(|config| digest(config) == sha256)
    }
}

/// The model of that tag. The tag `latest` also means the quantization that is usual, or the only model.
pub(crate) fn of_tag(mut models: Vec<RegistryModel>, tag: &str) -> Option<RegistryModel> {
    let tagged = |tag: &str| models.iter().position(|model| model.tag.eq_ignore_ascii_case(tag));
    let only = || (models.len() == 1).then_some(0);
    let found = tagged(tag).or_else(|| (tag == LATEST).then(|| tagged(USUAL).or_else(only)).flatten());
    found.map(|at| models.swap_remove(at))
}

impl Catalog {
    /// The models that are called `namespace/name`, with all tags. Those of Ollama's library, and those that are of no
    /// library at all, have the namespace `library`.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer.
    pub(crate) async fn registry_models(&self, namespace: &str, name: &str) -> Result<Vec<RegistryModel>> {
        let Ok(name) = OllamaName::parse_name(&format!("{namespace}/{name}")) else { return Ok(Vec::new()) };
        self.look(move |catalog| {
            let library = &catalog.places.library;
            let listed = library.list(&catalog.transfers.of_models());
            let probe = library.probe();
            let stores =
                library.locations.user_folders.iter().filter(|root| ollama_store::is_store(root, &probe));
            let stored = stores
                .flat_map(|root| ollama_store::manifests_of(root, &name.namespace, &name.name, &probe))
                .map(|manifest| kept(manifest, &listed));
            let made = listed.iter().filter_map(|listed| made(listed, &name, library, &probe));
            stored.chain(made).collect()
        })
        .await
    }
}

/// A model of a store of Ollama's.
fn kept(stored: StoredManifest, listed: &[ListedModel]) -> RegistryModel {
    let StoredManifest { tag, text, model } = stored;
    let listed = listed.iter().find(|listed| Some(&listed.model.path) == model.as_ref());
    let id = listed.map(|listed| listed.model.id.clone());
    RegistryModel { tag, id, manifest: text, config: None, is_of_hub: false }
}

/// Another model, if it is called so and a registry can have it.
fn made(
    listed: &ListedModel,
    name: &OllamaName,
    library: &Library,
    probe: &DiskProbe<'_>,
) -> Option<RegistryModel> {
    let ListedModel { model, scanned, .. } = listed;
    let is_whole = matches!(model.status, Status::Available | Status::Unknown);
    if !is_whole || matches!(scanned.location, ModelLocation::OllamaStore(_)) {
        return None;
    }
    let tag = tag_of(model, name)?;
    let weights = layer("model", model.sha256.as_deref()?, model.size_bytes);
    let projector = model.projector.as_deref().and_then(|path| {
        let record = library.store().record_of(scanned, probe).and_then(|record| record.projector?.sha256);
        let sha256 = record.or_else(|| sha256_of(&probe.link(path)?))?;
        Some(layer("projector", &sha256, probe.metadata(path).ok()?.len()))
    });
    let layers: Vec<_> = std::iter::once(weights).chain(projector).collect();
    let config = config(model, &layers);
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": format!("sha256:{}", digest(&config)),
            "size": config.len(),
        },
        "layers": layers,
    });
    let is_of_hub = if let ModelLocation::HubCache(hub) = &scanned.location {
        // Where llama.cpp looks which files of the repository are meant.
        let snapshot = hub.folder.join("snapshots").join(&hub.revision);
        let beneath = |path: &Path| path.strip_prefix(&snapshot).ok()?.to_str().map(str::to_owned);
        let projector = model.projector.as_deref().and_then(beneath);
        manifest["ggufFile"] = json!({ "rfilename": hub.relative, "size": model.size_bytes });
        if let Some(projector) = projector {
            manifest["mmprojFile"] = json!({ "rfilename": projector });
        }
        true
    } else {
        false
    };
    let manifest = manifest.to_string().into();
    Some(RegistryModel { tag, id: Some(model.id.clone()), manifest, config: Some(config), is_of_hub })
}

/// The tag by which the model is called `name`: by the name that it has in Ollama's library, or by its id.
fn tag_of(model: &Model, name: &OllamaName) -> Option<String> {
    let names = [model.source.strip_prefix("ollama:"), Some(&*model.id)];
    let names = names.into_iter().flatten().filter_map(|text| OllamaName::parse_name(text).ok());
    let is_it = |called: &OllamaName| {
        called.namespace.eq_ignore_ascii_case(&name.namespace) && called.name.eq_ignore_ascii_case(&name.name)
    };
    names.into_iter().find(is_it).map(|called| called.tag)
}

fn layer(kind: &str, sha256: &str, size: u64) -> Value {
    json!({
        "mediaType": format!("application/vnd.ollama.image.{kind}"),
        "digest": format!("sha256:{sha256}"),
        "size": size,
    })
}

/// What Ollama shows of a model.
fn config(model: &Model, layers: &[Value]) -> String {
    let family = model.architecture.as_deref().unwrap_or_default();
    let digests: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
    json!({
        "model_format": model.format,
        "model_family": family,
        "model_families": [family],
        "model_type": model.parameter_count.map(count).unwrap_or_default(),
        "file_type": model.quantization.as_deref().unwrap_or_default(),
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": digests },
    })
    .to_string()
}

/// The SHA-256 of a text, in hexadecimal.
fn digest(text: &str) -> String {
    hex(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tag: &str) -> RegistryModel {
        let (config, weights) = (layer("x", &"c".repeat(64), 1), layer("model", &"a".repeat(64), 1));
        let manifest = json!({ "config": config, "layers": [weights] });
        RegistryModel {
            tag: tag.into(),
            id: None,
            manifest: manifest.to_string().into(),
            config: Some("{}".into()),
            is_of_hub: false,
        }
    }

    #[test]
    fn the_tag_latest_is_also_what_is_usual_or_the_only_one() {
        let found = |tags: &[&str], tag: &str| {
            of_tag(tags.iter().map(|tag| of(tag)).collect(), tag).map(|model| model.tag)
        };
        for (tags, tag, wanted) in [
            (&["Q8_0", "latest"][..], "latest", Some("latest")),
            (&["Q8_0", "Q4_K_M"], "latest", Some("Q4_K_M")),
            (&["Q8_0"], "latest", Some("Q8_0")),
            (&["Q8_0", "F16"], "latest", None),
            (&["Q8_0", "F16"], "q8_0", Some("Q8_0")),
            (&["Q8_0"], "Q4_0", None),
            (&[], "latest", None),
        ] {
            assert_eq!(found(tags, tag).as_deref(), wanted, "{tag} of {tags:?}");
        }
    }

    #[test]
    fn a_manifest_names_its_layers_and_its_configuration() {
        let model = of("latest");
        assert!(model.names(&"a".repeat(64)) && model.names(&"c".repeat(64)));
        assert!(!model.names(&"b".repeat(64)));
        assert_eq!(model.config_of(&digest("{}")), Some("{}"));
        assert_eq!(model.config_of(&"c".repeat(64)), None);
    }
}
