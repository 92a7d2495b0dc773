//! The few calls of the Hub's API that a download needs
//! (<https://huggingface.co/docs/hub/api>), and what its refusals mean.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::ETAG;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::choice::{self, Candidate, RepositoryFile};
use super::chosen::{ChosenFile, ChosenModel};
use super::name::{HubName, is_commit, is_path};
use crate::config::Timers;
use crate::error::{Code, Failure, Result};
use crate::models::sources::places::Places;
use crate::models::sources::registry::{self, RegistryError, RegistryRequest, RegistryResponse};
use crate::models::transfer::fetch::Fetcher;
use crate::models::transfer::remote::Credentials;
use crate::n;
use crate::text::{bytes, is_sha256};

/// The unreserved characters of RFC 3986, section 2.3, are not encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Requests to the Hub with the same credentials.
#[derive(Debug)]
pub(crate) struct HubApi<'a> {
    endpoint: &'a Url,
    credentials: Option<Credentials>,
    fetcher: Fetcher,
    timers: &'a Timers,
}

/// A repository at one commit.
#[derive(Debug)]
struct Repository {
    /// `org/repo`, as the Hub spells it.
    name: String,
    commit: String,
    /// Whether it is given only to accounts that were granted access.
    is_gated: bool,
    /// `general.architecture`, as the Hub read it of one of its GGUF files.
    architecture: Option<String>,
    files: Vec<RepositoryFile>,
}

/// The headers of one file.
#[derive(Debug)]
struct FileFacts {
    /// The name of its contents in the cache: the SHA-256 of a large file, git's hash of a small one.
    etag: String,
    size: Option<u64>,
}

#[derive(Deserialize)]
struct ModelInfo {
    #[serde(default)]
    id: String,
    sha: String,
    /// `false`, or how access is given: `"auto"`, `"manual"`.
    #[serde(default)]
    gated: serde_json::Value,
    #[serde(default)]
    siblings: Vec<SiblingInfo>,
    gguf: Option<GgufInfo>,
}

#[derive(Deserialize)]
struct GgufInfo {
    architecture: Option<String>,
}

#[derive(Deserialize)]
struct SiblingInfo {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl<'a> HubApi<'a> {
    pub(crate) fn new(places: &'a Places) -> Self {
        Self {
            endpoint: &places.hub.url,
            credentials: places.hub.credentials(),
            fetcher: Fetcher::new(&places.fetch, &places.hub.trust(), &places.hub.url),
            timers: &places.fetch.timers,
        }
    }

