//! Where the files of a model of the Hub go in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chosen::ChosenFile;
use crate::error::{Failure, Result};
use crate::models::library::Library;
use crate::models::library::headers::{check_model, check_projector};
use crate::models::library::hub_cache::layout::{CacheRepository, empty_folders};
use crate::models::transfer::remote::{Destination, Refusal, StoredFile};
use crate::n;
use crate::text::bytes;

/// The places of one model's files.
#[derive(Debug)]
pub(crate) struct Destinations {
    pub(crate) library: Arc<Library>,
    pub(crate) repository: CacheRepository,
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<ChosenFile>,
}

impl Destinations {
    /// The destination of each file, in order. Blocks on the disk.
    pub(crate) fn all(&self, force: bool) -> Vec<Destination> {
        self.files.iter().map(|file| self.destination(file, force)).collect()
    }

    fn destination(&self, file: &ChosenFile, force: bool) -> Destination {
        let (repository, etag) = (self.repository.clone(), file.etag.clone());
        let blob = repository.blob(&etag);
        let pointer = repository.pointer(&self.commit, &file.file.path);
        // The file of the snapshot is used even where it is not a link: some caches have no links.
        let present = [pointer, blob.clone()].into_iter().find(|path| path.exists());
        let mut replace = force;
        if let Some(present) = present.as_ref().filter(|_| !force)
            && let Some(problem) = problem(present, file)
        {
            let path = &file.file.path;
            n!(warn: "model_download_present", "{path} is here, but {problem}: downloading it again");
            replace = true;
        }
        let (library, check) = (Arc::clone(&self.library), check_of(file));
        let partial = repository.partial(&etag);
        Destination {
            empty_folders: empty_folders(&partial),
            partial,
            lock: Some(repository.lock(&etag)),
            target: present.filter(|_| !replace).unwrap_or(blob),
            replace,
            accept: Arc::new(move |path: &Path, stored: &StoredFile| {
                check(path)?;
                let notes = &library.hub_cache().notes;
                notes.write(&repository, &etag, stored.size).map_err(Refusal::Unfinished)
            }),
        }
    }

    /// Makes the links of the snapshot, and writes the ref of the revision. Returns the path of the
    /// first link.
    pub(crate) fn link(self) -> Result<PathBuf> {
        let mut first = None;
        for ChosenFile { file, etag, .. } in &self.files {
            let pointer = self.repository.link(&self.commit, &file.path, etag)?;
            first.get_or_insert(pointer);
        }
        self.repository.write_ref(&self.revision, &self.commit)?;
        first.ok_or_else(|| Failure::internal("a model of the Hub without files"))
    }
}

/// The check of a file of that kind.
fn check_of(file: &ChosenFile) -> fn(&Path) -> Result<(), Refusal> {
    if file.is_projector { check_projector } else { |path| check_model(path).map(drop) }
}

/// What is wrong with an existing file, as far as its size and its header show.
fn problem(path: &Path, file: &ChosenFile) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    if let Some(promised) = file.file.size.filter(|&promised| promised != size) {
        return Some(format!("has {} instead of {}", bytes(size), bytes(promised)));
    }
    matches!(check_of(file)(path), Err(Refusal::Unusable(_))).then(|| "is damaged".to_owned())
}
