//! The Hugging Face Hub: `[hf:]org/repo[:QUANT | /path/file.gguf][@revision]`.
//!
//! The road of a name: ask the Hub for the repository's files at the revision ([`api`]); choose the
//! model that is meant ([`choice`]); find its place in the cache that all tools share
//! ([`crate::models::hub_cache`]). What is in the cache is used in place; a commit never changes, so
//! one that is here whole needs no network, and where the Hub cannot be reached, what a branch stood
//! for when it was last asked for will do.

mod api;
mod choice;
mod name;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{Api, Repository};
use choice::{Candidate, Sibling};
pub use name::HubName;
use name::{MAIN, Pick};
use reqwest::Url;

use crate::config::{self, Config};
use crate::error::{Code, Failure, Result};
use crate::models::Catalog;
use crate::models::catalog::Inner;
use crate::models::library::headers::{accept_model, sound_model};
use crate::models::library::hub_cache::owned::Owned;
use crate::models::library::hub_cache::{self, put, sha256};
use crate::models::library::look::Look;
use crate::models::library::scan::{self, Links};
use crate::models::library::split;
use crate::models::plan::Request;
use crate::models::transfer::fetch::{FetchConfig, Fetcher};
use crate::models::transfer::remote::{
    Credentials, Destination, GGUF_MAGIC, Refusal, RemoteFile, Resolved, StoredFile, Trust,
};
use crate::models::units;
use crate::n;

const ENDPOINT: &str = "https://huggingface.co";

/// The Hub as this hive uses it.
#[derive(Debug)]
pub(crate) struct Hub {
    endpoint: Url,
    token: Token,
    is_offline: bool,
    fetch: FetchConfig,
}

/// Where the access token comes from. A file is read anew each time: people log in while the hive
/// runs.
enum Token {
    Given(String),
    Files(Vec<PathBuf>),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given"),
            Self::Files(files) => f.debug_tuple("Files").field(files).finish(),
        }
    }
}

/// A file of the chosen model, and what the cache calls its contents.
#[derive(Clone, Debug)]
struct Piece {
    file: Sibling,
    etag: String,
}

/// A model of a repository at one commit.
struct Chosen {
    commit: String,
    tag: Option<String>,
    pieces: Vec<Piece>,
    gated: Option<bool>,
    remarks: Vec<String>,
}

impl Hub {
    /// After the settings and, for what they leave unset, the process environment.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] where the endpoint is no address.
    pub(crate) fn new(config: &Config, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let config::Hub { endpoint, token_file, offline } = &config.hub;
        let text = |name: &str| variable(name)?.into_string().ok().filter(|text| !text.trim().is_empty());
        let endpoint = endpoint.clone().or_else(|| text("HF_ENDPOINT")).unwrap_or_else(|| ENDPOINT.into());
        let endpoint = Url::parse(endpoint.trim()).ok().filter(Url::has_host).ok_or_else(|| {
            Failure::new(Code::ConfigInvalid, "the address of the Hugging Face Hub is not a URL")
                .hint("check HF_ENDPOINT: it must be like https://huggingface.co")
        })?;
        let token = match token_file {
            Some(file) => Token::Files(vec![file.clone()]),
            None => match text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
                Some(token) => Token::Given(token),
                None => Token::Files(token_files(&variable)),
            },
        };
        let is_set = |text: &str| matches!(&*text.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE");
        let is_offline =
            offline.unwrap_or_else(|| text("HF_HUB_OFFLINE").is_some_and(|text| is_set(text.trim())));
        Ok(Self { endpoint, token, is_offline, fetch: FetchConfig::of(config) })
    }

    /// The token for the endpoint, where there is one.
    fn credentials(&self) -> Option<Credentials> {
        let token = match &self.token {
            Token::Given(token) => token.clone(),
            Token::Files(files) => files.iter().find_map(|file| fs::read_to_string(file).ok())?,
        };
        let token: String = token.split_whitespace().collect();
        if token.is_empty() {
            return None;
        }
        let credentials = Credentials::bearer(&self.endpoint, &token);
        if credentials.is_none() {
            n!(warn: "hub_token", "The access token of the Hub has characters that none has: it is left out");
        }
        credentials
    }

    fn trust(&self) -> Trust {
        Trust::Endpoint(self.endpoint.clone())
    }
}

/// Where `hf auth login` puts the token.
fn token_files(variable: &impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_TOKEN_PATH")
        .or_else(|| Some(set("HF_HOME")?.join("token")))
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/token")))
        .or_else(|| Some(set("HOME")?.join(".cache/huggingface/token")))
        .into_iter()
        .collect()
}

/// The revision that is meant: of the name or of the request, which must not contradict each other.
fn revision_of<'a>(name: &'a HubName, request: &'a Request) -> Result<&'a str> {
    let asked = request.revision.as_str();
    match name.revision.as_deref() {
        Some(named) if asked != MAIN && asked != named => Err(Failure::new(
            Code::InvalidField,
            format!("revision: it is '{}', but the model's name says @{named}", crate::text::excerpt(asked)),
        )
        .hint("give the revision once")),
        Some(named) => Ok(named),
        None => name::check_revision(asked).map(|()| asked),
    }
}

