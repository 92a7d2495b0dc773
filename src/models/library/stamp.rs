//! A cache of what was read from files and folders, checked against their metadata.
//!
//! A value is reused while the metadata of its path has the same [`Stamp`]: identity, size and times of
//! change. A path that changed a moment ago is not remembered: two changes within one tick of the file
//! system's clock have the same time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// How long after its last change a path is not remembered: more than a tick of any file system.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Tells one state of a file or folder from another.
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

    /// Device and inode: two paths with the same identity are one file or folder.
    pub(crate) const fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// Whether the last change is so long ago that another change would have another time.
pub(crate) fn is_settled(metadata: &Metadata) -> bool {
    let changed = metadata.modified().ok();
    changed.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default() > SETTLE_TIME
}

/// Values by path, each with the stamp of the metadata under which it was read.
///
/// Paths are compared byte by byte, without resolving links: callers reach a file by the same path
/// each time.
#[derive(Debug)]
pub(crate) struct StampCache<V> {
    entries: Mutex<HashMap<OsString, CacheEntry<V>>>,
    /// The most values that are remembered.
    capacity: usize,
}

#[derive(Debug)]
struct CacheEntry<V> {
    stamp: Stamp,
    value: V,
    /// Whether it was requested since the last [`StampCache::forget_unused`].
    is_used: bool,
}

impl<V: Clone> StampCache<V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Mutex::default(), capacity }
    }

    /// The value for `path`, whose `metadata` the caller has just read: the remembered one while the
    /// stamp is the same, otherwise what `read` returns.
    ///
    /// # Errors
    /// Those of `read`; then nothing is remembered.
    pub(crate) fn get_or_read<E>(
        &self,
        path: &Path,
        metadata: &Metadata,
        read: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let (stamp, key) = (Stamp::of(metadata), path.as_os_str());
        if let Some(entry) = self.entries.lock().get_mut(key)
            && entry.stamp == stamp
        {
            entry.is_used = true;
            return Ok(entry.value.clone());
        }
        let value = read()?;
        let mut entries = self.entries.lock();
        if is_settled(metadata) && (entries.len() < self.capacity || entries.contains_key(key)) {
            entries.insert(key.to_owned(), CacheEntry { stamp, value: value.clone(), is_used: true });
        } else {
            entries.remove(key);
        }
        Ok(value)
    }

    /// Forgets each value that was not requested since the last call.
    pub(crate) fn forget_unused(&self) {
        self.entries.lock().retain(|_, entry| std::mem::take(&mut entry.is_used));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs;

    use super::*;
    use crate::models::testing::age;

    #[test]
    fn a_value_is_read_again_when_its_path_changes_and_while_it_is_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let cache = StampCache::new(1);
        let mut reads = 0;
        let mut get = |path: &Path| {
            let read = || {
                reads += 1;
                Ok::<_, Infallible>(reads)
            };
            cache.get_or_read(path, &fs::metadata(path).unwrap(), read).unwrap()
        };
        fs::write(&path, "one").unwrap();
        assert_eq!([get(&path), get(&path)], [1, 2], "another change may have the same time");
        age(&path);
        assert_eq!([get(&path), get(&path)], [3, 3]);
        fs::write(&path, "two").unwrap();
        assert_eq!(get(&path), 4);
        age(&path);
        age(folder.path());
        assert_eq!([get(&path), get(folder.path()), get(folder.path())], [5, 6, 7], "there is room for one");
        cache.forget_unused();
        assert_eq!(cache.entries.lock().len(), 1, "it was requested since");
        cache.forget_unused();
        assert!(cache.entries.lock().is_empty());
    }

    #[test]
    fn a_failed_read_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        age(folder.path());
        let cache = StampCache::new(1);
        let metadata = fs::metadata(folder.path()).unwrap();
        assert_eq!(cache.get_or_read(folder.path(), &metadata, || Err::<u8, _>("no")), Err("no"));
        assert_eq!(cache.get_or_read::<&str>(folder.path(), &metadata, || Ok(1)), Ok(1));
    }
}
