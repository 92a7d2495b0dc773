//! Files of this machine for others: programs of the house, and other hives.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::Catalog;
use crate::error::{Failure, Result};
use crate::files;
use crate::models::digests::Digests;
use crate::models::library::{Library, blobs};
use crate::models::shared::{FoundFile, GrowingFile, SharedFile};
use crate::text::is_sha256;

impl Catalog {
    /// The complete file of this machine with that SHA-256 (64 lower-case hexadecimal digits), as far as it is known
    /// without reading files. Waits while too many files are open. What is in it may be something else, if somebody
    /// has written to it: who takes it hashes it.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer, and those of the file system.
    pub(crate) async fn blob(&self, sha256: &str) -> Result<Option<SharedFile>> {
        let (sha256, digests) = (sha256.to_owned(), Arc::clone(&self.digests));
        self.open_shared(move |library| {
            let path = find(library, &digests, &sha256)?;
            Some(FoundFile { path, version: sha256 })
        })
        .await
    }

    /// Whether there is such a file.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer.
    pub(crate) async fn has_blob(&self, sha256: &str) -> Result<bool> {
        let sha256 = sha256.to_owned();
        self.look(move |catalog| find(&catalog.places.library, &catalog.digests, &sha256).is_some()).await
    }

    /// The file with that SHA-256 that is being transferred to this machine. Waits while too many files are open.
    ///
    /// # Errors
    /// As [`Self::blob`].
    pub(crate) async fn growing(&self, sha256: &str) -> Result<Option<GrowingFile>> {
        let Some((path, shelved)) = self.transfers.growing(sha256) else { return Ok(None) };
        let permit = self.permit().await?;
        self.look(move |_| match files::open(&path) {
            Ok(file) => Ok(Some(GrowingFile { file: Arc::new(file), shelved, permit })),
            // It has its final name, or has failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::io("read", &path, &error)),
        })
        .await?
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.shares).acquire_owned().await;
        permit.map_err(|_| Failure::internal("the hive gives no files any more"))
    }

    /// Opens the file that `find` finds. Waits while too many are open.
    async fn open_shared(
        &self,
        find: impl FnOnce(&Library) -> Option<FoundFile> + Send + 'static,
    ) -> Result<Option<SharedFile>> {
        let permit = self.permit().await?;
        self.look(move |catalog| {
            let Some(found) = find(&catalog.places.library) else { return Ok(None) };
            let path = found.path.clone();
            SharedFile::open(found, permit).map_err(|error| Failure::io("read", &path, &error))
        })
        .await?
    }
}

/// The file with that SHA-256. Blocks on the disk.
fn find(library: &Library, digests: &Digests, sha256: &str) -> Option<PathBuf> {
    if !is_sha256(sha256) {
        return None;
    }
    blobs::find(&library.locations, sha256, &library.probe()).or_else(|| digests.find(sha256))
}
