//! Whole folders of builds: how large they are, flushed to the disk, removed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use walkdir::WalkDir;

use crate::disk;
use crate::files;

/// The longest name of a folder that is made of a version, in bytes.
const LONGEST_NAME: usize = 100;

/// A version as the name of a folder: what is no letter, digit, point, underscore or hyphen becomes a hyphen. It may
/// come from a server, and a path must not.
pub(super) fn name(version: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = version.chars().map(|c| if is_safe(c) { c } else { '-' }).take(LONGEST_NAME).collect();
    if name.trim_start_matches('.').is_empty() { "unnamed".to_owned() } else { name.replace("..", "--") }
}

/// The bytes of the files in a folder.
pub(super) fn bytes(path: &Path) -> u64 {
    let entries = WalkDir::new(path).into_iter().filter_map(Result::ok);
    let files = entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
    files.fold(0, |sum, file| sum.saturating_add(if file.nlink() > 1 { 0 } else { file.len() }))
}

/// Flushes every file of a folder, and the names in it, to the disk.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    for entry in WalkDir::new(path).contents_first(true) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            files::sync_folder(entry.path())?;
        } else if entry.file_type().is_file() {
            disk::sync(&files::open(entry.path())?)?;
        }
    }
    Ok(())
}

/// Removes a folder or a file, if it is there. Returns the bytes that this frees.
pub(crate) fn remove(path: &Path) -> io::Result<u64> {
    let freed = bytes(path);
    let removed = if path.is_dir() { disk::remove_dir_all(path) } else { disk::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        removed => removed.map(|()| freed),
    }
}

/// When a file, or a folder or something directly in it, was last changed.
pub(super) fn last_change(path: &Path) -> Option<SystemTime> {
    let changed = |path: &Path| fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
    entries(path).iter().map(|path| changed(path)).chain([changed(path)]).max().flatten()
}

/// What lies in a folder; nothing where there is none.
pub(super) fn entries(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_version_is_the_name_of_a_folder() {
        for (version, expected) in [
            ("b6789", "b6789"),
            ("0.3.36", "0.3.36"),
            ("../../etc", "------etc"),
            ("..", "unnamed"),
            ("", "unnamed"),
            ("a/b\0c", "a-b-c"),
            ("模型", "--"),
        ] {
            let name = name(version);
            assert_eq!(name, expected, "{version:?}");
            assert_eq!(Path::new(&name).components().count(), 1);
        }
        assert_eq!(name(&"x".repeat(1000)).len(), LONGEST_NAME);
    }
}
