//! The few calls through which a transfer writes, so that a test can make any one of them fail.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::disk;

/// The disk that transfers write to.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Writes some of the bytes at an offset (`pwrite`). Returns how many.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Waits until the disk has all of the file (`fsync`).
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives a file its final name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Writes all of the bytes at an offset.
    fn write_all_at(&self, file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(file, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The disk of this machine.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        disk::write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        disk::sync(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        disk::rename(from, to)
    }
}
