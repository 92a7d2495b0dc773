//! Deletes files and counts the bytes that this frees.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::disk;
use crate::error::{Failure, Result};

/// Deletes a file, or a link alone. Returns the bytes that this frees: the file's size, and 0 for a
/// link, for a file that has another name elsewhere (a hard link), and for one that does not exist.
pub(crate) fn remove_file(path: &Path) -> Result<u64> {
    let remove = || {
        let metadata = fs::symlink_metadata(path)?;
        disk::remove_file(path)?;
        Ok(if metadata.is_file() && metadata.nlink() == 1 { metadata.len() } else { 0 })
    };
    remove().or_else(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(0),
        _ => Err(Failure::io("delete", path, &error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_link_frees_nothing_until_the_last_name_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        fs::write(&one, b"12345").unwrap();
        fs::hard_link(&one, &two).unwrap();
        assert_eq!(remove_file(&one).unwrap(), 0);
        assert_eq!(remove_file(&two).unwrap(), 5);
        assert_eq!(remove_file(&two).unwrap(), 0);
    }
}
