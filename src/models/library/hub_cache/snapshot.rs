//! What the cache has of one repository, as the Hub would show it: its branches, and the files of a commit that are
//! here.
//!
//! Invariant: whatever names are asked for, a path leads to a file of the repository: to one of the snapshot, or to the
//! blob that it links to.

use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::HubCache;
use super::layout::{CacheRepository, blob_of, is_repository};
use crate::models::library::file_name::name_of;
use crate::models::library::folders::EntryKind;
use crate::models::library::probe::DiskProbe;
use crate::models::library::stamp::Stamp;
use crate::models::library::walk::{LinkPolicy, files};
use crate::models::shared::FoundFile;
use crate::text::hex;

/// The longest version of a file, in characters.
const MAX_VERSION: usize = 128;

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// `org/repo`, as the cache spells it.
    pub(crate) repo: String,
    pub(crate) commit: String,
    folder: PathBuf,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    /// Its path in the repository.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) size: u64,
    /// As [`FoundFile::version`]: the SHA-256 of a large file, git's hash of a small one.
    pub(crate) version: String,
}

/// A branch, a tag or another name of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) commit: String,
}

/// What is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Repository,
    Revision,
    File,
}

impl HubCache {
    /// The repository at a branch, a tag or a commit. `repo` is `org/repo` in the Hub's grammar, in any case, as on the
    /// Hub. Blocks on the disk.
    pub(crate) fn snapshot(
        &self,
        repo: &str,
        revision: &str,
        probe: &DiskProbe<'_>,
    ) -> Result<Snapshot, Missing> {
        let (repo, repository) = self.spelled(repo, probe)?;
        let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        let named = || is_relative(revision).then(|| repository.commit_of(revision)).flatten();
        let commit = if is_commit { Some(revision.to_ascii_lowercase()) } else { named() };
        let commit = commit.ok_or(Missing::Revision)?;
        let folder = repository.snapshot(&commit);
        if probe.folder(&folder).is_err() {
            return Err(Missing::Revision);
        }
        Ok(Snapshot { repo, commit, folder })
    }

    /// The branches, tags and other names of commits that the cache knows, of which a snapshot is here. Blocks on the
    /// disk.
    pub(crate) fn references(&self, repo: &str, probe: &DiskProbe<'_>) -> Result<Vec<Reference>, Missing> {
        let (_, repository) = self.spelled(repo, probe)?;
        let refs = repository.folder().join("refs");
        let reference = |path: PathBuf| {
            let name = path.strip_prefix(&refs).ok()?.to_str()?.to_owned();
            let commit = repository.commit_of(&name)?;
            probe.folder(&repository.snapshot(&commit)).is_ok().then_some(Reference { name, commit })
        };
        let found = files(&refs, LinkPolicy::Keep, probe, |_| true);
        Ok(found.into_iter().filter_map(reference).collect())
    }

    /// The repository, with its name as the cache spells it.
    fn spelled(&self, repo: &str, probe: &DiskProbe<'_>) -> Result<(String, CacheRepository), Missing> {
        let wanted = self.repository(repo);
        let cache = probe.folder_if_readable(&self.dir).ok_or(Missing::Repository)?;
        let is_folder = |kind: &EntryKind| matches!(kind, EntryKind::Folder | EntryKind::Link(_));
        let repositories =
            cache.entries.iter().filter(|entry| is_folder(&entry.kind) && is_repository(&entry.path));
        let names: Vec<_> = repositories.map(|entry| entry.name.to_string_lossy()).collect();
        let exact = names.iter().find(|name| **name == wanted.name());
        let any_case = || names.iter().find(|name| name.eq_ignore_ascii_case(wanted.name()));
        let name = exact.or_else(any_case).ok_or(Missing::Repository)?;
        let repo = name.strip_prefix("models--").unwrap_or(name).replacen("--", "/", 1);
        let repository = self.repository(&repo);
        Ok((repo, repository))
    }
}

