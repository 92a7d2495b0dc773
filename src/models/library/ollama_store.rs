//! Ollama's own store (`~/.ollama/models`), whose models are listed and used in place.
//!
//! Layout: `manifests/HOST/NAMESPACE/NAME/TAG` is the manifest of a model, as the registry has it; each layer that
//! it names is a file `blobs/sha256-…`, without an extension. Several manifests may name one file.
//!
//! The hive writes and removes nothing there: another tag may need the same file.

mod manifest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::models::library::file_name::name_of;
use crate::models::library::folders::EntryKind;
use crate::models::library::location::{ModelLocation, OllamaModel, ScannedModel};
use crate::models::library::probe::DiskProbe;
use crate::models::library::split::ModelFiles;
use crate::narration::Level;

pub(crate) use manifest::{Descriptor, Layers, Manifest};

/// The folders of a store.
const MANIFESTS: &str = "manifests";
const BLOBS: &str = "blobs";

/// The folder of the library's own models beneath `manifests`.
const LIBRARY: [&str; 2] = ["registry.ollama.ai", "library"];

/// The models of the store at `root`; `None` where that is no store of Ollama's.
pub(crate) fn models(root: &Path, probe: &DiskProbe<'_>) -> Option<Vec<ScannedModel>> {
    if !is_store(root, probe) {
        return None;
    }
    let (manifests, blobs) = (root.join(MANIFESTS), root.join(BLOBS));
    let mut models = Vec::new();
    for (path, name) in manifests_in(&manifests, probe) {
        let Some(text) = probe.text(&path) else { continue };
        match layers(&text) {
            Ok(layers) => models.push(scanned(&blobs, name, &layers)),
            Err(why) => {
                probe
                    .report_omission(Level::Debug, format!("{name} of Ollama's store {why}: it is left out"));
            }
        }
    }
    Some(models)
}

/// Whether there is a store of Ollama's at `root`.
pub(crate) fn is_store(root: &Path, probe: &DiskProbe<'_>) -> bool {
    [MANIFESTS, BLOBS]
        .iter()
        .all(|folder| probe.metadata(&root.join(folder)).is_ok_and(|found| found.is_dir()))
}

/// The path, in the store at `root`, of the file with that SHA-256.
pub(crate) fn blob_at(root: &Path, sha256: &str) -> PathBuf {
    blob_named(&root.join(BLOBS), sha256)
}

fn layers(manifest: &str) -> Result<Layers, String> {
    let manifest: Manifest =
        serde_json::from_str(manifest).map_err(|_| "has no manifest that can be read")?;
    manifest.layers().map_err(|why| why.to_string())
}

fn scanned(blobs: &Path, name: String, layers: &Layers) -> ScannedModel {
    let location = OllamaModel {
        name,
        sha256: layers.model.sha256().map(str::to_owned),
        projector: layers.projector.as_ref().map(|projector| blob(blobs, projector)),
        left_out: layers.left_out.clone(),
    };
    let files = ModelFiles { paths: vec![blob(blobs, &layers.model)], missing: None };
    ScannedModel { files, location: ModelLocation::OllamaStore(location) }
}

/// The file of a layer. A digest in another form names no file, so that none becomes a path elsewhere.
fn blob(blobs: &Path, layer: &Descriptor) -> PathBuf {
    blob_named(blobs, layer.sha256().unwrap_or("invalid"))
}

fn blob_named(blobs: &Path, sha256: &str) -> PathBuf {
    blobs.join(format!("sha256-{sha256}"))
}

/// The manifests, with the names under which Ollama knows them: `name:tag`, `user/name:tag`,
/// `hf.co/org/repo:tag`.
fn manifests_in(manifests: &Path, probe: &DiskProbe<'_>) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for host in folders_in(manifests, probe) {
        for namespace in folders_in(&host, probe) {
            for model in folders_in(&namespace, probe) {
                let Some(folder) = probe.folder_if_readable(&model) else { continue };
                let (host, namespace, model) = (name_of(&host), name_of(&namespace), name_of(&model));
                let place = match [&*host, &*namespace] {
                    LIBRARY => String::new(),
                    [host, _] if host == LIBRARY[0] => format!("{namespace}/"),
                    _ => format!("{host}/{namespace}/"),
                };
                let tags = folder.entries.iter().filter(|entry| entry.kind == EntryKind::File);
                found.extend(tags.map(|entry| {
                    (entry.path.clone(), format!("{place}{model}:{}", entry.name.to_string_lossy()))
                }));
            }
        }
    }
    found
}

