//! Files of this machine for others: programs of the house, and other hives.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::Catalog;
use crate::error::{Failure, Result};
use crate::files;
use crate::models::digests::Digests;
use crate::models::library::hub_cache::snapshot::{Missing, Reference, SnapshotFile};
use crate::models::library::{Library, blobs};
use crate::models::shared::{FoundFile, GrowingFile, SharedFile};
use crate::models::sources::is_repository;
use crate::text::is_sha256;

/// What the Hugging Face cache has of a repository at one commit.
#[derive(Debug)]
pub(crate) struct SharedRepository {
    /// `org/repo`, as the cache spells it.
    pub(crate) repo: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<SnapshotFile>,
}

/// Something that is not here is an answer, not a failure.
type Found<T> = Result<Result<T, Missing>>;

impl Catalog {
    /// The complete file of this machine with that SHA-256 (64 lower-case hexadecimal digits), as far as it is known
    /// without reading files. Waits while too many files are open. What is in it may be something else, if somebody
    /// has written to it: who takes it hashes it.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer, and those of the file system.
    pub(crate) async fn blob(&self, sha256: &str) -> Result<Option<SharedFile>> {
        let (sha256, digests) = (sha256.to_owned(), Arc::clone(&self.digests));
        let find = move |library: &Library| {
            let path = find(library, &digests, &sha256).ok_or(Missing::File)?;
            Ok(((), FoundFile { path, version: sha256 }))
        };
        Ok(self.open_with(find).await?.ok().map(|((), file)| file))
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

    /// What the Hugging Face cache has of the repository `org/repo` at a branch, a tag or a commit.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer.
    pub(crate) async fn hub_repository(&self, repo: &str, revision: &str) -> Found<SharedRepository> {
        let (repo, revision) = (repo.to_owned(), revision.to_owned());
        self.look(move |catalog| {
            let library = &catalog.places.library;
            let probe = library.probe();
            let known = is_repository(&repo).then_some(library.hub_cache()).ok_or(Missing::Repository)?;
            let snapshot = known.snapshot(&repo, &revision, &probe)?;
            let files = snapshot.files(&probe);
            Ok(SharedRepository { repo: snapshot.repo, commit: snapshot.commit, files })
        })
        .await
    }

    /// The names of commits of that repository that the Hugging Face cache has.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer.
    pub(crate) async fn hub_references(&self, repo: &str) -> Found<Vec<Reference>> {
        let repo = repo.to_owned();
        self.look(move |catalog| {
            let library = &catalog.places.library;
            let known = is_repository(&repo).then_some(library.hub_cache()).ok_or(Missing::Repository)?;
            known.references(&repo, &library.probe())
        })
        .await
    }

    /// A file of that repository, and the commit that it is of. Waits while too many files are open.
    ///
    /// # Errors
    /// [`Code::Timeout`](crate::error::Code::Timeout) where a disk does not answer, and those of the file system.
    pub(crate) async fn hub_file(
        &self,
        repo: &str,
        revision: &str,
        path: &str,
    ) -> Found<(String, SharedFile)> {
        let (repo, revision, path) = (repo.to_owned(), revision.to_owned(), path.to_owned());
        let find = move |library: &Library| {
            let probe = library.probe();
            let known = is_repository(&repo).then_some(library.hub_cache()).ok_or(Missing::Repository)?;
            let snapshot = known.snapshot(&repo, &revision, &probe)?;
            Ok((snapshot.commit.clone(), snapshot.file(&path, &probe)?))
        };
        self.open_with(find).await
    }

    /// Opens the file that `find` finds with what it says of it. Waits while too many are open.
    async fn open_with<T: Send + 'static>(
        &self,
        find: impl FnOnce(&Library) -> Result<(T, FoundFile), Missing> + Send + 'static,
    ) -> Found<(T, SharedFile)> {
        let permit = self.permit().await?;
        self.look(move |catalog| {
            let (about, found) = match find(&catalog.places.library) {
                Ok(found) => found,
                Err(missing) => return Ok(Err(missing)),
            };
            let path = found.path.clone();
            let opened =
                SharedFile::open(found, permit).map_err(|error| Failure::io("read", &path, &error))?;
            Ok(opened.map(|file| (about, file)).ok_or(Missing::File))
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
