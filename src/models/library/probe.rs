//! Reads the disk for one listing, and notes what must be read again to know whether another listing
//! would find the same.
//!
//! A [`DiskProbe`] notes each path whose metadata it read, with the answer, before it reads what is
//! there. While all answers are the same, so is what was read; so a listing whose [`DiskSnapshot`] is
//! current need not be made again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::models::library::folders::{EntryKind, Folder, FolderCache, Link};
use crate::models::library::stamp::{Stamp, is_settled};
use crate::models::transfer::journal;
use crate::models::transfer::partial::{self, Unfinished};
use crate::n;
use crate::narration::{self, Level};

/// How many links in a row are followed to the place of a file: as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Reads the disk. Each folder is read once, so that one listing has one state of it.
#[derive(Debug)]
pub(crate) struct DiskProbe<'a> {
    cache: &'a FolderCache,
    folders: RefCell<HashMap<OsString, Arc<Folder>>>,
    /// The canonical paths of folders, where they have one.
    canonical: RefCell<HashMap<OsString, Option<PathBuf>>>,
    observations: RefCell<Vec<Observation>>,
    omissions: RefCell<Vec<Omission>>,
    /// Whether what was read stays the same for as long as the observations do.
    is_stable: Cell<bool>,
}

/// What a probe read of the disk.
#[derive(Debug)]
pub(crate) struct DiskSnapshot {
    observations: Vec<Observation>,
    omissions: Vec<Omission>,
}

/// The metadata of a path at one moment.
#[derive(Debug)]
struct Observation {
    path: PathBuf,
    /// Whether links were followed.
    follows_links: bool,
    /// `None` where nothing was there.
    stamp: Option<Stamp>,
}

/// Something that a listing had to leave out.
#[derive(Debug)]
struct Omission {
    level: Level,
    text: String,
}

fn read_metadata(path: &Path, follows_links: bool) -> io::Result<Metadata> {
    if follows_links { fs::metadata(path) } else { fs::symlink_metadata(path) }
}

impl<'a> DiskProbe<'a> {
    pub(crate) fn new(cache: &'a FolderCache) -> Self {
        Self {
            cache,
            folders: RefCell::default(),
            canonical: RefCell::default(),
            observations: RefCell::default(),
            omissions: RefCell::default(),
            is_stable: Cell::new(true),
        }
    }