fn folders_in(path: &Path, probe: &DiskProbe<'_>) -> Vec<PathBuf> {
    let Some(folder) = probe.folder_if_readable(path) else { return Vec::new() };
    let folders = folder.entries.iter().filter(|entry| entry.kind == EntryKind::Folder);
    folders.map(|entry| entry.path.clone()).collect()
}

/// The model of the store whose file is at `path`, if that is a file of such a store: the first name of it.
pub(crate) fn model_at(path: &Path, probe: &DiskProbe<'_>) -> Option<OllamaModel> {
    let blobs = path.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "blobs"))?;
    let all = models(blobs.parent()?, probe)?.into_iter().filter_map(|scanned| match scanned.location {
        ModelLocation::OllamaStore(model) if scanned.files.paths[0] == path => {
            Some((model.name.clone(), model))
        }
        _ => None,
    });
    all.collect::<BTreeMap<_, _>>().into_values().next()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::models::library::folders::FolderCache;

    fn manifest(layers: &[(&str, char)]) -> String {
        let layer = |(kind, digit): &(&str, char)| {
            serde_json::json!({"mediaType": format!("application/vnd.ollama.image.{kind}"),
                               "digest": format!("sha256:{}", digit.to_string().repeat(64)), "size": 1})
        };
        serde_json::json!({ "layers": layers.iter().map(layer).collect::<Vec<_>>() }).to_string()
    }

    #[test]
    fn models_have_the_names_that_ollama_gives_them() {
        let root = tempfile::tempdir().unwrap();
        let (cache, blobs) = (FolderCache::default(), root.path().join("blobs"));
        assert!(models(root.path(), &DiskProbe::new(&cache)).is_none());
        fs::create_dir_all(&blobs).unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join("manifests").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("registry.ollama.ai/library/small/135m", &manifest(&[("model", 'a'), ("license", 'b')]));
        put(
            "registry.ollama.ai/user/seen/latest",
            &manifest(&[("model", 'c'), ("projector", 'd'), ("template", 'e')]),
        );
        put("hf.co/org/repo/Q8_0", &manifest(&[("model", 'f')]));
        put("registry.ollama.ai/library/adapted/latest", &manifest(&[("model", 'a'), ("adapter", 'b')]));
        put("registry.ollama.ai/library/broken/latest", "{");
        put("registry.ollama.ai/library/sly/latest", &manifest(&[("model", 'a')]).replace("aaaa", "../a"));
        let found = models(root.path(), &DiskProbe::new(&cache)).unwrap();
        let mut found: Vec<_> = found
            .into_iter()
            .map(|scanned| match scanned.location {
                ModelLocation::OllamaStore(model) => {
                    (model.name.clone(), scanned.files.paths[0].clone(), model)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["hf.co/org/repo:Q8_0", "sly:latest", "small:135m", "user/seen:latest"]);
        let blob = |digit: &str| blobs.join(format!("sha256-{}", digit.repeat(64)));
        assert_eq!((&found[2].1, &found[2].2.sha256), (&blob("a"), &Some("a".repeat(64))));
        assert_eq!(
            (&found[3].2.projector, &*found[3].2.left_out),
            (&Some(blob("d")), &["template".to_owned()][..])
        );
        assert_eq!(found[1].1, blobs.join("sha256-invalid"), "no digest leads elsewhere");
        assert_eq!(model_at(&blob("c"), &DiskProbe::new(&cache)).unwrap().name, "user/seen:latest");
        assert_eq!(model_at(&blob("d"), &DiskProbe::new(&cache)), None);
    }
}
