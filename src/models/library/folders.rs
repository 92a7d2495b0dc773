//! What is in folders, kept in memory for as long as a folder stays as it is.
//!
//! Adding, removing and renaming change a folder's own time of change, so one look at the folder tells
//! whether what was read of it still holds; and a link cannot be changed without that. What a folder
//! says of the files in it is their names and kinds alone: whether a file has changed is asked of the
//! file.
//!
//! A folder that changed a moment ago is read anew each time: two changes within one tick of the file
//! system's clock have the same time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// How long after its last change a folder is not remembered: more than a tick of any file system.
const FRESH: Duration = Duration::from_secs(2);
/// The most folders that are remembered.
const MAX_FOLDERS: usize = 100_000;

/// The folders that were looked into.
///
/// Paths are compared byte by byte: the same folder is always come to on the same way.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    folders: Mutex<HashMap<OsString, Arc<Folder>>>,
    texts: Mutex<HashMap<OsString, (Stamp, Arc<str>)>>,
}

/// What is in a folder.
#[derive(Debug)]
pub(crate) struct Folder {
    stamp: Stamp,
    /// By name.
    pub(crate) entries: Vec<Entry>,
}

/// One name in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: OsString,
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
}

/// What has a name, without following a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link(Link),
    /// A socket, a device and the like.
    Other,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// What it says, relative to its folder or not.
    pub(crate) target: PathBuf,
    /// When it was made.
    pub(crate) modified: SystemTime,
}

/// What tells one state of a folder or a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Folder {
    /// What tells it from every other folder of the machine.
    pub(crate) const fn identity(&self) -> (u64, u64) {
        (self.stamp.device, self.stamp.inode)
    }
}

impl Link {
    /// The link at `path`. `None` where there is none.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let target = fs::read_link(path).ok()?;
        let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        Some(Self { target, modified })
    }
}

impl Folders {
    /// What is in the folder at `path`, which may be a link to it; `before` is its metadata, just
    /// asked for. Blocks on the disk.
    pub(crate) fn read(&self, path: &Path, before: &Metadata) -> io::Result<Arc<Folder>> {
        let stamp = Stamp::of(before);
        if let Some(known) = self.folders.lock().get(path.as_os_str())
            && known.stamp == stamp
        {
            return Ok(Arc::clone(known));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)?.filter_map(Result::ok) {
            let path = entry.path();
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_file() => Kind::File,
                Ok(kind) if kind.is_dir() => Kind::Folder,
                // One that went away while we looked is in no listing.
                Ok(kind) if kind.is_symlink() => match Link::read(&path) {
                    Some(link) => Kind::Link(link),
                    None => continue,
                },
                _ => Kind::Other,
            };
            entries.push(Entry { name: entry.file_name(), path, kind });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let folder = Arc::new(Folder { stamp, entries });
        let (mut known, key) = (self.folders.lock(), path.as_os_str());
        if is_old(before) && (known.len() < MAX_FOLDERS || known.contains_key(key)) {
            known.insert(key.to_owned(), Arc::clone(&folder));
        } else {
            known.remove(key);
        }
        Ok(folder)
    }

    /// The text of a small file, whose metadata was just asked for. Blocks on the disk.
    pub(crate) fn text(&self, path: &Path, before: &Metadata) -> io::Result<Arc<str>> {
        let (stamp, key) = (Stamp::of(before), path.as_os_str());
        if let Some((known, text)) = self.texts.lock().get(key)
            && *known == stamp
        {
            return Ok(Arc::clone(text));
        }
        let text: Arc<str> = fs::read_to_string(path)?.into();
        let mut texts = self.texts.lock();
        if is_old(before) && (texts.len() < MAX_FOLDERS || texts.contains_key(key)) {
            texts.insert(key.to_owned(), (stamp, Arc::clone(&text)));
        } else {
            texts.remove(key);
        }
        Ok(text)
    }
}

/// Whether the last change is so long ago that another would have another time.
pub(crate) fn is_old(metadata: &Metadata) -> bool {
    let changed = metadata.modified().ok();
    changed.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default() > FRESH
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::models::testing::age;

    fn names(folder: &Folder) -> Vec<&str> {
        folder.entries.iter().map(|entry| entry.name.to_str().unwrap()).collect()
    }

    #[test]
    fn a_text_is_read_again_once_it_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("main");
        let known = Folders::default();
        let text_of = |path: &Path| known.text(path, &fs::metadata(path).unwrap()).unwrap();
        for text in ["one", "two"] {
            fs::write(&path, text).unwrap();
            assert_eq!(&*text_of(&path), text, "it has just changed");
        }
        age(&path);
        assert!(Arc::ptr_eq(&text_of(&path), &text_of(&path)));
        fs::write(&path, "six").unwrap();
        assert_eq!(&*text_of(&path), "six");
    }

    #[test]
    fn a_folder_is_read_again_once_it_has_changed_and_while_it_is_fresh() {
        let root = tempfile::tempdir().unwrap();
        let known = Folders::default();
        let read = || known.read(root.path(), &fs::metadata(root.path()).unwrap()).unwrap();
        File::create(root.path().join("b")).unwrap();
        assert_eq!(names(&read()), ["b"]);
        assert!(!Arc::ptr_eq(&read(), &read()), "another change may have the same time");
        age(root.path());
        assert!(Arc::ptr_eq(&read(), &read()));
        symlink("b", root.path().join("a")).unwrap();
        assert_eq!(names(&read()), ["a", "b"]);
        age(root.path());
    }
}
