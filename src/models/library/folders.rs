//! The contents of folders and small text files, remembered while they stay unchanged.
//!
//! Adding, removing and renaming change a folder's own time of change, so the folder's metadata tells
//! whether its remembered contents still hold; a link cannot be changed without that. A folder only
//! states names and kinds of its files: the metadata of a file tells whether that has changed.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::files;
use crate::models::library::stamp::{Stamp, StampCache};

/// The most folders, and the most texts, that are remembered.
const MAX_REMEMBERED: usize = 100_000;

/// The folders and texts that were read.
#[derive(Debug)]
pub(crate) struct FolderCache {
    folders: StampCache<Arc<Folder>>,
    texts: StampCache<Arc<str>>,
    /// The path that was looked at last. If its disk does not answer, it is the one that is waited for.
    looked_at: Mutex<OsString>,
    /// How many paths were looked at.
    looks: AtomicU64,
}

/// The contents of a folder.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Device and inode, which tell it from every other folder of the machine.
    pub(crate) identity: (u64, u64),
    /// Sorted by name.
    pub(crate) entries: Vec<FolderEntry>,
}

/// One name in a folder.
#[derive(Clone, Debug)]
pub(crate) struct FolderEntry {
    pub(crate) name: OsString,
    pub(crate) path: PathBuf,
    pub(crate) kind: EntryKind,
}

/// What has a name in a folder. Links are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Folder,
    Link(Link),
    /// A socket, a device and the like.
    Other,
}

/// A symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// As written in the link: absolute, or relative to its folder.
    pub(crate) target: PathBuf,
    /// When it was made.
    pub(crate) modified: SystemTime,
}

impl Link {
    /// The link at `path`. `None` where there is none.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let target = fs::read_link(path).ok()?;
        let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        Some(Self { target, modified })
    }
}

impl Default for FolderCache {
    fn default() -> Self {
        Self {
            folders: StampCache::new(MAX_REMEMBERED),
            texts: StampCache::new(MAX_REMEMBERED),
            looked_at: Mutex::default(),
            looks: AtomicU64::new(0),
        }
    }
}

impl FolderCache {
    /// The contents of the folder at `path`, which may be a link to it. `metadata` is that of the
    /// folder, just read. Blocks on the disk.
    pub(crate) fn folder(&self, path: &Path, metadata: &Metadata) -> io::Result<Arc<Folder>> {
        self.folders.get_or_read(path, metadata, || {
            let mut entries: Vec<_> =
                fs::read_dir(path)?.filter_map(|entry| FolderEntry::of(&entry.ok()?)).collect();
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(Arc::new(Folder { identity: Stamp::of(metadata).identity(), entries }))
        })
    }

    /// The text of a small file. `metadata` is that of the file, just read. Blocks on the disk.
    pub(crate) fn text(&self, path: &Path, metadata: &Metadata) -> io::Result<Arc<str>> {
        self.texts.get_or_read(path, metadata, || files::read_text(path).map(Into::into))
    }

    /// Notes that `path` is about to be looked at.
    pub(crate) fn look_at(&self, path: &Path) {
        let mut looked_at = self.looked_at.lock();
        looked_at.clear();
        looked_at.push(path);
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// The path that was looked at last.
    pub(crate) fn looked_at(&self) -> PathBuf {
        self.looked_at.lock().clone().into()
    }

    /// How many paths were looked at.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Forgets what was not requested since the last call.
    pub(crate) fn forget_unused(&self) {
        self.folders.forget_unused();
        self.texts.forget_unused();
    }
}

impl FolderEntry {
    /// `None` where it has gone in the meantime.
    fn of(entry: &fs::DirEntry) -> Option<Self> {
        let path = entry.path();
        let kind = match entry.file_type() {
            Ok(kind) if kind.is_file() => EntryKind::File,
            Ok(kind) if kind.is_dir() => EntryKind::Folder,
            Ok(kind) if kind.is_symlink() => EntryKind::Link(Link::read(&path)?),
            _ => EntryKind::Other,
        };
        Some(Self { name: entry.file_name(), path, kind })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::models::testing::age;

    #[test]
    fn a_folder_is_read_again_once_it_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let cache = FolderCache::default();
        let read = || cache.folder(root.path(), &fs::metadata(root.path()).unwrap()).unwrap();
        let names = |folder: &Folder| -> Vec<_> {
            folder.entries.iter().map(|entry| entry.name.to_str().unwrap().to_owned()).collect()
        };
        File::create(root.path().join("b")).unwrap();
        age(root.path());
        assert_eq!(names(&read()), ["b"]);
        assert!(Arc::ptr_eq(&read(), &read()));
        symlink("b", root.path().join("a")).unwrap();
        assert_eq!(names(&read()), ["a", "b"]);
        let EntryKind::Link(link) = &read().entries[0].kind else { panic!("a link") };
        assert_eq!(link.target, Path::new("b"));
    }
}