    /// The metadata of `path`; links are followed. Blocks on the disk.
    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.observe(path, true)
    }

    /// The metadata of `path`; links are not followed. Blocks on the disk.
    pub(crate) fn symlink_metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.observe(path, false)
    }

    fn observe(&self, path: &Path, follows_links: bool) -> io::Result<Metadata> {
        self.cache.look_at(path);
        let result = read_metadata(path, follows_links);
        let stamp = match &result {
            Ok(metadata) => {
                if !is_settled(metadata) {
                    self.mark_unstable();
                }
                Some(Stamp::of(metadata))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.mark_unstable();
                }
                None
            }
        };
        self.observations.borrow_mut().push(Observation { path: path.to_owned(), follows_links, stamp });
        result
    }

    /// The contents of the folder at `path`. Blocks on the disk.
    pub(crate) fn folder(&self, path: &Path) -> io::Result<Arc<Folder>> {
        if let Some(folder) = self.folders.borrow().get(path.as_os_str()) {
            return Ok(Arc::clone(folder));
        }
        let metadata = self.metadata(path)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let folder = self.cache.folder(path, &metadata).inspect_err(|_| self.mark_unstable())?;
        self.folders.borrow_mut().insert(path.as_os_str().to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    /// The contents of a folder. `None` where there is none; one that cannot be read is reported as
    /// an omission. Blocks on the disk.
    pub(crate) fn folder_if_readable(&self, path: &Path) -> Option<Arc<Folder>> {
        self.folder(path)
            .inspect_err(|error| {
                if let Some(text) = unreadable(path, error) {
                    self.report_omission(Level::Warn, text);
                }
            })
            .ok()
    }

    /// The text of a small file. `None` where none can be read. Blocks on the disk.
    pub(crate) fn text(&self, path: &Path) -> Option<Arc<str>> {
        let metadata = self.metadata(path).ok()?;
        self.cache.text(path, &metadata).inspect_err(|_| self.mark_unstable()).ok()
    }

    /// The link at `path`. `None` where there is none.
    pub(crate) fn link(&self, path: &Path) -> Option<Link> {
        let (folder, name) = (path.parent()?, path.file_name()?);
        let Some(folder) = self.folders.borrow().get(folder.as_os_str()).cloned() else {
            // Reading the link leaves no observation.
            self.mark_unstable();
            return Link::read(path);
        };
        let index = folder.entries.binary_search_by(|entry| entry.name.as_os_str().cmp(name)).ok()?;
        match &folder.entries[index].kind {
            EntryKind::Link(link) => Some(link.clone()),
            _ => None,
        }
    }

    /// Where the file at `path` really is: its path in its canonical folder, after all links. The file
    /// need not exist; a link that leads nowhere leads to the place that it names.
    pub(crate) fn place(&self, path: &Path) -> PathBuf {
        let mut place = self.in_canonical_folder(path);
        let mut target = self.link(path).map(|link| link.target);
        for _ in 0..MAX_LINKS {
            let Some(next) = target else { break };
            place = self.in_canonical_folder(&place.parent().unwrap_or(&place).join(next));
            target = fs::read_link(&place).ok();
        }
        place
    }

    fn in_canonical_folder(&self, path: &Path) -> PathBuf {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
        self.canonical(folder).map_or_else(|| path.to_owned(), |folder| folder.join(name))
    }

    /// The canonical path of a folder. `None` where it has none. Blocks on the disk.
    pub(crate) fn canonical(&self, folder: &Path) -> Option<PathBuf> {
        let mut known = self.canonical.borrow_mut();
        let read = || {
            self.cache.look_at(folder);
            folder.canonicalize().ok()
        };
        known.entry(folder.as_os_str().to_owned()).or_insert_with(read).clone()
    }

    /// The unfinished download at `path`, if there is one that can be resumed. Blocks on the disk.
    pub(crate) fn unfinished(&self, path: &Path) -> Option<Unfinished> {
        // Observed before they are read.
        let _ = (self.symlink_metadata(path), self.symlink_metadata(&journal::path_of(path)));
        partial::unfinished_at(path, None)
    }

    /// Reports something that the listing has to leave out.
    pub(crate) fn report_omission(&self, level: Level, text: String) {
        report_omission(level, &text);
        self.omissions.borrow_mut().push(Omission { level, text });
    }

    /// Notes that another probe may find something else although every observation is the same:
    /// something could not be read, or changed a moment ago.
    pub(crate) fn mark_unstable(&self) {
        self.is_stable.set(false);
    }

    /// What was read. `None` where another probe may find something else although every observation
    /// is the same.
    pub(crate) fn into_snapshot(self) -> Option<DiskSnapshot> {
        let (observations, omissions) = (self.observations.into_inner(), self.omissions.into_inner());
        self.is_stable.get().then_some(DiskSnapshot { observations, omissions })
    }
}

impl DiskSnapshot {
    /// Whether another probe with this cache would read the same. Blocks on the disk.
    pub(crate) fn is_current(&self, cache: &FolderCache) -> bool {
        self.observations.iter().all(|observed| {
            cache.look_at(&observed.path);
            match read_metadata(&observed.path, observed.follows_links) {
                Ok(metadata) => observed.stamp == Some(Stamp::of(&metadata)),
                Err(error) => observed.stamp.is_none() && error.kind() == io::ErrorKind::NotFound,
            }
        })
    }

    /// Reports again what was left out.
    pub(crate) fn report_omissions(&self) {
        for omission in &self.omissions {
            report_omission(omission.level, &omission.text);
        }
    }
}

/// Reports what a listing had to leave out: to the job that requested it or, outside a job (the
/// gateway, a page's snapshot), to the log alone.
fn report_omission(level: Level, text: &str) {
    match (narration::current().is_some(), level) {
        (true, Level::Debug) => n!(debug: "catalog_scan", "{text}"),
        (true, _) => n!(warn: "catalog_scan", "{text}"),
        (false, Level::Debug) => tracing::debug!("{text}"),
        (false, _) => tracing::warn!("{text}"),
    }
}

/// The paths in a folder, sorted, which are not remembered. A folder that does not exist is empty; one that
/// cannot be read is logged. Blocks on the disk, and notes in `folders` that it looks there.
pub(crate) fn paths_in(folder: &Path, folders: &FolderCache) -> Vec<PathBuf> {
    folders.look_at(folder);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            if let Some(text) = unreadable(folder, &error) {
                tracing::warn!("{text}");
            }
            return Vec::new();
        }
    };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort_unstable();
    paths
}