impl Catalog {
    /// Resolves a model of the Hub.
    ///
    /// # Errors
    /// [`Code::ModelAmbiguous`] and [`Code::SourceNotFound`] with what there is;
    /// [`Code::RepositoryNotFound`], [`Code::RevisionNotFound`], [`Code::SourceGated`],
    /// [`Code::SourceUnauthorized`]; [`Code::SourceOffline`]; and those of the transport.
    pub(crate) async fn resolve_hub(&self, name: &HubName, request: &Request) -> Result<Resolved> {
        let revision = revision_of(name, request)?;
        let chosen = self.chosen(name, revision, request.force).await?;
        let repository = put::Repository::new(&self.0.hub_cache, &name.repo);
        let (source, credentials) = (format!("hf:{}", name.repo), self.0.hub.credentials());
        let mut remotes = Vec::new();
        for piece in &chosen.pieces {
            remotes.push(RemoteFile {
                name: piece.file.path.clone(),
                source: source.clone(),
                url: api::file_url(&self.0.hub.endpoint, &name.repo, &chosen.commit, &piece.file.path)?,
                credentials: credentials.clone(),
                size: piece.file.size,
                sha256: piece.file.sha256.clone(),
                version: Some(piece.etag.clone()),
                magic: GGUF_MAGIC,
                trust: self.0.hub.trust(),
            });
        }
        let Chosen { commit, tag, pieces, gated, remarks } = chosen;
        let model = match tag {
            Some(tag) => format!("{}:{tag}", name.repo),
            None => format!("{}/{}", name.repo, pieces[0].file.path),
        };
        let places = Places { repository, revision: revision.to_owned(), commit: commit.clone(), pieces };
        let (destinations, places) = {
            let (force, is_dry) = (request.force, request.dry_run);
            self.on_pool(move |inner| {
                if !is_dry {
                    places.repository.prepare()?;
                }
                Ok::<_, Failure>((places.destinations(&inner.hub_notes, force), places))
            })
            .await??
        };
        Ok(Resolved {
            model,
            source,
            revision: Some(commit),
            gated,
            remarks,
            files: remotes.into_iter().zip(destinations).collect(),
            commit: Box::new(move |_| places.link()),
        })
    }

    /// The model that is meant, as the Hub has it, or else as the cache has it.
    async fn chosen(&self, name: &HubName, revision: &str, force: bool) -> Result<Chosen> {
        let is_offline = self.0.hub.is_offline;
        // What a commit holds never changes, but only the Hub knows whether it holds one model only.
        let is_certain = name::is_commit(revision) && name.pick != Pick::Only && !force;
        if is_offline || is_certain {
            match self.cached(name, revision).await {
                Ok(Some(chosen)) => return Ok(chosen),
                Err(failure) if is_offline => return Err(failure),
                Ok(None) if is_offline => {
                    return Err(Failure::new(
                        Code::SourceOffline,
                        format!("{name} is not in the cache, and the Hub may not be asked"),
                    )
                    .hint("unset HF_HUB_OFFLINE or [hub] offline, or give a file as file:/path/model.gguf"));
                }
                _ => {}
            }
        }
        match self.asked(name, revision).await {
            Err(failure) if failure.code == Code::DownloadFailed && !force => {
                match self.cached(name, revision).await {
                    Ok(Some(mut chosen)) => {
                        chosen.remarks.push(format!(
                            "The Hub could not be asked ({failure}), so this is what the cache has of {revision}"
                        ));
                        Ok(chosen)
                    }
                    _ => Err(failure),
                }
            }
            asked => asked,
        }
    }

    /// Asks the Hub.
    async fn asked(&self, name: &HubName, revision: &str) -> Result<Chosen> {
        let (hub, repo) = (&self.0.hub, &name.repo);
        let fetcher = Fetcher::new(&hub.fetch, &hub.trust(), &hub.endpoint);
        let api = Api {
            endpoint: &hub.endpoint,
            credentials: hub.credentials(),
            fetcher,
            timers: &hub.fetch.timers,
        };
        n!(
            "hub_ask",
            "Asking {} which models {repo} has at {revision}",
            hub.endpoint.host_str().unwrap_or_default()
        );
        let Repository { commit, is_gated, files } = api.repository(repo, revision).await?;
        let Candidate { files: wanted, tag } = choice::choose(name, &files)?;
        let tag = tag.filter(|tag| choice::is_alone(tag, &files));
        let mut pieces = Vec::new();
        for mut file in wanted {
            // The first is asked for in any case: it shows whether the Hub gives this repository.
            if pieces.is_empty() || file.sha256.is_none() {
                let facts = api.file(repo, &commit, &file.path).await?;
                file.size = file.size.or(facts.size);
                file.sha256 =
                    file.sha256.or_else(|| Some(facts.etag.clone()).filter(|etag| super::is_sha256(etag)));
                pieces.push(Piece { etag: file.sha256.clone().unwrap_or(facts.etag), file });
            } else if let Some(etag) = file.sha256.clone() {
                pieces.push(Piece { etag, file });
            }
        }
        let access = is_gated.then(|| format!("{repo} is gated, and this hive has been given access"));
        n!(
            "hub_chosen",
            "{} of {repo} at commit {}: {}",
            tag.as_deref().unwrap_or("The model"),
            &commit[..8],
            sizes(&pieces)
        );
        Ok(Chosen { commit, tag, pieces, gated: Some(is_gated), remarks: Vec::from_iter(access) })
    }