    /// The name of the account that a token belongs to; `None` where the server does not tell names, as mirrors may.
    ///
    /// # Errors
    /// [`Code::SourceUnauthorized`] where the Hub does not accept the token; [`RegistryError::Unavailable`].
    pub(crate) async fn whoami(
        places: &'a Places,
        credentials: Credentials,
    ) -> Result<Option<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Account {
            name: String,
        }
        let api = Self { credentials: Some(credentials), ..Self::new(places) };
        let url = beneath(api.endpoint, "api/whoami-v2").map_err(RegistryError::Refused)?;
        let response = api.send(Method::GET, url).await?;
        match response.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = format!("{} does not accept the token", response.host);
                let failure = Failure::new(Code::SourceUnauthorized, message);
                Err(RegistryError::Refused(failure.hint(
                    "make a token with read access on the Hub's page of your settings, and copy all of it",
                )))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                Ok(serde_json::from_slice(&response.body).ok().map(|Account { name }| name))
            }
            _ => Err(RegistryError::Unavailable(response.unexpected)),
        }
    }

    /// Asks the Hub for the model that is meant.
    pub(crate) async fn choose(&self, name: &HubName, revision: &str) -> Result<ChosenModel, RegistryError> {
        let HubName { repo, .. } = name;
        let host = self.endpoint.host_str().unwrap_or_default();
        n!("hub_ask", "Asking {host} which models {repo} has at {revision}");
        let Repository { name: repo, commit, is_gated, architecture, files } =
            self.repository(repo, revision).await?;
        let Candidate { files: wanted, tag } =
            choice::choose(name, &files).map_err(|error| RegistryError::Refused(error.into()))?;
        let model = Candidate { files: wanted, tag };
        let projector = choice::projector(&model, &files);
        let Candidate { files: wanted, tag } = model;
        let tag = tag.filter(|tag| choice::is_unique(tag, &files));
        let mut chosen: Vec<ChosenFile> = Vec::new();
        let of_projector = projector.into_iter().map(|file| (file, true));
        for (mut file, is_projector) in wanted.into_iter().map(|file| (file, false)).chain(of_projector) {
            // The first file is always requested: it shows whether the Hub gives this repository.
            if chosen.is_empty() || file.sha256.is_none() {
                let facts = self.file(&repo, &commit, &file.path).await?;
                file.size = file.size.or(facts.size);
                file.sha256 = file.sha256.or_else(|| Some(facts.etag.clone()).filter(|etag| is_sha256(etag)));
                let etag = file.sha256.clone().unwrap_or(facts.etag);
                chosen.push(ChosenFile { etag, file, is_projector });
            } else if let Some(etag) = file.sha256.clone() {
                chosen.push(ChosenFile { etag, file, is_projector });
            }
        }
        let access = is_gated.then(|| format!("{repo} is gated, and this hive has been given access"));
        n!(
            "hub_chosen",
            "{} of {repo} at commit {}: {}",
            tag.as_deref().unwrap_or("The model"),
            &commit[..8],
            sizes(&chosen)
        );
        let remarks = Vec::from_iter(access);
        Ok(ChosenModel { repo, commit, tag, files: chosen, gated: Some(is_gated), architecture, remarks })
    }

    /// The repository at that revision.
    async fn repository(&self, repo: &str, revision: &str) -> Result<Repository, RegistryError> {
        let rest = format!("api/models/{repo}/revision/{}?blobs=true", encoded(revision));
        let url = beneath(self.endpoint, &rest).map_err(RegistryError::Refused)?;
        let response = self.send(Method::GET, url).await?;
        if !response.status.is_success() {
            return Err(self.error(response, repo, revision, None));
        }
        let info: ModelInfo = serde_json::from_slice(&response.body).map_err(|_| {
            unusable(format!("{} answered something that is not a repository", response.host))
        })?;
        if !is_commit(&info.sha) {
            return Err(unusable(format!("{} answered with an invalid commit", response.host)));
        }
        let sibling = |file: SiblingInfo| {
            let (sha256, size) = file.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
            RepositoryFile {
                path: file.rfilename,
                size: size.or(file.size),
                sha256: sha256.filter(|sha256| is_sha256(sha256)),
            }
        };
        // A path that leads out of its folder is left out.
        let files = info.siblings.into_iter().map(sibling).filter(|file| is_path(&file.path)).collect();
        let is_gated = !matches!(info.gated, serde_json::Value::Null | serde_json::Value::Bool(false));
        // The cache's folder has the Hub's spelling, whatever the case of the name that was asked for.
        let name = if info.id.eq_ignore_ascii_case(repo) { info.id } else { repo.to_owned() };
        let architecture = info.gguf.and_then(|gguf| gguf.architecture);
        Ok(Repository { name, commit: info.sha, is_gated, architecture, files })
    }

    /// The headers of a file, without its contents. The Hub refuses this to callers without access.
    async fn file(&self, repo: &str, commit: &str, path: &str) -> Result<FileFacts, RegistryError> {
        let url = file_url(self.endpoint, repo, commit, path).map_err(RegistryError::Refused)?;
        let response = self.send(Method::HEAD, url).await?;
        if !response.status.is_success() && !response.status.is_redirection() {
            return Err(self.error(response, repo, commit, Some(path)));
        }
        let etag = response.header("X-Linked-ETag").or_else(|| response.header(ETAG.as_str()));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        // It becomes the name of a file.
        let is_name = |etag: &&str| {
            (1..=128).contains(&etag.len())
                && !etag.starts_with('.')
                && etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        let Some(etag) = etag.filter(is_name) else {
            let text = format!("{} does not say which version of {path} it has", response.host);
            return Err(unusable(text));
        };
        let own_length = response.header("Content-Length").filter(|_| response.status.is_success());
        Ok(FileFacts {
            etag: etag.to_owned(),
            size: response.header("X-Linked-Size").or(own_length).and_then(|size| size.parse().ok()),
        })
    }

    async fn send(&self, method: Method, url: Url) -> Result<RegistryResponse, RegistryError> {
        let credentials = self.credentials.as_ref();
        let request = RegistryRequest { method, url, credentials, accept: "application/json, */*" };
        registry::send(&request, &self.fetcher, self.timers).await
    }

    /// The error that an answer without success means: the header `X-Error-Code` says more than the
    /// status.
    fn error(
        &self,
        response: RegistryResponse,
        repo: &str,
        revision: &str,
        path: Option<&str>,
    ) -> RegistryError {
        let code = response.header("X-Error-Code").unwrap_or_default().to_owned();
        let page = format!("{}/{repo}", self.endpoint.as_str().trim_end_matches('/'));
        let has_token = self.credentials.is_some();
        let (code, message, hint) = match (response.status, code.as_str()) {
            (_, "GatedRepo") if has_token => (
                Code::SourceGated,
                format!("{repo} is gated, and your account has not been given access yet"),
                format!(
                    "ask for access on {page} with the account that the token belongs to, then try again"
                ),
            ),
            (_, "GatedRepo") => (
                Code::SourceGated,
                format!("{repo} is gated: the Hub gives it only to accounts that were given access"),
                format!("ask for access on {page}, then {LOG_IN}"),
            ),
            (StatusCode::UNAUTHORIZED, _) if has_token => (
                Code::SourceUnauthorized,
                format!("the Hub does not accept the token, or hides {repo} from it"),
                format!("make a new token with read access on the Hub's page of your settings and {LOG_IN}"),
            ),
            (StatusCode::UNAUTHORIZED, _) => (
                Code::SourceUnauthorized,
                format!("{repo} is private or does not exist: without a token the Hub does not say which"),
                format!("check the name; if the repository is private, {LOG_IN}"),
            ),
            (_, "RevisionNotFound") => (
                Code::RevisionNotFound,
                format!("{repo} has no revision '{revision}'"),
                format!("leave the revision out for the branch main, or choose one of {page}/tree/main"),
            ),
            (_, "EntryNotFound") => (
                Code::SourceNotFound,
                format!("{repo} has no file {} at {revision}", path.unwrap_or("of that name")),
                format!("give {repo} alone to see its models"),
            ),
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) | (_, "RepoNotFound") => (
                Code::RepositoryNotFound,
                format!("the Hub has no repository {repo}"),
                if has_token {
                    "check its name; a private repository needs the token of an account with access"
                        .to_owned()
                } else {
                    format!("check its name; if it is private, {LOG_IN}")
                },
            ),
            (StatusCode::FORBIDDEN, _) => (
                Code::SourceUnauthorized,
                format!("the Hub refuses this account access to {repo} (403)"),
                format!("see {page} for why; a fine-grained token needs read access to this repository"),
            ),
            _ => return RegistryError::Unavailable(response.unexpected),
        };
        RegistryError::Refused(Failure::new(code, message).hint(hint))
    }
}