impl Snapshot {
    /// Its files that are here, sorted by path. Blocks on the disk.
    pub(crate) fn files(&self, probe: &DiskProbe<'_>) -> Vec<SnapshotFile> {
        let file = |path: PathBuf| {
            let relative = path.strip_prefix(&self.folder).ok()?.to_str()?.to_owned();
            let (found, size) = self.found(&path, probe)?;
            Some(SnapshotFile { path: relative, size, version: found.version })
        };
        let mut all: Vec<_> =
            files(&self.folder, LinkPolicy::Keep, probe, |_| true).into_iter().filter_map(file).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// The file at that path of the repository. Blocks on the disk.
    pub(crate) fn file(&self, path: &str, probe: &DiskProbe<'_>) -> Result<FoundFile, Missing> {
        let found = is_relative(path).then(|| self.found(&self.folder.join(path), probe)).flatten();
        found.map(|(file, _)| file).ok_or(Missing::File)
    }

    /// The file at a path beneath the snapshot, with its size. `None` for what is not there, and for what is not of the
    /// repository.
    fn found(&self, path: &Path, probe: &DiskProbe<'_>) -> Option<(FoundFile, u64)> {
        let metadata = probe.metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        let canonical = |path: &Path| probe.canonical(path);
        let folder = canonical(path.parent()?)?;
        if !folder.starts_with(canonical(&self.folder)?) {
            return None;
        }
        let is_link = probe.symlink_metadata(path).ok()?.is_symlink();
        let version = if is_link {
            let blob = blob_of(path)?;
            let blobs = canonical(&self.folder.parent()?.parent()?.join("blobs"))?;
            Some(name_of(&blob)).filter(|_| blob.parent() == Some(&*blobs))?
        } else {
            String::new()
        };
        // A cache on a file system without links has files in their place, whose hash nothing tells.
        let version = if is_version(&version) { version } else { version_of(path, &Stamp::of(&metadata)) };
        Some((FoundFile { path: path.to_owned(), version }, metadata.len()))
    }
}

/// Whether the text is a path that stays in its folder.
fn is_relative(path: &str) -> bool {
    let is_name = |component| matches!(component, Component::Normal(_));
    !path.is_empty() && !path.contains('\0') && Path::new(path).components().all(is_name)
}

fn is_version(text: &str) -> bool {
    (1..=MAX_VERSION).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// What tells this state of the file from another one, in the form of one of git's hashes.
fn version_of(path: &Path, stamp: &Stamp) -> String {
    hex(&Sha256::digest(format!("{}\n{stamp:?}", path.display()))[..20])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::models::library::folders::FolderCache;
    use crate::models::library::hub_cache::notes::HubNotes;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with the repository `Org/Repo`: of a large file, a small one, one without a link, a broken link, and
    /// links that lead elsewhere.
    fn cache(root: &Path) -> HubCache {
        let hub = HubCache { dir: root.join("hub"), notes: HubNotes::new(root.join("notes")) };
        let repository = hub.repository("Org/Repo");
        repository.prepare().unwrap();
        let large = "a".repeat(64);
        fs::write(repository.blob(&large), "large").unwrap();
        fs::write(repository.blob(&"b".repeat(40)), "{}").unwrap();
        repository.link(COMMIT, "deep/m.gguf", &large).unwrap();
        repository.link(COMMIT, ".gitattributes", &"b".repeat(40)).unwrap();
        repository.link(COMMIT, "gone.gguf", &"c".repeat(64)).unwrap();
        repository.write_ref("main", COMMIT).unwrap();
        repository.write_ref("refs/pr/1", COMMIT).unwrap();
        repository.write_ref("elsewhere", &"9".repeat(40)).unwrap();
        let snapshot = repository.snapshot(COMMIT);
        fs::write(snapshot.join("plain.txt"), "plain").unwrap();
        fs::create_dir(root.join("secret")).unwrap();
        fs::write(root.join("secret/key"), "mine").unwrap();
        symlink(root.join("secret/key"), snapshot.join("key")).unwrap();
        symlink(root.join("secret"), snapshot.join("folder")).unwrap();
        hub
    }

    #[test]
    fn a_snapshot_has_the_files_that_are_here_and_nothing_from_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let (hub, folders) = (cache(root.path()), FolderCache::default());
        let probe = DiskProbe::new(&folders);
        for revision in ["main", "refs/pr/1", COMMIT] {
            let snapshot = hub.snapshot("org/repo", revision, &probe).unwrap();
            assert_eq!((&*snapshot.repo, &*snapshot.commit), ("Org/Repo", COMMIT));
            let files = snapshot.files(&probe);
            let told: Vec<_> = files.iter().map(|file| (&*file.path, file.size)).collect();
            assert_eq!(told, [(".gitattributes", 2), ("deep/m.gguf", 5), ("plain.txt", 5)]);
            assert_eq!((&files[0].version, &files[1].version), (&"b".repeat(40), &"a".repeat(64)));
            assert_eq!(files[2].version.len(), 40);
            assert_eq!(snapshot.file("deep/m.gguf", &probe).unwrap().version, "a".repeat(64));
            assert_eq!(snapshot.file("plain.txt", &probe).unwrap().version, files[2].version);
            for path in
                ["", "gone.gguf", "key", "folder/key", "deep", "../main", "deep/../../x", "/etc/hosts", "a\0"]
            {
                assert_eq!(snapshot.file(path, &probe), Err(Missing::File), "{path}");
            }
        }
        for revision in ["v1", "elsewhere", "", "../refs/main", "/etc/hosts", &"8".repeat(40), "main\0"] {
            assert_eq!(
                hub.snapshot("Org/Repo", revision, &probe).unwrap_err(),
                Missing::Revision,
                "{revision}"
            );
        }
        assert_eq!(hub.snapshot("org/other", "main", &probe).unwrap_err(), Missing::Repository);
    }

    #[test]
    fn names_of_commits_that_are_here_are_told() {
        let root = tempfile::tempdir().unwrap();
        let (hub, folders) = (cache(root.path()), FolderCache::default());
        let probe = DiskProbe::new(&folders);
        let mut names: Vec<_> = hub
            .references("org/repo", &probe)
            .unwrap()
            .into_iter()
            .map(|Reference { name, commit }| {
                assert_eq!(commit, COMMIT);
                name
            })
            .collect();
        names.sort();
        assert_eq!(names, ["main", "refs/pr/1"]);
        assert_eq!(hub.references("org/other", &probe), Err(Missing::Repository));
    }

    #[test]
    fn a_file_without_a_link_has_another_version_once_it_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let (hub, folders) = (cache(root.path()), FolderCache::default());
        let version = || {
            let probe = DiskProbe::new(&folders);
            let snapshot = hub.snapshot("Org/Repo", "main", &probe).unwrap();
            snapshot.file("plain.txt", &probe).unwrap().version
        };
        let before = version();
        assert_eq!(version(), before);
        fs::write(hub.repository("Org/Repo").snapshot(COMMIT).join("plain.txt"), "other one").unwrap();
        assert_ne!(version(), before);
    }
}
