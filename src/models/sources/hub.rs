//! The Hugging Face Hub: `[hf:]org/repo[:QUANT | /path/file.gguf][@revision]`.
//!
//! Resolving a name: ask the Hub for the repository's files at the revision ([`api`]); choose the model
//! that is meant ([`choice`]); find its place in the cache that all tools share
//! ([`crate::models::library::hub_cache`]). Files in the cache are used in place. A commit never
//! changes, so one that is complete in the cache needs no network; where the Hub cannot be asked, the
//! commit that a branch had when it was last asked is used.

mod cached;
pub(crate) mod login;
mod placed;
mod destinations;
mod api;
mod chosen;
mod choice;
pub(crate) mod copied;
mod name;

use std::sync::Arc;

use api::HubApi;
use cached::find_in_cache;
use chosen::ChosenModel;
use destinations::Destinations;
use name::{MAIN, Pick, check_revision, is_commit};

use crate::error::{Code, Failure, Result};
use crate::models::library::headers::{vet_foreign_model, vet_model, vet_projector};
use crate::models::needs::Needs;
use crate::models::sources::places::Places;
use crate::models::sources::registry::RegistryError;
use crate::models::sources::request::DownloadRequest;
use crate::models::sources::resolution::{ModelSource, Resolution, ResolvedModel};
use crate::models::transfer::purpose::Purpose;
use crate::models::transfer::remote::{GGUF_MAGIC, ModelFile, RemoteFile, Vet};
use crate::{spawn, text};

pub use name::HubName;
pub(crate) use name::is_repository;
pub(crate) use placed::placed;

impl ModelSource for HubName {
    const EXAMPLE: &'static str = "org/repo:Q4_K_M for a model of the Hugging Face Hub";
    const HAS_REVISIONS: bool = true;

    fn parse(text: &str) -> Option<Result<Self>> {
        Self::parse_text(text)
    }

    /// # Errors
    /// [`Code::ModelAmbiguous`] and [`Code::SourceNotFound`] with the models there are;
    /// [`Code::RepositoryNotFound`], [`Code::RevisionNotFound`], [`Code::SourceGated`],
    /// [`Code::SourceUnauthorized`]; [`Code::SourceOffline`]; and those of the transport.
    async fn resolve(&self, request: &DownloadRequest, places: &Places) -> Result<Resolution> {
        let resolved = resolve(self, request, places).await;
        resolved.map(Resolution::Fetch).map_err(|failure| failure.stage("preflight"))
    }
}

async fn resolve(name: &HubName, request: &DownloadRequest, places: &Places) -> Result<ResolvedModel> {
    let revision = revision_of(name, request)?;
    let chosen = choose_model(name, revision, request.force, places).await?;
    let (source, credentials) = (format!("hf:{}", chosen.repo), places.hub.credentials());
    let model_file =
        ModelFile { name: chosen.files[0].file.path.clone(), target: chosen.files[0].etag.clone() };
    let support = |architecture: &String| places.judge.support(&Needs::of_architecture(architecture));
    let is_foreign = chosen.architecture.as_ref().map(support).is_some_and(|it| it.warning().is_some());
    let vet: Vet = if is_foreign { vet_foreign_model } else { vet_model };
    let mut remote_files = Vec::new();
    for chosen_file in &chosen.files {
        let file = &chosen_file.file;
        remote_files.push(RemoteFile {
            purpose: Purpose::Model,
            name: file.path.clone(),
            source: source.clone(),
            url: api::file_url(&places.hub.url, &chosen.repo, &chosen.commit, &file.path)?,
            credentials: credentials.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
            version: Some(chosen_file.etag.clone()),
            companion_of: chosen_file.is_projector.then(|| model_file.clone()),
            magic: GGUF_MAGIC,
            vet: if chosen_file.is_projector { vet_projector } else { vet },
            trust: places.hub.trust(),
        });
    }
    let ChosenModel { repo, commit, tag, files, gated, architecture, remarks } = chosen;
    let model = match tag {
        Some(tag) => format!("{repo}:{tag}"),
        None => format!("{repo}/{}", files[0].file.path),
    };
    let destinations = Destinations {
        library: Arc::clone(&places.library),
        repository: places.library.hub_cache().repository(&repo),
        revision: revision.to_owned(),
        commit: commit.clone(),
        files,
    };
    let (force, dry_run) = (request.force, request.dry_run);
    let (paths, destinations) = spawn::blocking(move || {
        if !dry_run {
            destinations.repository.prepare()?;
        }
        Ok::<_, Failure>((destinations.all(force), destinations))
    })
    .await??;
    Ok(ResolvedModel {
        model,
        source,
        revision: Some(commit),
        gated,
        architecture,
        remarks,
        files: remote_files.into_iter().zip(paths).collect(),
        commit: Box::new(move |_| destinations.link()),
    })
}

/// The revision that is meant: of the name or of the request, which must not contradict each other.
fn revision_of<'a>(name: &'a HubName, request: &'a DownloadRequest) -> Result<&'a str> {
    let requested = request.revision.as_str();
    match name.revision.as_deref() {
        Some(named) if requested != MAIN && requested != named => Err(Failure::new(
            Code::InvalidField,
            format!("revision: it is '{}', but the model's name says @{named}", text::excerpt(requested)),
        )
        .hint("give the revision once")),
        Some(named) => Ok(named),
        None => check_revision(requested).map(|()| requested),
    }
}

/// The model that is meant, as the Hub has it, or otherwise as the cache has it.
async fn choose_model(name: &HubName, revision: &str, force: bool, places: &Places) -> Result<ChosenModel> {
    if places.hub.is_offline {
        return find_in_cache(name, revision, places).await?.ok_or_else(|| {
            Failure::new(
                Code::SourceOffline,
                format!("{name} is not in the cache, and the Hub may not be asked"),
            )
            .hint("unset HF_HUB_OFFLINE or [hub] offline, or give a file as file:/path/model.gguf")
        });
    }
    // The files of a commit never change, but only the Hub knows whether it has one model only.
    let is_certain = is_commit(revision) && name.pick != Pick::Only && !force;
    if is_certain && let Ok(Some(chosen)) = find_in_cache(name, revision, places).await {
        return Ok(chosen);
    }
    match HubApi::new(places).choose(name, revision).await {
        Err(RegistryError::Unavailable(failure)) if !force => {
            let Ok(Some(mut chosen)) = find_in_cache(name, revision, places).await else {
                return Err(failure);
            };
            chosen
                .remarks
                .push(format!("The Hub did not answer ({failure}): using what the cache has of {revision}"));
            Ok(chosen)
        }
        chosen => Ok(chosen?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_given_once() {
        let name = |text: &str| HubName::parse(text).unwrap().unwrap();
        let request = |revision: &str| DownloadRequest { revision: revision.into(), ..Default::default() };
        assert_eq!(revision_of(&name("o/r"), &request("main")).unwrap(), "main");
        assert_eq!(revision_of(&name("o/r"), &request("v1")).unwrap(), "v1");
        assert_eq!(revision_of(&name("o/r@v1"), &request("main")).unwrap(), "v1");
        assert_eq!(revision_of(&name("o/r@v1"), &request("v1")).unwrap(), "v1");
        for (text, revision) in [("o/r@v1", "v2"), ("o/r", "../x")] {
            let failure = revision_of(&name(text), &request(revision)).unwrap_err();
            assert_eq!(failure.code, Code::InvalidField);
        }
    }
}
