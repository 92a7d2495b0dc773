//! A file in the making: written and hashed as it arrives, gone again unless it is kept.
//!
//! The file has another name than its final one and is held under an OS lock, so that no listing
//! takes it for a model and no other process writes it. However its job ends (failure,
//! cancellation, a dropped future), the guard removes it and says so; only a kill leaves it behind,
//! for the next start to remove.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::store::remove_file;
use super::units;
use crate::error::{Code, Failure, Result};
use crate::{n, spawn};

/// How many pieces may wait for the disk before the network has to.
const QUEUE: usize = 64;

/// The file under its passing name. Dropping it removes it.
#[derive(Debug)]
pub(super) struct PartialFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
    is_kept: bool,
}

/// Writes and hashes away from the runtime's own threads.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` ends the file; a channel that closes without it abandons the file.
    pieces: mpsc::Sender<Option<Bytes>>,
    work: JoinHandle<io::Result<Written>>,
    path: PathBuf,
}

/// What was written, all of it on the disk.
#[derive(Debug)]
pub(super) struct Written {
    /// In bytes.
    pub(super) length: u64,
    /// In lower-case hexadecimal.
    pub(super) sha256: String,
}

impl PartialFile {
    /// Makes the file and takes its lock. One that nobody holds is removed first.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Failure::io("make the file", path, &error);
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if metadata.is_file() {
                match File::open(path).map_err(failed)?.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Err(held(path)),
                    Err(TryLockError::Error(error)) => return Err(failed(error)),
                }
            }
            remove_file(path)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        file.try_lock().map_err(|_| held(path))?;
        Ok(Self { path: path.to_owned(), file, is_kept: false })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the writer.
    pub(super) fn writer(&self) -> Result<Writer> {
        let mut file = self.file.try_clone().map_err(|error| Failure::io("write", &self.path, &error))?;
        let (pieces, mut incoming) = mpsc::channel::<Option<Bytes>>(QUEUE);
        let work = spawn::blocking(move || {
            let (mut hash, mut length) = (Sha256::new(), 0);
            loop {
                let Some(message) = incoming.blocking_recv() else {
                    return Err(io::Error::other("the file was abandoned"));
                };
                let Some(piece) = message else { break };
                file.write_all(&piece)?;
                hash.update(&piece);
                length += piece.len() as u64;
            }
            // Before any rename: a name that survives a power cut must not lead to half a file.
            file.sync_all()?;
            Ok(Written { length, sha256: units::hex(&hash.finalize()) })
        });
        Ok(Writer { pieces, work, path: self.path.clone() })
    }

    /// Gives the file its final name, over what has it now.
    pub(super) fn keep(mut self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).map_err(|error| Failure::io("put down", target, &error))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        match remove_file(&self.path) {
            Ok(bytes) => n!("model_download_removed", "Removed the partial file ({})", units::bytes(bytes)),
            Err(failure) => n!(warn: "model_download_removed", "The partial file stays: {failure}"),
        }
    }
}

impl Writer {
    /// Hands over a piece; waits while the disk is behind.
    ///
    /// # Errors
    /// Where an earlier piece could not be written; [`Code::DiskFull`] where that was why.
    pub(super) async fn write(&mut self, piece: Bytes) -> Result<()> {
        if self.pieces.send(Some(piece)).await.is_ok() {
            return Ok(());
        }
        match self.outcome().await {
            Err(failure) => Err(failure),
            Ok(_) => Err(Failure::internal("the writer of a download ended early")),
        }
    }

    /// Waits until everything is on the disk.
    pub(super) async fn finish(mut self) -> Result<Written> {
        // Where the writer is gone, its outcome says why.
        let _ = self.pieces.send(None).await;
        self.outcome().await
    }

    async fn outcome(&mut self) -> Result<Written> {
        (&mut self.work)
            .await
            .map_err(|error| Failure::internal("the writer of a download broke off").detail(error))?
            .map_err(|error| Failure::io("write", &self.path, &error))
    }
}

fn held(path: &Path) -> Failure {
    Failure::new(Code::ModelInUse, format!("another process is writing {}", path.display()))
        .hint("wait until it has finished, or stop it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_hashed_and_kept_only_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("m.gguf.partial"), folder.path().join("m.gguf"));
        fs::write(&path, b"left by a killed hive").unwrap();
        let partial = PartialFile::create(&path).unwrap();
        assert_eq!(PartialFile::create(&path).unwrap_err().code, Code::ModelInUse);
        let mut writer = partial.writer().unwrap();
        writer.write(Bytes::from_static(b"a")).await.unwrap();
        writer.write(Bytes::from_static(b"bc")).await.unwrap();
        let written = writer.finish().await.unwrap();
        assert_eq!(written.length, 3);
        assert_eq!(written.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        partial.keep(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"abc");

        drop(PartialFile::create(&path).unwrap());
        assert!(!path.exists());
    }
}
