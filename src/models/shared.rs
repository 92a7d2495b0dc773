//! A complete file of this machine that is read for others.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::OwnedSemaphorePermit;

use crate::files;

/// How many such files are open at once. Who wants one more waits until another one is read.
pub(crate) const MOST_SHARED: usize = 128;

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundFile {
    pub(crate) path: PathBuf,
    /// What tells its contents from others: letters, digits, `.`, `_` and `-`. Of large files it is their SHA-256.
    pub(crate) version: String,
}

/// An open file. What takes its place on the disk does not change what is read of it.
#[derive(Debug)]
pub(crate) struct SharedFile {
    pub(crate) file: File,
    /// In bytes.
    pub(crate) size: u64,
    /// As [`FoundFile::version`].
    pub(crate) version: String,
    /// Frees its place among the open ones when it is dropped.
    pub(crate) permit: OwnedSemaphorePermit,
}

impl SharedFile {
    /// Opens a file; `None` where it has gone. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(found: FoundFile, permit: OwnedSemaphorePermit) -> io::Result<Option<Self>> {
        let FoundFile { path, version } = found;
        match open_sized(&path) {
            Ok((file, size)) => Ok(Some(Self { file, size, version, permit })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn open_sized(path: &Path) -> io::Result<(File, u64)> {
    let file = files::open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}
