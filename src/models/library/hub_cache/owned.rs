//! Which blobs of the Hugging Face cache the hive itself put there.
//!
//! The cache is shared, and nothing in it says who wrote what. So the hive keeps a note of each blob
//! that it fetched, in its own data folder: `hub/models--org--repo/ETAG.json`. A blob with a note
//! that still fits is the hive's own to delete; any other takes `force`. A note that fits nothing is
//! worth nothing and goes when the hive starts.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::put::Repository;
use super::{blob_of, entries};
use crate::error::{Failure, Result};
use crate::files;
use crate::models::library::split::name_of;

/// The folder of the notes.
#[derive(Debug)]
pub(crate) struct Owned(PathBuf);

/// What is remembered of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Where it is.
    blob: PathBuf,
    /// In bytes, when it was put there.
    size_bytes: u64,
}

impl Note {
    fn fits(&self, blob: &Path) -> bool {
        self.blob == blob
            && fs::symlink_metadata(blob)
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.size_bytes)
    }
}

impl Owned {
    /// The notes in that folder. Removes those whose blobs are gone or are others now.
    pub(crate) fn open(folder: PathBuf) -> Self {
        for repository in entries(&folder) {
            for note in entries(&repository) {
                if !read(&note).is_some_and(|it| it.fits(&it.blob)) {
                    tracing::debug!(note = %note.display(), "a blob of the cache is not the hive's any more");
                    // What cannot be removed does no harm.
                    let _ = fs::remove_file(&note);
                }
            }
            // Refused by the system where a note is left in it.
            let _ = fs::remove_dir(&repository);
        }
        Self(folder)
    }

    /// Remembers a blob that is about to get its name.
    pub(crate) fn note(&self, repository: &Repository, etag: &str, size_bytes: u64) -> Result<()> {
        let path = self.path(repository.name(), etag);
        let failed = |error| Failure::io("write", &path, &error);
        let note = Note { blob: absolute(&repository.blob(etag)), size_bytes };
        let text = serde_json::to_vec(&note)
            .map_err(|error| Failure::internal("a note could not be written as JSON").detail(error))?;
        fs::create_dir_all(path.parent().unwrap_or(&self.0)).map_err(failed)?;
        files::put(&path, &text).map(drop).map_err(failed)
    }

    /// Whether all these files of a snapshot lead to blobs that the hive put there.
    pub(crate) fn owns(&self, links: &[PathBuf]) -> bool {
        links.iter().all(|link| {
            blob_of(link).is_some_and(|blob| {
                let path = self.path_of(&blob);
                path.and_then(|path| read(&path)).is_some_and(|note| note.fits(&blob))
            })
        })
    }

    /// Forgets a blob that is gone.
    pub(crate) fn forget(&self, blob: &Path) {
        if let Some(path) = self.path_of(blob) {
            // It would go when the hive starts.
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

fn read(path: &Path) -> Option<Note> {
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
