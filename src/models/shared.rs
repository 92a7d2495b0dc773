//! A complete file of this machine that is read for others.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::files;
use crate::models::transfer::shelf::Shelved;

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

/// A file that is being transferred to this machine.
#[derive(Debug)]
pub(crate) struct GrowingFile {
    pub(crate) file: Arc<File>,
    /// What is here of it. Its sender ends with the transfer.
    pub(crate) shelved: watch::Receiver<Shelved>,
    /// As [`SharedFile::permit`].
    #[expect(dead_code, reason = "it is held while the file is read")]
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

#[cfg(test)]
pub(crate) mod testing {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::models::transfer::journal::Stored;
    use crate::models::transfer::shelf::Shelf;

    /// A file that grows as a test wants it.
    pub(crate) struct Growth {
        file: File,
        chunk_bytes: u64,
        shelf: Shelf,
    }

    impl Growth {
        pub(crate) fn begin(size: u64, chunk_bytes: u64) -> Self {
            let (file, shelf) = (tempfile::tempfile().unwrap(), Shelf::default());
            let none = vec![Stored::default(); usize::try_from(size.div_ceil(chunk_bytes)).unwrap()];
            shelf.begin(Some(size), chunk_bytes, &none);
            Self { file, chunk_bytes, shelf }
        }

        pub(crate) fn store(&self, chunk: usize, bytes: &[u8]) {
            self.file.write_all_at(bytes, chunk as u64 * self.chunk_bytes).unwrap();
            self.shelf.set(chunk, u32::try_from(bytes.len()).unwrap());
        }

        pub(crate) fn file(&self, permit: OwnedSemaphorePermit) -> GrowingFile {
            let file = Arc::new(self.file.try_clone().unwrap());
            GrowingFile { file, shelved: self.shelf.subscribe(), permit }
        }
    }
}
