//! Finds a model of the Hub in the cache, without the network.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::choice::{self, Candidate, ChoiceError, RepositoryFile};
use super::chosen::{ChosenFile, ChosenModel};
use super::name::{HubName, is_commit};
use crate::error::Result;
use crate::models::library::Library;
use crate::models::library::file_name::name_of;
use crate::models::library::folders::Link;
use crate::models::library::hub_cache::layout::{blob_of, sha256_of};
use crate::models::library::walk::{LinkPolicy, gguf_files};
use crate::models::sources::places::Places;
use crate::spawn;

/// The model as the cache has it. `None` where the model, or a part of it, is missing there.
///
/// # Errors
/// Where the name means several models of the cache.
pub(crate) async fn find_in_cache(
    name: &HubName,
    revision: &str,
    places: &Places,
) -> Result<Option<ChosenModel>> {
    let (name, revision, library) = (name.clone(), revision.to_owned(), Arc::clone(&places.library));
    spawn::blocking(move || find(&name, &revision, &library)).await?
}

fn find(name: &HubName, revision: &str, library: &Library) -> Result<Option<ChosenModel>> {
    let repository = library.hub_cache().repository(&name.repo);
    let known = repository.commit_of(revision);
    let Some(commit) = known.or_else(|| is_commit(revision).then(|| revision.to_owned())) else {
        return Ok(None);
    };
    let snapshot = repository.snapshot(&commit);
    let repository_file = |path: &Path| {
        let relative = path.strip_prefix(&snapshot).ok()?.to_str()?.to_owned();
        // Follows links: a broken link is not there.
        let size = fs::metadata(path).ok()?.len();
        let sha256 = Link::read(path).as_ref().and_then(sha256_of);
        Some(RepositoryFile { path: relative, size: Some(size), sha256 })
    };
    let links = gguf_files(&snapshot, LinkPolicy::Keep, &library.probe());
    let files: Vec<_> = links.iter().filter_map(|path| repository_file(path)).collect();
    let chosen = match choice::choose(name, &files) {
        Ok(candidate) => candidate,
        Err(ChoiceError::NoSuchModel(_)) => return Ok(None),
        Err(ChoiceError::Ambiguous(failure)) => return Err(failure),
    };
    let projector = choice::projector(&chosen, &files);
    let Candidate { files, tag } = chosen;
    let chosen_file = |file: RepositoryFile, is_projector| {
        let blob = blob_of(&snapshot.join(&file.path));
        ChosenFile { etag: blob.map_or_else(|| "-".to_owned(), |blob| name_of(&blob)), file, is_projector }
    };
    let mut files: Vec<_> = files.into_iter().map(|file| chosen_file(file, false)).collect();
    files.extend(projector.map(|file| chosen_file(file, true)));
    Ok(Some(ChosenModel {
        repo: name.repo.clone(),
        commit,
        tag,
        files,
        gated: None,
        architecture: None,
        remarks: Vec::new(),
    }))
}
