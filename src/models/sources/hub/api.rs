//! The few calls of the Hub's API that a download needs
//! (<https://huggingface.co/docs/hub/api>), and what its refusals mean.

use reqwest::header::ETAG;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::choice::Sibling;
use super::name;
use crate::config::Timers;
use crate::error::{Code, Failure, Result};
use crate::models::sources::ask::{Answer, Question, ask};
use crate::models::sources::is_sha256;
use crate::models::transfer::fetch::Fetcher;
use crate::models::transfer::remote::Credentials;

/// One conversation with the Hub.
#[derive(Debug)]
pub(crate) struct Api<'a> {
    pub(crate) endpoint: &'a Url,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) fetcher: Fetcher,
    pub(crate) timers: &'a Timers,
}

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) commit: String,
    /// Whether its owner lets in only those who asked.
    pub(crate) is_gated: bool,
    pub(crate) files: Vec<Sibling>,
}

/// What the Hub says of one file.
#[derive(Debug)]
pub(crate) struct FileFacts {
    /// What the cache calls its contents: the SHA-256 of a large file, git's hash of a small one.
    pub(crate) etag: String,
    pub(crate) size: Option<u64>,
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    /// `false`, or how access is given: `"auto"`, `"manual"`.
    #[serde(default)]
    gated: serde_json::Value,
    #[serde(default)]
    siblings: Vec<SiblingInfo>,
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

impl Api<'_> {
    /// The repository as it is at that revision.
    pub(crate) async fn repository(&self, repo: &str, revision: &str) -> Result<Repository> {
        let url =
            beneath(self.endpoint, &format!("api/models/{repo}/revision/{}?blobs=true", encoded(revision)))?;
        let answer = self.ask(Method::GET, url).await?;
        if !answer.status.is_success() {
            return Err(self.refusal(answer, repo, revision, None));
        }
        let unusable = |what: &str| {
            Failure::new(Code::DownloadFailed, format!("{} answered {what}", answer.host))
                .hint("check the configured endpoint: is it a Hugging Face Hub?")
        };
        let info: ModelInfo =
            serde_json::from_slice(&answer.body).map_err(|_| unusable("something that is no repository"))?;
        if !name::is_commit(&info.sha) {
            return Err(unusable("with a commit that is none"));
        }
        let sibling = |file: SiblingInfo| {
            let (sha256, size) = file.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
            Sibling {
                path: file.rfilename,
                size: size.or(file.size),
                sha256: sha256.filter(|sha256| is_sha256(sha256)),
            }
        };
        // A path that could climb out of a folder is no file that anybody can want.
        let files = info.siblings.into_iter().map(sibling).filter(|file| name::is_path(&file.path)).collect();
        let is_gated = !matches!(info.gated, serde_json::Value::Null | serde_json::Value::Bool(false));
        Ok(Repository { commit: info.sha, is_gated, files })
    }

    /// What the Hub says of a file, without fetching it. It refuses here whoever may not have it.
    pub(crate) async fn file(&self, repo: &str, commit: &str, path: &str) -> Result<FileFacts> {
        let answer = self.ask(Method::HEAD, file_url(self.endpoint, repo, commit, path)?).await?;
        if !answer.status.is_success() && !answer.status.is_redirection() {
            return Err(self.refusal(answer, repo, commit, Some(path)));
        }
        let etag = answer.header("X-Linked-ETag").or_else(|| answer.header(ETAG.as_str()));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        // It becomes the name of a file.
        let is_name = |etag: &&str| {
            (1..=128).contains(&etag.len())
                && !etag.starts_with('.')
                && etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        let Some(etag) = etag.filter(is_name) else {
            return Err(Failure::new(
                Code::DownloadFailed,
                format!("{} does not say which version of {path} it has", answer.host),
            )
            .hint("check the configured endpoint: is it a Hugging Face Hub?"));
        };
        let own_length = answer.header("Content-Length").filter(|_| answer.status.is_success());
        Ok(FileFacts {
            etag: etag.to_owned(),
            size: answer.header("X-Linked-Size").or(own_length).and_then(|size| size.parse().ok()),
        })
    }

    async fn ask(&self, method: Method, url: Url) -> Result<Answer> {
        let question =
            Question { method, url, credentials: self.credentials.as_ref(), accept: "application/json, */*" };
        ask(&question, &self.fetcher, self.timers).await
    }

    /// What the Hub means by refusing: its header `X-Error-Code` says more than the status.
    fn refusal(&self, answer: Answer, repo: &str, revision: &str, path: Option<&str>) -> Failure {
        let code = answer.header("X-Error-Code").unwrap_or_default().to_owned();
        let page = format!("{}/{repo}", self.endpoint.as_str().trim_end_matches('/'));
        let has_token = self.credentials.is_some();
        let (code, message, hint) = match (answer.status, code.as_str()) {
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
                format!("{repo} is private, or there is no such repository: the Hub tells strangers no more"),
                format!("check the name; if the repository is private, {LOG_IN}"),
            ),
            (_, "RevisionNotFound") => (
                Code::RevisionNotFound,
                format!("{repo} has no revision '{revision}'"),
                format!(
                    "leave the revision out for the branch main, or see {page}/tree/main for those there are"
                ),
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
                    "check its name; one that is private is seen only with a token of an account that may"
                        .to_owned()
                } else {
                    format!("check its name; if it is private, {LOG_IN}")
                },
            ),
            (StatusCode::FORBIDDEN, _) => (
                Code::SourceUnauthorized,
                format!("the Hub does not let this account have {repo} (403)"),
                format!("see {page} for why; a fine-grained token needs read access to this repository"),
            ),
            _ => return answer.unexpected,
        };
        Failure::new(code, message).hint(hint)
    }
}

/// Where a file is to be had.
pub(crate) fn file_url(endpoint: &Url, repo: &str, commit: &str, path: &str) -> Result<Url> {
    let path: Vec<_> = path.split('/').map(encoded).collect();
    beneath(endpoint, &format!("{repo}/resolve/{commit}/{}", path.join("/")))
}

/// A URL beneath the endpoint, whose own path is kept. What is given is encoded already.
fn beneath(endpoint: &Url, rest: &str) -> Result<Url> {
    Url::parse(&format!("{}/{rest}", endpoint.as_str().trim_end_matches('/')))
        .map_err(|error| Failure::internal("a URL of the Hub could not be made").detail(error))
}

const LOG_IN: &str =
    "start the hive with HF_TOKEN set, or log in with `hf auth login` (the hive reads the same token file)";

/// Percent-encodes a part of a path: RFC 3986, section 2.1, all but its unreserved characters.
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;

    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_a_url_is_encoded() {
        assert_eq!(encoded("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b+é.gguf"), "a%20b%2B%C3%A9.gguf");
    }
}