/// The error of an answer that makes no sense.
fn unusable(message: String) -> RegistryError {
    let hint = "check the configured endpoint: is it a Hugging Face Hub?";
    RegistryError::Unavailable(Failure::new(Code::DownloadFailed, message).hint(hint))
}

fn sizes(files: &[ChosenFile]) -> String {
    let size: Option<u64> = files.iter().map(|file| file.file.size).sum();
    let size = size.map_or_else(|| "of unknown size".to_owned(), bytes);
    let with = if files.iter().any(|file| file.is_projector) { ", with its projector" } else { "" };
    match files.iter().filter(|file| !file.is_projector).count() {
        1 => format!("{size}{with}"),
        parts => format!("{size} in {parts} parts{with}"),
    }
}

/// The URL of a file.
pub(crate) fn file_url(endpoint: &Url, repo: &str, commit: &str, path: &str) -> Result<Url> {
    let path: Vec<_> = path.split('/').map(encoded).collect();
    beneath(endpoint, &format!("{repo}/resolve/{commit}/{}", path.join("/")))
}

/// A URL beneath the endpoint, whose own path is kept. `rest` must be percent-encoded.
fn beneath(endpoint: &Url, rest: &str) -> Result<Url> {
    Url::parse(&format!("{}/{rest}", endpoint.as_str().trim_end_matches('/')))
        .map_err(|error| Failure::internal("a URL of the Hub could not be made").detail(error))
}

const LOG_IN: &str = "give the hive a token with `rbee-hive login` or `hf auth login`, which keep it in the same file, or in HF_TOKEN";

/// Percent-encodes a part of a path.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_with_a_meaning_in_urls_are_encoded() {
        assert_eq!(encoded("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b+é.gguf"), "a%20b%2B%C3%A9.gguf");
    }
}
