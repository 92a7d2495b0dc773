//! Putting a model into the Hugging Face cache, in the layout and with the manners of
//! huggingface_hub, so that every tool that uses the cache finds it.
//!
//! Invariants: a name of the cache never leads to half a file (blobs are renamed into place when
//! they are whole, links and refs are replaced whole); links are relative, so that the cache can be
//! moved; whatever is there already is used and left as it is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};

/// What tells backup tools to leave a folder out (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                            # This folder is the cache of the Hugging Face Hub.\n";

/// What the names of the hive's downloads into the cache end in.
const PARTIAL: &str = ".rbee-hive.partial";

/// The blob that a partial file of the hive's will be. `None` where the path is none of those.
pub(crate) fn target_of(partial: &Path) -> Option<PathBuf> {
    let name = partial.file_name()?.to_str()?.strip_suffix(PARTIAL)?;
    Some(partial.with_file_name(name))
}

/// One repository of the cache, which may not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repository {
    cache: PathBuf,
    /// `models--org--repo`
    name: String,
}

impl Repository {
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

    /// Where the contents lie that the Hub calls by that `ETag`.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// Where those contents lie until they are whole. Other tools leave files of such names alone.
    pub(crate) fn partial(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{etag}{PARTIAL}"))
    }

    /// The file that every tool locks (`flock`) while it writes that blob.
    pub(crate) fn lock(&self, etag: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.name).join(format!("{etag}.lock"))
    }

    /// Where a file of a commit is found.
    pub(crate) fn pointer(&self, commit: &str, path: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit).join(path)
    }

    /// The commit that a branch or a tag stood for when it was last asked for.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| !commit.is_empty() && !commit.contains(['/', '.']))
    }

    /// The snapshot of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// Makes the folder that a blob is written into.
    pub(crate) fn prepare(&self) -> Result<()> {
        let blobs = self.folder().join("blobs");
        fs::create_dir_all(&blobs).map_err(|error| Failure::io("make the folder", &blobs, &error))?;
        let tag = self.cache.join("CACHEDIR.TAG");
        // A courtesy: the cache works without it.
        let _ = File::create_new(tag).and_then(|mut file| file.write_all(CACHEDIR_TAG.as_bytes()));
        Ok(())
    }

    /// Makes a file of a commit a link to its blob, unless it is there. Answers its path.
    pub(crate) fn point(&self, commit: &str, path: &str, etag: &str) -> Result<PathBuf> {
        let pointer = self.pointer(commit, path);
        // Followed: a link that leads nowhere is replaced.
        if pointer.exists() {
            return Ok(pointer);
        }
        let up = "../".repeat(path.split('/').count() + 1);
        let target = format!("{up}blobs/{etag}");
        self.replace(&pointer, |draft| symlink(&target, draft))?;
        Ok(pointer)
    }

    /// Remembers which commit a branch or a tag stands for.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let reference = self.folder().join("refs").join(revision);
        // Without a line's end: huggingface_hub takes the whole file for the commit.
        self.replace(&reference, |draft| fs::write(draft, commit))
    }

    /// Makes a file under another name and gives it its own at once.
    fn replace(&self, path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let failed = |error: io::Error| Failure::io("write", path, &error);
        let folder = path.parent().unwrap_or(&self.cache);
        fs::create_dir_all(folder).map_err(failed)?;
        let draft = folder.join(format!(".rbee-hive-{}", uuid::Uuid::new_v4()));
        make(&draft)
            .and_then(|()| fs::rename(&draft, path))
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(failed)
            .inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_commit_is_a_relative_link_to_its_blob() {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::new(cache.path(), "org/repo");
        repository.prepare().unwrap();
        fs::write(repository.blob("abc"), b"contents").unwrap();
        let commit = "c".repeat(40);
        for path in ["x.gguf", "deep/er/x.gguf"] {
            let pointer = repository.point(&commit, path, "abc").unwrap();
            assert_eq!(fs::read(&pointer).unwrap(), b"contents");
            assert!(fs::read_link(&pointer).unwrap().is_relative());
            assert_eq!(repository.point(&commit, path, "abc").unwrap(), pointer, "again changes nothing");
        }
        repository.remember("refs/pr/1", &commit).unwrap();
        repository.remember(&commit, &commit).unwrap();
        assert_eq!(repository.commit_of("refs/pr/1"), Some(commit.clone()));
        assert_eq!(repository.commit_of("main"), None);
        assert_eq!(fs::read(repository.folder().join("refs/refs/pr/1")).unwrap(), commit.as_bytes());
        assert!(cache.path().join("CACHEDIR.TAG").exists());
    }
}
