//! Small files of the hive's own, which a reader finds whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The bytes of one file system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskSpace {
    /// Free for this user.
    pub(crate) free: u64,
    /// Used by anybody.
    pub(crate) used: u64,
    /// Used, free and reserved for root.
    pub(crate) total: u64,
}

/// The space on the disk of `path`, which must exist.
///
/// # Errors
/// What the file system says.
pub(crate) fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let disk = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Ok(DiskSpace {
        free: bytes(disk.f_bavail),
        used: bytes(disk.f_blocks.saturating_sub(disk.f_bfree)),
        total: bytes(disk.f_blocks),
    })
}

/// The bytes that this user can still write to the disk of `path`, which must exist.
///
/// # Errors
/// What the file system says.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    disk_space(path).map(|disk| disk.free)
}

/// The extension of a file that is being written. What a kill leaves of one is worth nothing.
pub(crate) const DRAFT: &str = "tmp";

/// Puts a file with these contents at `path`, over what may be there, readable by its owner alone.
/// It is written under another name first, so there is one writer of a path at a time. Not flushed to
/// the disk: what the kernel has taken survives a killed process. Answers the file, open at its end.
///
/// # Errors
/// What the file system says; then what was at `path` before is still there.
pub(crate) fn put(path: &Path, contents: &[u8]) -> io::Result<File> {
    let draft = path.with_extension(DRAFT);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(contents)?;
        fs::rename(&draft, path)?;
        Ok(file)
    };
    write().inspect_err(|_| {
        // It may be what fills the disk; the error that led here is the one to report.
        fs::remove_file(&draft).ok();
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_space_on_a_disk_adds_up() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk_space(dir.path()).unwrap();
        assert!(disk.total > 0 && disk.free + disk.used <= disk.total, "{disk:?}");
        assert!(free_bytes(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        put(&path, b"a longer one").unwrap();
        let mut file = put(&path, b"short").unwrap();
        file.write_all(b", and more").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short, and more");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_stays_and_no_draft_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        fs::create_dir(&path).unwrap();
        put(&path, b"a file cannot take a folder's place").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