/// The text about a folder that cannot be read. `None` where the folder does not exist.
fn unreadable(folder: &Path, error: &io::Error) -> Option<String> {
    (!is_gone(error)).then(|| format!("Could not look into {}: {error}", folder.display()))
}

/// Whether the error says that there is nothing at a path. Every other one leaves that open.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::models::testing::age;

    #[test]
    fn a_probe_has_one_state_of_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let cache = FolderCache::default();
        let link = |probe: &DiskProbe<'_>| probe.link(&root.path().join("a")).unwrap().target;
        File::create(root.path().join("b")).unwrap();
        symlink("b", root.path().join("a")).unwrap();
        age(root.path());
        let probe = DiskProbe::new(&cache);
        assert_eq!(link(&probe), Path::new("b"), "read without its folder");
        let folder = probe.folder(root.path()).unwrap();
        assert_eq!(link(&probe), Path::new("b"));
        assert_eq!(probe.link(&root.path().join("b")), None);
        // Replaced as writers replace a link: made under another name and renamed.
        symlink("c", root.path().join("draft")).unwrap();
        fs::rename(root.path().join("draft"), root.path().join("a")).unwrap();
        assert!(Arc::ptr_eq(&folder, &probe.folder(root.path()).unwrap()));
        let probe = DiskProbe::new(&cache);
        probe.folder(root.path()).unwrap();
        assert_eq!(link(&probe), Path::new("c"));
        fs::remove_dir_all(root.path()).unwrap();
        assert!(DiskProbe::new(&cache).folder(root.path()).is_err());
    }

    #[test]
    fn links_and_linked_folders_lead_to_one_place() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let file = root.join("real/m.gguf");
        fs::create_dir(root.join("real")).unwrap();
        File::create(&file).unwrap();
        symlink("real", root.join("folder")).unwrap();
        symlink("folder/m.gguf", root.join("link")).unwrap();
        symlink("link", root.join("second")).unwrap();
        symlink("folder/gone", root.join("broken")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let cache = FolderCache::default();
        let probe = DiskProbe::new(&cache);
        for path in ["real/m.gguf", "folder/m.gguf", "link", "second"] {
            assert_eq!(probe.place(&root.join(path)), file, "{path}");
        }
        assert_eq!(probe.place(&root.join("broken")), root.join("real/gone"));
        assert_eq!(probe.place(&root.join("no/where")), root.join("no/where"));
        assert_eq!(probe.place(&root.join("loop")), root.join("loop"));
    }

    #[test]
    fn a_snapshot_is_current_until_an_observation_differs() {
        let root = tempfile::tempdir().unwrap();
        let (file, absent, folder) =
            (root.path().join("file"), root.path().join("absent"), root.path().join("folder"));
        fs::create_dir(&folder).unwrap();
        let cache = FolderCache::default();
        let snapshot = || {
            let probe = DiskProbe::new(&cache);
            let _ = (probe.metadata(&file), probe.symlink_metadata(&absent), probe.folder(&folder));
            probe.report_omission(Level::Debug, "a remark".into());
            probe.into_snapshot()
        };
        fs::write(&file, "one").unwrap();
        assert!(snapshot().is_none(), "it has just changed");
        let aged = || {
            age(&file);
            age(&folder);
            snapshot().expect("nothing is fresh")
        };
        let before = aged();
        assert!(before.is_current(&cache));
        assert_eq!(before.omissions.len(), 1);
        fs::write(&file, "two").unwrap();
        assert!(!before.is_current(&cache), "a file was written in place");
        let before = aged();
        File::create(folder.join("new")).unwrap();
        assert!(!before.is_current(&cache), "a folder has one more name");
        let before = aged();
        symlink("nowhere", &absent).unwrap();
        assert!(!before.is_current(&cache), "a missing path exists");
        fs::remove_file(&absent).unwrap();
        assert!(before.is_current(&cache));
        fs::remove_file(&file).unwrap();
        assert!(!before.is_current(&cache), "a file is gone");
    }

    #[test]
    fn a_probe_that_could_not_read_something_gives_no_snapshot() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, [0xff]).unwrap();
        age(&file);
        let cache = FolderCache::default();
        let probe = DiskProbe::new(&cache);
        assert_eq!(probe.text(&file), None, "it is not UTF-8");
        assert!(probe.folder(&file).is_err());
        assert!(probe.into_snapshot().is_none());
    }
}
