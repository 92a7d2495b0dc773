//! Which blobs of the Hugging Face cache the hive put there.
//!
//! The cache is shared, and nothing in it says who wrote a file. So the hive keeps a note of each blob
//! that it fetched in its own data folder: `hub/models--org--repo/ETAG.json`, a file with a version
//! ([`versioned`](crate::files::versioned)). A blob whose note still matches is the hive's own
//! to delete; any other takes `force`. A note that matches no blob is removed before the first listing. A
//! note of a newer version of the hive, or one that cannot be read, is left alone, and its blob is not the
//! hive's own.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::layout::{CacheRepository, blob_of};
use crate::disk;
use crate::error::{Failure, Result};
use crate::files::versioned::{VERSION, Versioned, first_version};
use crate::files::{self, is_set_aside, set_aside_if_there};
use crate::models::library::file_name::name_of;
use crate::models::library::folders::FolderCache;
use crate::models::library::location::ModelOwner;
use crate::models::library::probe::paths_in;
use crate::paths;

/// The folder of the notes.
#[derive(Debug)]
pub(crate) struct HubNotes(PathBuf);

/// What is remembered of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BlobNote {
    #[serde(default = "first_version")]
    version: u64,
    /// The path of the blob.
    #[serde(with = "paths::exact")]
    blob: PathBuf,
    /// Its size in bytes when it was put there.
    size_bytes: u64,
    /// Fields of later versions of the hive.
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl BlobNote {
    fn matches(&self, blob: &Path) -> bool {
        self.blob == blob
            && fs::symlink_metadata(blob)
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.size_bytes)
    }
}

