//! Deletes a model from the Hugging Face cache.

use std::path::{Path, PathBuf};

use super::layout::blob_of;
use super::notes::HubNotes;
use crate::disk;
use crate::error::Result;
use crate::files;
use crate::models::library::location::{HubCacheModel, ModelOwner};
use crate::models::library::removal::remove_file;
use crate::n;

/// Deletes the links of a model from its snapshot, each blob that no other snapshot links to, and
/// the folders of that repository that become empty. Returns the bytes that this frees.
pub(crate) fn remove_model(model: &HubCacheModel, links: &[PathBuf], notes: &HubNotes) -> Result<u64> {
    let blobs = model.folder.join("blobs").canonicalize().ok();
    let mut freed = 0;
    for link in links {
        let blob = blob_of(link).filter(|blob| blob.parent() == blobs.as_deref() && blob != link);
        freed += remove_file(link)?;
        if let Some(blob) = blob {
            if is_referenced(&model.folder, &blob) {
                n!("model_delete", "Kept {}: another snapshot of {} uses it", blob.display(), model.repo);
            } else {
                freed += remove_file(&blob)?;
                notes.remove(&blob);
            }
        }
        remove_empty_folders(link, &model.folder.join("snapshots"));
    }
    remove_refs(model);
    remove_empty_repository(&model.folder);
    Ok(freed)
}

/// Deletes a blob to which no snapshot links, if the hive put it there, and the folders of its
/// repository that become empty. Returns the bytes that this frees.
pub(crate) fn remove_unlinked(blob: &Path, notes: &HubNotes) -> Result<u64> {
    let Some(repository) = blob.parent().and_then(Path::parent) else { return Ok(0) };
    if notes.owner_of(blob) != ModelOwner::Hive || is_referenced(repository, blob) {
        return Ok(0);
    }
    let freed = remove_file(blob)?;
    notes.remove(blob);
    remove_empty_repository(repository);
    Ok(freed)
}

fn remove_empty_repository(repository: &Path) {
    for name in ["blobs", "snapshots", "refs", ""] {
        // The system refuses to remove a folder that has something in it.
        let _ = disk::remove_dir(repository.join(name));
    }
}

fn is_referenced(repository: &Path, blob: &Path) -> bool {
    walkdir::WalkDir::new(repository.join("snapshots"))
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.path_is_symlink())
        .any(|entry| blob_of(entry.path()).is_some_and(|target| target == blob))
}

/// Removes the folders above `path` that are empty, up to `root` and without it.
fn remove_empty_folders(path: &Path, root: &Path) {
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != root && folder.starts_with(root)) {
        if disk::remove_dir(folder).is_err() {
            break;
        }
    }
}

/// Removes the refs to the model's snapshot where that is gone: huggingface_hub warns of such refs.
fn remove_refs(model: &HubCacheModel) {
    if model.folder.join("snapshots").join(&model.revision).exists() {
        return;
    }
    let refs = model.folder.join("refs");
    // A revision such as refs/pr/1 has folders of its own.
    let references = walkdir::WalkDir::new(&refs).into_iter().filter_map(Result::ok);
    for reference in references.filter(|entry| entry.file_type().is_file()) {
        let path = reference.path();
        if files::read_text(path).is_ok_and(|commit| commit.trim() == model.revision) {
            // A ref that cannot be removed does no harm.
            let _ = disk::remove_file(path);
            remove_empty_folders(path, &refs);
        }
    }
}
