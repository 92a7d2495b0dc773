//! What the Hub's clients read of a repository.

use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::models::{Reference, SharedRepository, SnapshotFile};
use crate::text::{hex, is_sha256};

/// A repository at one commit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HubRepository)]
pub(crate) struct Repository {
    id: String,
    /// The same.
    model_id: String,
    /// The commit.
    sha: String,
    /// Always false: who may read the hive may read what it has.
    private: bool,
    /// Always false.
    gated: bool,
    /// Always false.
    disabled: bool,
    /// Always empty.
    tags: [String; 0],
    /// Always 0: the hive does not count them.
    downloads: u64,
    /// Always 0.
    likes: u64,
    /// Its files that are here.
    siblings: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HubFile)]
struct Sibling {
    /// Its path in the repository.
    rfilename: String,
    /// In bytes.
    size: u64,
    #[serde(rename = "blobId")]
    blob_id: String,
    /// Of a large file.
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs: Option<Large>,
}

/// What stands in git for a large file (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HubLargeFile)]
struct Large {
    sha256: String,
    /// The same.
    oid: String,
    /// In bytes.
    size: u64,
    /// Bytes of the file of git that stands for it.
    pointer_size: usize,
}

/// A file or a folder of a repository.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HubTreeEntry)]
pub(crate) struct TreeEntry {
    r#type: EntryKind,
    /// What tells its contents from others.
    oid: String,
    /// In bytes; 0 of a folder.
    size: u64,
    /// Its path in the repository.
    path: String,
    /// Of a large file.
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs: Option<Large>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = HubTreeEntryKind)]
enum EntryKind {
    File,
    Directory,
}

/// The names of commits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HubReferences)]
pub(crate) struct References {
    /// Branches, and tags, which the cache does not tell from them.
    branches: Vec<NamedCommit>,
    /// Always empty.
    tags: [String; 0],
    /// Always empty.
    converts: [String; 0],
}

/// A name of a commit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HubReference)]
struct NamedCommit {
    name: String,
    r#ref: String,
    target_commit: String,
}

impl From<SharedRepository> for Repository {
    fn from(SharedRepository { repo, commit, files }: SharedRepository) -> Self {
        let sibling = |file: SnapshotFile| Sibling {
            lfs: Large::of(&file),
            rfilename: file.path,
            size: file.size,
            blob_id: file.version,
        };
        Self {
            id: repo.clone(),
            model_id: repo,
            sha: commit,
            private: false,
            gated: false,
            disabled: false,
            tags: [],
            downloads: 0,
            likes: 0,
            siblings: files.into_iter().map(sibling).collect(),
        }
    }
}

impl Large {
    /// `None` of a small file, which git has itself.
    fn of(file: &SnapshotFile) -> Option<Self> {
        let sha256 = Some(&file.version).filter(|version| is_sha256(version))?;
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {}\n", file.size);
        Some(Self {
            sha256: sha256.clone(),
            oid: sha256.clone(),
            size: file.size,
            pointer_size: pointer.len(),
        })
    }
}

impl From<Vec<Reference>> for References {
    fn from(references: Vec<Reference>) -> Self {
        // The others are pull requests and the like.
        let branches = references.into_iter().filter(|reference| !reference.name.starts_with("refs/"));
        let branches = branches.map(|Reference { name, commit }| NamedCommit {
            r#ref: format!("refs/heads/{name}"),
            name,
            target_commit: commit,
        });
        Self { branches: branches.collect(), tags: [], converts: [] }
    }
}

/// The files and folders of a folder, which is empty for that of the repository; with all beneath them where that is
/// asked for.
pub(super) fn tree(repository: &SharedRepository, folder: &str, recursive: bool) -> Vec<TreeEntry> {
    let beneath = match folder.trim_end_matches('/') {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let (mut entries, mut folders) = (Vec::new(), BTreeSet::new());
    for file in &repository.files {
        let Some(rest) = file.path.strip_prefix(&beneath) else { continue };
        let ends = rest.match_indices('/').map(|(at, _)| beneath.len() + at);
        let ends: Vec<_> = ends.take(if recursive { usize::MAX } else { 1 }).collect();
        folders.extend(ends.iter().map(|&end| &file.path[..end]));
        if recursive || ends.is_empty() {
            entries.push(TreeEntry {
                r#type: EntryKind::File,
                oid: file.version.clone(),
                size: file.size,
                path: file.path.clone(),
                lfs: Large::of(file),
            });
        }
    }
    entries.extend(folders.into_iter().map(|path| TreeEntry {
        r#type: EntryKind::Directory,
        // In the form of one of git's hashes.
        oid: hex(&Sha256::digest(format!("{}\n{path}", repository.commit))[..20]),
        size: 0,
        path: path.to_owned(),
        lfs: None,
    }));
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> SharedRepository {
        let file =
            |path: &str, version: String| SnapshotFile { path: path.into(), size: 134_515_008, version };
        let files = vec![
            file("README.md", "b".repeat(40)),
            file("a/b/c.gguf", "a".repeat(64)),
            file("a/d.gguf", "a".repeat(64)),
        ];
        SharedRepository { repo: "o/r".into(), commit: "0".repeat(40), files }
    }

    #[test]
    fn a_tree_has_what_is_in_a_folder_and_beneath_it_where_that_is_asked_for() {
        let paths = |folder: &str, recursive| -> Vec<_> {
            let kind = |entry: &TreeEntry| if entry.r#type == EntryKind::File { "" } else { "/" };
            let entries = tree(&repository(), folder, recursive);
            entries.iter().map(|entry| format!("{}{}", entry.path, kind(entry))).collect()
        };
        assert_eq!(paths("", false), ["README.md", "a/"]);
        assert_eq!(paths("", true), ["README.md", "a/", "a/b/", "a/b/c.gguf", "a/d.gguf"]);
        assert_eq!(paths("a", false), ["a/b/", "a/d.gguf"]);
        assert_eq!(paths("a/", true), ["a/b/", "a/b/c.gguf", "a/d.gguf"]);
        assert_eq!(paths("x", true), Vec::<String>::new());
    }

    #[test]
    fn a_large_file_has_its_hash_and_the_size_of_its_pointer() {
        let siblings = serde_json::to_value(Repository::from(repository())).unwrap()["siblings"].clone();
        assert_eq!(siblings[0].get("lfs"), None);
        // As git-lfs writes it for a file of nine digits.
        assert_eq!(siblings[1]["lfs"]["pointerSize"], 134);
        assert_eq!(siblings[1]["lfs"]["sha256"], "a".repeat(64));
    }
}