impl HubNotes {
    /// The notes in that folder, which need not exist.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Removes the notes whose blobs are gone or have changed. Returns the paths of those that a newer
    /// version of the hive wrote, and of those that could not be read. Blocks on the disk, and notes in `folders`
    /// where it looks.
    pub(crate) fn remove_stale(&self, folders: &FolderCache) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut newer, mut damaged) = (Vec::new(), Vec::new());
        for repository in paths_in(&self.0, folders) {
            for path in paths_in(&repository, folders) {
                let note = read(&path);
                if let Versioned::Known(note) = &note {
                    folders.look_at(&note.blob);
                }
                match note {
                    Versioned::Known(note) if note.matches(&note.blob) => {}
                    Versioned::Newer => newer.push(path),
                    Versioned::Invalid if is_set_aside(&path) => {}
                    Versioned::Invalid => damaged.push(path),
                    Versioned::Known(_) => {
                        tracing::debug!(note = %path.display(), "its blob is gone or has changed: removing it");
                        // A note that cannot be removed does no harm.
                        let _ = disk::remove_file(&path);
                    }
                }
            }
            // The system refuses to remove a folder that has something in it.
            let _ = disk::remove_dir(&repository);
        }
        (newer, damaged)
    }

    /// Notes a blob that is about to get its name. Keeps the fields that later versions of the hive
    /// added to its note; a note of a newer version is left alone.
    pub(crate) fn write(&self, repository: &CacheRepository, etag: &str, size_bytes: u64) -> Result<()> {
        let path = self.path(repository.name(), etag);
        let unknown = match read(&path) {
            Versioned::Known(previous) => previous.unknown,
            Versioned::Newer => {
                tracing::warn!(note = %path.display(), "a newer version of rbee-hive wrote it: it is left alone");
                return Ok(());
            }
            Versioned::Invalid => {
                set_aside_if_there(&path).map_err(|error| Failure::io("set aside", &path, &error))?;
                Map::new()
            }
        };
        let note = BlobNote { version: VERSION, blob: absolute(&repository.blob(etag)), size_bytes, unknown };
        let text = serde_json::to_vec(&note)
            .map_err(|error| Failure::internal("a note could not be written as JSON").detail(error))?;
        disk::create_dir_all(path.parent().unwrap_or(&self.0))
            .and_then(|()| files::put(&path, &text).map(drop))
            .map_err(|error| Failure::io("write", &path, &error))
    }

    /// Who put the blobs there that these files of a snapshot lead to.
    pub(crate) fn owner(&self, links: &[PathBuf]) -> ModelOwner {
        let owner = |link: &PathBuf| blob_of(link).map_or(ModelOwner::Other, |blob| self.owner_of(&blob));
        let owners: Vec<_> = links.iter().map(owner).collect();
        let is_not_hive = |owner: &&ModelOwner| **owner != ModelOwner::Hive;
        owners.iter().find(is_not_hive).copied().unwrap_or(ModelOwner::Hive)
    }

    /// Who put that blob there.
    pub(crate) fn owner_of(&self, blob: &Path) -> ModelOwner {
        match self.path_of(blob).map_or(Versioned::Invalid, |path| read(&path)) {
            Versioned::Known(note) if note.matches(blob) => ModelOwner::Hive,
            Versioned::Newer => ModelOwner::NewerHive,
            Versioned::Known(_) | Versioned::Invalid => ModelOwner::Other,
        }
    }

    /// Removes the note of a blob that was deleted.
    pub(crate) fn remove(&self, blob: &Path) {
        if let Some(path) = self.path_of(blob) {
            // The next hive would remove it.
            let _ = disk::remove_file(&path);
            let _ = path.parent().map(disk::remove_dir);
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

fn read(path: &Path) -> Versioned<BlobNote> {
    files::read(path, files::SMALL).map_or(Versioned::Invalid, |json| Versioned::parse(&json))
}

/// The path as [`blob_of`] gives it.
fn absolute(blob: &Path) -> PathBuf {
    let canonical = blob.parent().and_then(|folder| folder.canonicalize().ok());
    match (canonical, blob.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => blob.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_note_is_removed_a_newer_one_stays_and_unknown_fields_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let notes = HubNotes::new(root.join("notes"));
        let repository = CacheRepository::new(&root.join("cache"), "org/repo");
        repository.prepare().unwrap();
        let commit = "c".repeat(40);
        let link = |etag: &str| {
            fs::write(repository.blob(etag), "1234").unwrap();
            notes.write(&repository, etag, 4).unwrap();
            vec![repository.link(&commit, &format!("{etag}.gguf"), etag).unwrap()]
        };
        let (kept, stale, newer) = (link("kept"), link("stale"), link("newer"));
        let note = |etag| notes.path(repository.name(), etag);
        let mut json: Value = serde_json::from_slice(&fs::read(note("kept")).unwrap()).unwrap();
        json["tags"] = serde_json::json!(["a"]);
        fs::write(note("kept"), json.to_string()).unwrap();
        fs::write(repository.blob("stale"), "12345").unwrap();
        fs::write(note("newer"), r#"{"version":2}"#).unwrap();
        let damaged = link("damaged");
        fs::write(note("damaged"), r#"{"version":1,"blo"#).unwrap();

        assert_eq!(notes.owner(&kept), ModelOwner::Hive);
        assert_eq!(notes.owner(&stale), ModelOwner::Other);
        assert_eq!(notes.owner(&newer), ModelOwner::NewerHive);
        assert_eq!(notes.owner(&damaged), ModelOwner::Other);
        let left_alone = (vec![note("newer")], vec![note("damaged")]);
        assert_eq!(notes.remove_stale(&FolderCache::default()), left_alone);
        notes.write(&repository, "damaged", 4).unwrap();
        let kept_as = files::damaged_path(&note("damaged"));
        assert_eq!(fs::read_to_string(&kept_as).unwrap(), r#"{"version":1,"blo"#);
        assert_eq!(notes.owner(&damaged), ModelOwner::Hive);
        assert_eq!(notes.remove_stale(&FolderCache::default()), (vec![note("newer")], Vec::new()));
        assert!(kept_as.exists());
        assert!(note("kept").exists() && !note("stale").exists());

        notes.write(&repository, "kept", 5).unwrap();
        let json: Value = serde_json::from_slice(&fs::read(note("kept")).unwrap()).unwrap();
        assert_eq!((&json["tags"][0], &json["size_bytes"]), (&"a".into(), &5.into()));
        notes.write(&repository, "newer", 5).unwrap();
        assert_eq!(fs::read_to_string(note("newer")).unwrap(), r#"{"version":2}"#);
    }
}
