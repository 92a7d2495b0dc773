//! Which blobs of the Hugging Face cache the hive put there.
//!
//! The cache is shared, and nothing in it says who wrote a file. So the hive keeps a note of each blob
//! that it fetched in its own data folder: `hub/models--org--repo/ETAG.json`. A blob whose note still
//! matches is the hive's own to delete; any other takes `force`. A note that matches no blob is removed
//! when the hive starts.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::{CacheRepository, blob_of};
use crate::error::{Failure, Result};
use crate::files;
use crate::models::library::file_name::name_of;
use crate::models::library::probe::paths_in;

/// The folder of the notes.
#[derive(Debug)]
pub(crate) struct HubNotes(PathBuf);

/// What is remembered of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BlobNote {
    /// The path of the blob.
    blob: PathBuf,
    /// Its size in bytes when it was put there.
    size_bytes: u64,
}

impl BlobNote {
    fn matches(&self, blob: &Path) -> bool {
        self.blob == blob
            && fs::symlink_metadata(blob)
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.size_bytes)
    }
}

impl HubNotes {
    /// The notes in that folder. Removes those whose blobs are gone or have changed.
    pub(crate) fn open(folder: PathBuf) -> Self {
        for repository in paths_in(&folder) {
            for note in paths_in(&repository) {
                if !read(&note).is_some_and(|it| it.matches(&it.blob)) {
                    tracing::debug!(note = %note.display(), "removed a note of a blob that is gone or has changed");
                    // A note that cannot be removed does no harm.
                    let _ = fs::remove_file(&note);
                }
            }
            // The system refuses to remove a folder that has something in it.
            let _ = fs::remove_dir(&repository);
        }
        Self(folder)
    }

    /// Notes a blob that is about to get its name.
    pub(crate) fn write(&self, repository: &CacheRepository, etag: &str, size_bytes: u64) -> Result<()> {
        let path = self.path(repository.name(), etag);
        let failed = |error| Failure::io("write", &path, &error);
        let note = BlobNote { blob: absolute(&repository.blob(etag)), size_bytes };
        let text = serde_json::to_vec(&note)
            .map_err(|error| Failure::internal("a note could not be written as JSON").detail(error))?;
        fs::create_dir_all(path.parent().unwrap_or(&self.0)).map_err(failed)?;
        files::put(&path, &text).map(drop).map_err(failed)
    }

    /// Whether all these files of a snapshot lead to blobs that the hive put there.
    pub(crate) fn are_owned(&self, links: &[PathBuf]) -> bool {
        links.iter().all(|link| {
            blob_of(link).is_some_and(|blob| {
                let path = self.path_of(&blob);
                path.and_then(|path| read(&path)).is_some_and(|note| note.matches(&blob))
            })
        })
    }

    /// Removes the note of a blob that was deleted.
    pub(crate) fn remove(&self, blob: &Path) {
        if let Some(path) = self.path_of(blob) {
            // It would be removed when the hive starts.
            let _ = fs::remove_file(&path);
            let _ = path.parent().map(fs::remove_dir);
        }
    }

    fn path_of(&self, blob: &Path) -> Option<PathBuf> {
        let repository = blob.parent()?.parent()?;
        Some(self.path(&name_of(repository), &name_of(blob)))
    }

    fn path(&self, repository: &str, etag: &str) -> PathBuf {
        self.0.join(repository).join(format!("{etag}.json"))
    }
}

fn read(path: &Path) -> Option<BlobNote> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The path as [`blob_of`] gives it.
fn absolute(blob: &Path) -> PathBuf {
    let canonical = blob.parent().and_then(|folder| folder.canonicalize().ok());
    match (canonical, blob.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => blob.to_owned(),
    }
}
