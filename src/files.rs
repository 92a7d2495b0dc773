//! Files that are replaced atomically, files that are only read, the program's own file, and the free space
//! of disks.

pub(crate) mod versioned;
mod private;
mod reading;

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::OFlags;

use crate::disk;
use crate::error::{Failure, Result};

pub(crate) use private::read_private;
pub(crate) use reading::{SMALL, open, read, read_text, sync_folder};

/// The file of the running program.
///
/// # Errors
/// `internal`: the system does not know its path.
pub(crate) fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|error| {
        Failure::internal(format!("could not find the path of the running executable: {error}"))
    })
}

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
/// The file system cannot be queried, or `path` does not exist.
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
/// The file system cannot be queried, or `path` does not exist.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    disk_space(path).map(|disk| disk.free)
}

/// When a file was changed, in milliseconds since the Unix epoch; `None` where the file system does not tell.
pub(crate) fn modified_ms(metadata: &Metadata) -> Option<u64> {
    u64::try_from(metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// The extension of a draft. A draft that a kill leaves behind is worthless.
pub(crate) const DRAFT: &str = "tmp";

/// A file that is written under another name, beside its target, and then renamed over it: a reader
/// finds the old file or the new one, never a part of it. There must be one writer of a target at a
/// time. A draft that is dropped is removed.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    path: PathBuf,
    target: &'a Path,
    is_published: bool,
}

impl<'a> Draft<'a> {
    /// The draft of `target`. It does not exist until the caller writes it.
    pub(crate) fn of(target: &'a Path) -> Self {
        Self { path: target.with_extension(DRAFT), target, is_published: false }
    }

    /// The draft of `target` at a path of the caller's choice on the same file system.
    pub(crate) fn at(path: PathBuf, target: &'a Path) -> Self {
        Self { path, target, is_published: false }
    }

    /// The path to write to.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the draft to its target.
    ///
    /// # Errors
    /// The rename failed. The target is as before, and the draft is removed.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        disk::rename(&self.path, self.target)?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            // It may be what fills the disk. The error to report is the one that led here.
            disk::remove_file(&self.path).ok();
        }
    }
}

/// Removes the draft of `target` that a kill has left behind. Nobody may write `target` meanwhile.
pub(crate) fn remove_draft(target: &Path) {
    // Most often there is none; and one that stays is worthless, and is replaced by the next.
    disk::remove_file(target.with_extension(DRAFT)).ok();
}

/// Puts a file with these contents at `path`, readable by its owner alone, and returns it, open at
/// its end. It replaces the file that was there. It is not flushed to the disk: what the kernel has
/// taken survives a killed process.
///
/// # Errors
/// The file system failed. `path` is as before.
pub(crate) fn put(path: &Path, contents: &[u8]) -> io::Result<File> {
    let draft = Draft::of(path);
    let file = write(draft.path(), contents)?;
    draft.publish()?;
    Ok(file)
}

/// As [`put`], and flushed to the disk: the contents before they get their name, then the name.
///
/// # Errors
/// The file system failed. `path` is as before, or has the new contents.
pub(crate) fn put_durable(path: &Path, contents: &[u8]) -> io::Result<()> {
    let draft = Draft::of(path);
    disk::sync(&write(draft.path(), contents)?)?;
    draft.publish()?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// What a damaged file of the hive has at the end of its name once it is set aside.
pub(crate) const DAMAGED: &str = ".damaged";

/// The name under which a damaged file is set aside.
pub(crate) fn damaged_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DAMAGED);
    name.into()
}

/// Keeps a damaged file under [`damaged_path`] too, so that the caller may replace or remove it. What was
/// set aside earlier stays.
///
/// # Errors
/// The file system failed. `path` is as before.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let kept_as = damaged_path(path);
    match disk::hard_link(path, &kept_as) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(kept_as),
    }
}

/// As [`set_aside`], where there is such a file.
///
/// # Errors
/// The file system failed. `path` is as before.
pub(crate) fn set_aside_if_there(path: &Path) -> io::Result<()> {
    match set_aside(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the file is one that was set aside.
pub(crate) fn is_set_aside(path: &Path) -> bool {
    path.to_string_lossy().ends_with(DAMAGED)
}

/// The options to open a file of the data folder: for its owner alone, not through a link, and without
/// waiting for the other end of a FIFO.
pub(crate) fn own() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

fn write(path: &Path, contents: &[u8]) -> io::Result<File> {
    let mut file = disk::open(own().write(true).create(true).truncate(true), path)?;
    disk::write_all(&mut file, contents)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn free_and_used_bytes_are_within_the_total() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk_space(dir.path()).unwrap();
        assert!(disk.total > 0 && disk.free + disk.used <= disk.total, "{disk:?}");
        assert!(free_bytes(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_file_is_replaced_and_can_be_appended_to() {
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
    fn a_draft_is_not_written_through_a_link_or_into_a_fifo() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("x.json"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, b"mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("x.tmp")).unwrap();
        put(&path, b"text").unwrap_err();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
        #[cfg(target_os = "linux")]
        {
            rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("x.tmp"), 0o600.into()).unwrap();
            put(&path, b"text").unwrap_err();
        }
    }

    #[test]
    fn a_failed_replacement_leaves_the_target_and_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        fs::create_dir(&path).unwrap();
        put(&path, b"a file cannot take a folder's place").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
