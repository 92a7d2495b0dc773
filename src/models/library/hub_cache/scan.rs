//! Finds the models and the unfinished downloads of the Hugging Face cache.

use std::fs;
use std::path::{Path, PathBuf};

use super::layout::{is_repository, target_of};
use crate::models::library::file_name::name_of;
use crate::models::library::folders::{EntryKind, FolderEntry};
use crate::models::library::location::{HubCacheModel, ModelLocation, PartialModel, ScannedModel};
use crate::models::library::probe::DiskProbe;
use crate::models::library::split::group_by_model;
use crate::models::library::walk::{LinkPolicy, gguf_files};

/// The models in the cache; of each repository, those of `main` first. A cache that does not exist has
/// none.
pub(crate) fn models(cache: &Path, probe: &DiskProbe<'_>) -> Vec<ScannedModel> {
    let mut models = Vec::new();
    for folder in folders_in(cache, probe) {
        let name = name_of(&folder);
        let Some(repo) = name.strip_prefix("models--").map(|name| name.replace("--", "/")) else { continue };
        let main = probe.text(&folder.join("refs/main")).unwrap_or_default();
        let mut snapshots: Vec<_> = folders_in(&folder.join("snapshots"), probe)
            .into_iter()
            .map(|path| (name_of(&path) == main.trim(), path))
            .collect();
        snapshots.sort_by_key(|(is_main, _)| !is_main);
        for (is_main, snapshot) in snapshots {
            for files in group_by_model(gguf_files(&snapshot, LinkPolicy::Keep, probe)) {
                let relative = files.paths[0].strip_prefix(&snapshot).unwrap_or(&files.paths[0]);
                let model = HubCacheModel {
                    repo: repo.clone(),
                    revision: name_of(&snapshot),
                    relative: relative.to_string_lossy().into_owned(),
                    is_main,
                    folder: folder.clone(),
                };
                models.push(ScannedModel { files, location: ModelLocation::HubCache(model) });
            }
        }
    }
    models
}

/// The hive's unfinished downloads into the cache that can be resumed and whose blob does not exist.
pub(crate) fn partials(cache: &Path, probe: &DiskProbe<'_>) -> Vec<PartialModel> {
    let partial_model = |path: &Path| {
        let target = target_of(path).filter(|target| fs::symlink_metadata(target).is_err())?;
        let unfinished = probe.unfinished(path)?;
        Some(PartialModel { partial: path.to_owned(), target, unfinished })
    };
    let mut partials = Vec::new();
    for repository in folders_in(cache, probe).iter().filter(|folder| is_repository(folder)) {
        if let Some(blobs) = probe.folder_if_readable(&repository.join("blobs")) {
            partials.extend(blobs.entries.iter().filter_map(|blob| partial_model(&blob.path)));
        }
    }
    partials
}

/// The folders in a folder, and the links in it, which may lead to folders.
fn folders_in(path: &Path, probe: &DiskProbe<'_>) -> Vec<PathBuf> {
    let Some(folder) = probe.folder_if_readable(path) else { return Vec::new() };
    let is_folder = |entry: &&FolderEntry| matches!(entry.kind, EntryKind::Folder | EntryKind::Link(_));
    folder.entries.iter().filter(is_folder).map(|entry| entry.path.clone()).collect()
}