    /// Looks into the cache alone. `None` where the model, or a part of it, is not there.
    async fn cached(&self, name: &HubName, revision: &str) -> Result<Option<Chosen>> {
        let (name, revision) = (name.clone(), revision.to_owned());
        self.on_pool(move |inner| inner.cached(&name, &revision)).await?
    }
}

impl Inner {
    fn cached(&self, name: &HubName, revision: &str) -> Result<Option<Chosen>> {
        let repository = put::Repository::new(&self.hub_cache, &name.repo);
        let known = repository.commit_of(revision);
        let Some(commit) = known.or_else(|| name::is_commit(revision).then(|| revision.to_owned())) else {
            return Ok(None);
        };
        let snapshot = repository.snapshot(&commit);
        let described = |path: &Path| {
            let relative = path.strip_prefix(&snapshot).ok()?.to_str()?.to_owned();
            // Followed: what leads nowhere is not there.
            let size = fs::metadata(path).ok()?.len();
            Some(Sibling { path: relative, size: Some(size), sha256: sha256(path) })
        };
        let links = scan::gguf_files(&snapshot, Links::Keep, &Look::new(&self.known));
        let files: Vec<_> = links.iter().filter_map(|path| described(path)).collect();
        let Candidate { files, tag } = match choice::choose(name, &files) {
            Ok(candidate) => candidate,
            Err(failure) if failure.code == Code::SourceNotFound => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let piece = |file: Sibling| {
            let blob = hub_cache::blob_of(&snapshot.join(&file.path));
            Piece { etag: blob.map_or_else(|| "-".to_owned(), |blob| split::name_of(&blob)), file }
        };
        let pieces = files.into_iter().map(piece).collect();
        Ok(Some(Chosen { commit, tag, pieces, gated: None, remarks: Vec::new() }))
    }
}

/// Where the files of a model go in the cache.
struct Places {
    repository: put::Repository,
    revision: String,
    commit: String,
    pieces: Vec<Piece>,
}

impl Places {
    fn destinations(&self, notes: &Arc<Owned>, force: bool) -> Vec<Destination> {
        self.pieces.iter().map(|piece| self.destination(piece, notes, force)).collect()
    }

    fn destination(&self, piece: &Piece, notes: &Arc<Owned>, force: bool) -> Destination {
        let (repository, etag) = (self.repository.clone(), piece.etag.clone());
        let blob = repository.blob(&etag);
        let pointer = repository.pointer(&self.commit, &piece.file.path);
        // Whatever a snapshot leads to is used: not every cache has links.
        let present = [pointer, blob.clone()].into_iter().find(|path| path.exists());
        let mut replace = force;
        if let Some(present) = present.as_ref().filter(|_| !force)
            && let Some(problem) = problem(present, piece)
        {
            n!(warn: "model_download_present", "{} is here, but {problem}: fetching it again", piece.file.path);
            replace = true;
        }
        let notes = Arc::clone(notes);
        Destination {
            partial: repository.partial(&etag),
            lock: Some(repository.lock(&etag)),
            target: present.filter(|_| !replace).unwrap_or(blob),
            replace,
            empty_folders: hub_cache::empty_folders(&repository.partial(&etag)),
            accept: Arc::new(move |path: &Path, whole: &StoredFile| {
                accept_model(path)?;
                notes.note(&repository, &etag, whole.size).map_err(Refusal::Unfinished)
            }),
        }
    }

    /// Makes the snapshot's links, and remembers what the revision stands for.
    fn link(self) -> Result<PathBuf> {
        let mut first = None;
        for Piece { file, etag } in &self.pieces {
            let pointer = self.repository.point(&self.commit, &file.path, etag)?;
            first.get_or_insert(pointer);
        }
        self.repository.remember(&self.revision, &self.commit)?;
        first.ok_or_else(|| Failure::internal("a model of the Hub without files"))
    }
}

/// What is wrong with a file that is here, at a glance.
fn problem(path: &Path, piece: &Piece) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    if let Some(promised) = piece.file.size.filter(|&promised| promised != size) {
        return Some(format!("has {} instead of {}", units::bytes(size), units::bytes(promised)));
    }
    sound_model(path).is_err().then(|| "is damaged".to_owned())
}

fn sizes(pieces: &[Piece]) -> String {
    let size: Option<u64> = pieces.iter().map(|piece| piece.file.size).sum();
    let size = size.map_or_else(|| "of unknown size".to_owned(), units::bytes);
    if pieces.len() == 1 { size } else { format!("{size} in {} parts", pieces.len()) }
}

#[cfg(test)]
mod tests;
