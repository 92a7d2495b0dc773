//! Every change that the hive makes to the disk goes through these functions, so that a test can make any
//! one of them fail, or end the process there (`disk/fault.rs`). `clippy.toml` bans the other ways.

#![expect(clippy::disallowed_methods, reason = "the bans of clippy.toml hold everywhere but in these files")]

mod fault;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::Path;

use fault::Change;

pub(crate) use fault::VARIABLE as FAULT_VARIABLE;

/// As [`fs::create_dir_all`].
pub(crate) fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    fault::before(Change::Takes)?;
    fs::create_dir_all(path)
}

/// Makes a folder, and those above it, that its owner alone may enter.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    fault::before(Change::Takes)?;
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// As [`fs::write`].
pub(crate) fn write(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> io::Result<()> {
    fault::before(Change::Takes)?;
    fs::write(path, contents)
}

/// Opens a file that may be made or emptied by that.
pub(crate) fn open(options: &OpenOptions, path: &Path) -> io::Result<File> {
    fault::before(Change::Takes)?;
    options.open(path)
}

/// As [`Write::write_all`].
pub(crate) fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    fault::before_write(file, bytes)?;
    file.write_all(bytes)
}

/// Writes some of the bytes at an offset (`pwrite`). Returns how many.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    fault::before(Change::Takes)?;
    file.write_at(bytes, offset)
}

/// As [`File::set_len`].
pub(crate) fn set_len(file: &File, length: u64) -> io::Result<()> {
    fault::before(if length == 0 { Change::Frees } else { Change::Takes })?;
    file.set_len(length)
}

/// As [`File::sync_all`].
pub(crate) fn sync(file: &File) -> io::Result<()> {
    fault::before(Change::Takes)?;
    file.sync_all()
}

/// As [`std::os::unix::fs::symlink`].
pub(crate) fn symlink(target: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    fault::before(Change::Takes)?;
    std::os::unix::fs::symlink(target, link)
}

/// As [`fs::hard_link`].
pub(crate) fn hard_link(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    fault::before(Change::Takes)?;
    fs::hard_link(original, link)
}

/// Sets a file's permissions.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fault::before(Change::Frees)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// As [`fs::rename`].
pub(crate) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    fault::before(Change::Frees)?;
    fs::rename(from, to)
}

/// As [`fs::remove_file`].
pub(crate) fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    fault::before(Change::Frees)?;
    fs::remove_file(path)
}

/// As [`fs::remove_dir`].
pub(crate) fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    fault::before(Change::Frees)?;
    fs::remove_dir(path)
}

/// As [`fs::remove_dir_all`].
pub(crate) fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    fault::before(Change::Frees)?;
    fs::remove_dir_all(path)
}
