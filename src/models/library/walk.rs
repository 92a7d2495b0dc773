//! Finds the GGUF files beneath a folder, or all files.
//!
//! A user's folder may hold anything: loops of links, folders that cannot be read, a whole file
//! system. The walk is bounded in depth and number, never follows a loop, and reports what it leaves
//! out instead of failing.

use std::io;
use std::path::{Path, PathBuf};

use crate::models::library::file_name::is_model_name;
use crate::models::library::folders::EntryKind;
use crate::models::library::probe::DiskProbe;
use crate::narration::Level;

/// How many levels beneath a folder are searched.
const MAX_DEPTH: usize = 10;
/// How many entries beneath a folder are examined.
const MAX_ENTRIES: usize = 200_000;
/// How many unreadable paths beneath a folder are named one by one.
const MAX_NAMED: usize = 5;

/// How a walk treats symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkPolicy {
    /// Links to folders are followed; broken links are left out.
    Follow,
    /// Links are not followed; each link is returned as a file, broken or not.
    Keep,
}

/// The GGUF files beneath `root`.
pub(crate) fn gguf_files(root: &Path, links: LinkPolicy, probe: &DiskProbe<'_>) -> Vec<PathBuf> {
    files(root, links, probe, is_model_name)
}

/// The files beneath `root` whose names are wanted.
pub(crate) fn files(
    root: &Path,
    links: LinkPolicy,
    probe: &DiskProbe<'_>,
    is_wanted: fn(&str) -> bool,
) -> Vec<PathBuf> {
    let mut walk = Walk { root, links, probe, is_wanted, files: Vec::new(), entries: 0, unreadable: 0 };
    walk.enter(root, &mut Vec::new());
    if walk.unreadable > MAX_NAMED {
        let more = walk.unreadable - MAX_NAMED;
        probe.report_omission(
            Level::Warn,
            format!("{more} more paths beneath {} could not be looked into", root.display()),
        );
    }
    walk.files
}

/// A walk through a folder and the folders beneath it.
struct Walk<'a> {
    root: &'a Path,
    links: LinkPolicy,
    probe: &'a DiskProbe<'a>,
    is_wanted: fn(&str) -> bool,
    files: Vec<PathBuf>,
    /// How many entries were examined.
    entries: usize,
    /// How many paths could not be read.
    unreadable: usize,
}

impl Walk<'_> {
    /// Searches a folder; `above` are the identities of the folders that contain it.
    fn enter(&mut self, path: &Path, above: &mut Vec<(u64, u64)>) {
        let folder = match self.probe.folder(path) {
            Ok(folder) => folder,
            Err(error) if above.is_empty() && error.kind() == io::ErrorKind::NotADirectory => {
                self.add_if_wanted(path);
                return;
            }
            Err(error) => return self.report_unreadable(path, above.is_empty(), &error),
        };
        if above.contains(&folder.identity) {
            let text = format!("{} links to a folder that contains it", path.display());
            return self.probe.report_omission(Level::Debug, text);
        }
        above.push(folder.identity);
        for entry in &folder.entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                if self.entries == MAX_ENTRIES + 1 {
                    let root = self.root.display();
                    self.probe.report_omission(
                        Level::Warn,
                        format!("{root} has more than {MAX_ENTRIES} entries: the rest is left out"),
                    );
                }
                break;
            }
            let is_deep = above.len() == MAX_DEPTH;
            match &entry.kind {
                EntryKind::File => self.add_if_wanted(&entry.path),
                EntryKind::Folder if !is_deep => self.enter(&entry.path, above),
                EntryKind::Link(_) if self.links == LinkPolicy::Keep => self.add_if_wanted(&entry.path),
                EntryKind::Link(_) => match self.probe.metadata(&entry.path) {
                    Ok(metadata) if metadata.is_file() => self.add_if_wanted(&entry.path),
                    Ok(metadata) if metadata.is_dir() && !is_deep => self.enter(&entry.path, above),
                    Ok(_) => {}
                    Err(error) => self.report_unreadable(&entry.path, false, &error),
                },
                EntryKind::Folder | EntryKind::Other => {}
            }
        }
        above.pop();
    }

    fn add_if_wanted(&mut self, path: &Path) {
        if path.file_name().is_some_and(|name| (self.is_wanted)(&name.to_string_lossy())) {
            self.files.push(path.to_owned());
        }
    }

    fn report_unreadable(&mut self, path: &Path, is_root: bool, error: &io::Error) {
        let text = format!("Could not look into {}: {error}", path.display());
        // A broken link, or a file that was removed in the meantime.
        if !is_root && error.kind() == io::ErrorKind::NotFound {
            return self.probe.report_omission(Level::Debug, text);
        }
        self.unreadable += 1;
        if self.unreadable <= MAX_NAMED {
            self.probe.report_omission(Level::Warn, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::models::library::folders::FolderCache;

    #[test]
    fn a_walk_survives_loops_and_broken_links() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        for name in ["m.gguf", "M2.GGUF", "m.txt", ".gguf"] {
            fs::write(deep.join(name), b"").unwrap();
        }
        symlink(root.path(), deep.join("loop")).unwrap();
        symlink("/nowhere/at/all.gguf", deep.join("broken.gguf")).unwrap();
        let cache = FolderCache::default();
        let gguf_files = |root: &Path, links| gguf_files(root, links, &DiskProbe::new(&cache));
        let mut files = gguf_files(root.path(), LinkPolicy::Follow);
        files.sort();
        assert_eq!(files, [deep.join("M2.GGUF"), deep.join("m.gguf")]);
        assert!(gguf_files(root.path(), LinkPolicy::Keep).contains(&deep.join("broken.gguf")));
        assert!(gguf_files(&root.path().join("missing"), LinkPolicy::Follow).is_empty());
        assert_eq!(gguf_files(&deep.join("m.gguf"), LinkPolicy::Follow), [deep.join("m.gguf")]);
        let deepest = root.path().join("1/2/3/4/5/6/7/8/9");
        fs::create_dir_all(deepest.join("10")).unwrap();
        fs::write(deepest.join("in.gguf"), b"").unwrap();
        fs::write(deepest.join("10/out.gguf"), b"").unwrap();
        assert_eq!(gguf_files(&root.path().join("1"), LinkPolicy::Keep).len(), 2);
        assert!(!gguf_files(root.path(), LinkPolicy::Keep).contains(&deepest.join("10/out.gguf")));
    }
}
