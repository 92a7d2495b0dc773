//! Finding GGUF files beneath a folder.
//!
//! A folder of the user's may hold anything: loops of links, folders that cannot be read, a whole
//! file system. The walk is bounded in depth and number, never follows a loop, and says what it
//! had to leave out instead of failing.

use std::io;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::hub_cache::HubFile;
use super::split::{self, Group};
use crate::n;
use crate::narration::{self, Level};

/// How deep beneath a folder files are found.
const MAX_DEPTH: usize = 10;
/// How many entries of one folder are looked at.
const MAX_ENTRIES: usize = 200_000;
/// How many unreadable places of one folder are named one by one.
const MAX_COMPLAINTS: usize = 5;

/// The files of one model, and where they were found. Nothing in them has been read yet.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) group: Group,
    pub(super) place: Place,
}

impl Found {
    /// The first file.
    pub(super) fn path(&self) -> &Path {
        &self.group.files[0]
    }

    /// The first file's name.
    pub(super) fn file_name(&self) -> String {
        split::name_of(self.path())
    }
}

/// Where a model's files were found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the hive's store.
    Store,
    /// In a folder of the user's.
    Folder,
    /// In the Hugging Face cache.
    Hub(HubFile),
    /// Nowhere yet: this partial file is all there is of it.
    Partial(PathBuf),
}

/// Whether a walk goes through links to folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// It does, and leaves out links that lead nowhere.
    Follow,
    /// It does not; links to files are yielded, wherever they lead.
    Keep,
}

/// The GGUF files beneath `root`, without the vision parts of other models.
pub(super) fn gguf_files(root: &Path, links: Links) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut complaints = 0;
    let walk = WalkDir::new(root).max_depth(MAX_DEPTH).follow_links(links == Links::Follow);
    for (index, entry) in walk.into_iter().enumerate() {
        if index == MAX_ENTRIES {
            left_out(
                Level::Warn,
                &format!("{} has more than {MAX_ENTRIES} entries: the rest is not looked at", root.display()),
            );
            break;
        }
        match entry {
            Ok(entry) => {
                let name = entry.file_name().to_string_lossy();
                let is_file = entry.file_type().is_file() || entry.file_type().is_symlink();
                if is_file && is_model_name(&name) {
                    files.push(entry.into_path());
                }
            }
            Err(error) if error.loop_ancestor().is_some() => {
                left_out(Level::Debug, &error.to_string());
            }
            // A link that leads nowhere, or a file that went away while we looked.
            Err(error) if error.depth() > 0 && is_missing(&error) => {
                left_out(Level::Debug, &error.to_string());
            }
            Err(error) => {
                complaints += 1;
                if complaints <= MAX_COMPLAINTS {
                    let path = error.path().unwrap_or(root).display();
                    let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                    left_out(Level::Warn, &format!("Could not look into {path}: {reason}"));
                }
            }
        }
    }
    if complaints > MAX_COMPLAINTS {
        left_out(
            Level::Warn,
            &format!(
                "{} more places beneath {} could not be looked into",
                complaints - MAX_COMPLAINTS,
                root.display()
            ),
        );
    }
    files
}

fn is_missing(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Whether a file of that name may be a model. `mmproj` files are the vision parts of other models
/// (llama.cpp's naming).
pub(super) fn is_model_name(file_name: &str) -> bool {
    split::without_extension(file_name).is_some() && !file_name.to_ascii_lowercase().contains("mmproj")
}

/// Tells of what a listing had to leave out: to the job that asked for it or, where none did (the
/// gateway, a page's snapshot), to the log alone.
pub(super) fn left_out(level: Level, what: &str) {
    match (narration::current().is_some(), level) {
        (true, Level::Debug) => n!(debug: "catalog_scan", "{what}"),
        (true, _) => n!(warn: "catalog_scan", "{what}"),
        (false, Level::Debug) => tracing::debug!("{what}"),
        (false, _) => tracing::warn!("{what}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_walk_survives_loops_and_broken_links_and_skips_projectors() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        for name in ["m.gguf", "M2.GGUF", "mmproj-m.gguf", "m.txt", ".gguf"] {
            fs::write(deep.join(name), b"").unwrap();
        }
        symlink(root.path(), deep.join("loop")).unwrap();
        symlink("/nowhere/at/all.gguf", deep.join("broken.gguf")).unwrap();
        let mut files = gguf_files(root.path(), Links::Follow);
        files.sort();
        assert_eq!(files, [deep.join("M2.GGUF"), deep.join("m.gguf")]);
        assert!(gguf_files(root.path(), Links::Keep).contains(&deep.join("broken.gguf")));
        assert!(gguf_files(&root.path().join("missing"), Links::Follow).is_empty());
    }
}
