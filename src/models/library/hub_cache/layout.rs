//! The layout of the Hugging Face cache, and writing into it as huggingface_hub does, so that every
//! tool that uses the cache finds the model.
//!
//! Invariants: no name of the cache leads to an incomplete file (blobs are renamed when they are
//! complete, links and refs are replaced in one step); links are relative, so that the cache can be
//! moved; existing files are used and left as they are.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Failure, Result};
use crate::files::{self, Draft};
use crate::models::library::file_name::name_of;
use crate::models::library::folders::Link;
use crate::text;

/// Tells backup tools to leave the folder out (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                            # This folder is the cache of the Hugging Face Hub.\n";

/// The ending of the names of the hive's partial files in the cache.
const PARTIAL: &str = ".rbee-hive.partial";

/// The path of the blob that a partial file of the hive will become. `None` where the path is not one
/// of a partial file.
pub(crate) fn target_of(partial: &Path) -> Option<PathBuf> {
    let name = partial.file_name()?.to_str()?.strip_suffix(PARTIAL)?;
    Some(partial.with_file_name(name))
}

/// The folders to remove, in this order, where removing a partial file of the cache leaves them
/// empty: other tools warn of a repository without a snapshot.
pub(crate) fn empty_folders(partial: &Path) -> Vec<PathBuf> {
    let blobs = partial.parent().filter(|_| target_of(partial).is_some());
    blobs.into_iter().flat_map(|blobs| blobs.ancestors().take(2)).map(Path::to_owned).collect()
}

/// Whether the folder is one of a repository of models.
pub(crate) fn is_repository(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"models--"))
}

/// The path, in the folder of a repository, of the contents that the Hub identifies by that `ETag`.
pub(crate) fn blob_in(repository: &Path, etag: &str) -> PathBuf {
    repository.join("blobs").join(etag)
}

/// The SHA-256 of a file of a snapshot: the name of the blob that its link leads to. `None` where the
/// name is not a SHA-256.
pub(crate) fn sha256_of(link: &Link) -> Option<String> {
    let name = name_of(&link.target);
    text::is_sha256(&name).then_some(name)
}

/// The path, with a canonical folder, of the blob that a file of a snapshot links to. The blob may be
/// a link itself (huggingface_hub can share blobs between caches), and is not followed.
pub(crate) fn blob_of(link: &Path) -> Option<PathBuf> {
    let target = link.parent()?.join(fs::read_link(link).ok()?);
    Some(target.parent()?.canonicalize().ok()?.join(target.file_name()?))
}

/// One repository of the cache, which may not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CacheRepository {
    cache: PathBuf,
    /// `models--org--repo`
    name: String,
}

impl CacheRepository {
    /// The folder of `org/repo`, whose segments must be of the Hub's grammar.
    pub(crate) fn new(cache: &Path, repo: &str) -> Self {
        Self { cache: cache.to_owned(), name: format!("models--{}", repo.replace('/', "--")) }
    }

    /// `models--org--repo`
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The path of the contents that the Hub identifies by that `ETag`.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        blob_in(&self.folder(), etag)
    }

    /// The path of those contents until they are complete. Other tools leave files with such names
    /// alone.
    pub(crate) fn partial(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{etag}{PARTIAL}"))
    }

    /// The file that each tool locks (`flock`) while it writes that blob.
    pub(crate) fn lock(&self, etag: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.name).join(format!("{etag}.lock"))
    }

    /// The path of a file of a commit.
    pub(crate) fn pointer(&self, commit: &str, path: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit).join(path)
    }

    /// The commit that a branch or tag had when the Hub was last asked.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        let text = files::read_text(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| !commit.is_empty() && !commit.contains(['/', '.']))
    }

    /// The folder of the snapshot of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// Makes the folder of the blobs.
    pub(crate) fn prepare(&self) -> Result<()> {
        let blobs = self.folder().join("blobs");
        disk::create_dir_all(&blobs).map_err(|error| Failure::io("make the folder", &blobs, &error))?;
        let tag = self.cache.join("CACHEDIR.TAG");
        // The cache works without the tag.
        let _ = disk::open(OpenOptions::new().write(true).create_new(true), &tag)
            .and_then(|mut file| disk::write_all(&mut file, CACHEDIR_TAG.as_bytes()));
        Ok(())
    }

    /// Links a file of a commit to its blob, unless that file exists. Returns its path.
    pub(crate) fn link(&self, commit: &str, path: &str, etag: &str) -> Result<PathBuf> {
        let pointer = self.pointer(commit, path);
        // Follows links: a broken link is replaced.
        if pointer.exists() {
            return Ok(pointer);
        }
        let up = "../".repeat(path.split('/').count() + 1);
        let target = format!("{up}blobs/{etag}");
        self.replace(&pointer, |draft| disk::symlink(&target, draft))?;
        Ok(pointer)
    }

    /// Writes the ref that says which commit a branch or tag has.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let reference = self.folder().join("refs").join(revision);
        // Without a line end: huggingface_hub takes the whole file for the commit.
        self.replace(&reference, |draft| disk::write(draft, commit))
    }

    /// Makes a file or link under another name and renames it to `path`, durably. The name of the draft
    /// is unique: other processes may write to the same path.
    fn replace(&self, path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let folder = path.parent().unwrap_or(&self.cache);
        let draft = Draft::at(folder.join(format!(".rbee-hive-{}", uuid::Uuid::new_v4())), path);
        disk::create_dir_all(folder)
            .and_then(|()| make(draft.path()))
            .and_then(|()| draft.publish())
            .and_then(|()| files::sync_folder(folder))
            .map_err(|error| Failure::io("write", path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_commit_is_a_relative_link_to_its_blob() {
        let cache = tempfile::tempdir().unwrap();
        let repository = CacheRepository::new(cache.path(), "org/repo");
        repository.prepare().unwrap();
        fs::write(repository.blob("abc"), b"contents").unwrap();
        let commit = "c".repeat(40);
        for path in ["x.gguf", "deep/er/x.gguf"] {
            let pointer = repository.link(&commit, path, "abc").unwrap();
            assert_eq!(fs::read(&pointer).unwrap(), b"contents");
            assert!(fs::read_link(&pointer).unwrap().is_relative());
            assert_eq!(repository.link(&commit, path, "abc").unwrap(), pointer, "again changes nothing");
        }
        repository.write_ref("refs/pr/1", &commit).unwrap();
        repository.write_ref(&commit, &commit).unwrap();
        assert_eq!(repository.commit_of("refs/pr/1"), Some(commit.clone()));
        assert_eq!(repository.commit_of("main"), None);
        assert_eq!(fs::read(repository.folder().join("refs/refs/pr/1")).unwrap(), commit.as_bytes());
        assert!(cache.path().join("CACHEDIR.TAG").exists());
    }
}
