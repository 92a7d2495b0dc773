//! The releases of llama.cpp, by GitHub's API of releases, there or on a mirror
//! (<https://docs.github.com/en/rest/releases/releases>).
//!
//! The API lets an address ask only a few dozen times an hour. So an answer is asked for again by its `ETag`, may be
//! used for a while without asking, and is remembered on disk for a machine that has no network at the moment.
//!
//! A release may have no archives itself but name the release that has them, in a file [`POINTER`]: so do those that
//! "latest" has meant since llama.cpp's builds are called prereleases.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::archive_name::ArchiveName;
use super::harmless::harmless;
use crate::config::{Config, EngineBuilds};
use crate::error::{Code, Failure, Result};
use crate::files::versioned::{self, VERSION, first_version};
use crate::models::{FetchConfig, FetchRequest, FetchResponse, Fetcher, Trust, retry_after};
use crate::narration::waiting_for;
use crate::text::{excerpt, hex, is_sha256};
use crate::time::{Instant, in_words};
use crate::{disk, files, n, spawn};

/// The name of the newest release.
pub const LATEST: &str = "latest";
/// The file that names the release with the archives.
const POINTER: &str = "nightly-tag.txt";
/// The most bytes of an answer. That of a release has some 100 KiB.
const MOST_OF_ANSWER: usize = 4 << 20;
/// The most bytes of a [`POINTER`].
const MOST_OF_POINTER: usize = 256;
/// The most bytes of the file of remembered answers.
const MOST_REMEMBERED: u64 = 32 << 20;
/// How many answers are remembered.
const REMEMBERED: usize = 12;

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its tag, such as `b6789`.
    pub tag: String,
    /// When it was published.
    pub published_at: Option<Timestamp>,
    /// Its files.
    pub assets: Vec<Asset>,
    /// Where its sources are, as a `.tar.gz`, for which the API gives no hash.
    pub sources: Option<String>,
    /// The release that has the archives, where this one has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    points_to: Option<String>,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// In lower-case hexadecimal; GitHub has it since the middle of 2025.
    pub sha256: Option<String>,
    /// Where it is.
    pub url: String,
}

/// A release, and how well it is known.
#[derive(Clone, Debug)]
pub struct KnownRelease {
    /// The release, which has archives.
    pub release: Release,
    /// When the server said so.
    pub at: Timestamp,
    /// Why the server could not be asked now, where this is what it said earlier.
    pub problem: Option<Failure>,
}

/// Asks for releases, and remembers the answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Releases {
    endpoint: String,
    fetch: FetchConfig,
    /// `releases.json`.
    path: PathBuf,
    /// Held while the file is read or rewritten.
    writing: Arc<Mutex<()>>,
}

/// An answer of the API, as it is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    url: String,
    etag: Option<String>,
    at: Timestamp,
    release: Release,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// The file of the remembered answers, the newest first.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    #[serde(default = "first_version")]
    version: u64,
    answers: Vec<Answer>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { version: VERSION, answers: Vec::new(), unknown: Map::new() }
    }
}

impl Release {
    /// The file of that name.
    #[must_use]
    pub fn asset(&self, name: &str) -> Option<&Asset> {
        self.assets.iter().find(|asset| asset.name == name)
    }

    fn has_archives(&self) -> bool {
        self.assets.iter().any(|asset| ArchiveName::parse(&asset.name).is_some())
    }

    /// Reads the API's answer.
    pub(super) fn parse(json: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Wire {
            tag_name: String,
            published_at: Option<Timestamp>,
            tarball_url: Option<String>,
            #[serde(default)]
            assets: Vec<WireAsset>,
        }
        #[derive(Deserialize)]
        struct WireAsset {
            name: String,
            size: u64,
            digest: Option<String>,
            browser_download_url: String,
            /// `uploaded`, or `open` while it is on its way to GitHub.
            state: Option<String>,
        }
        let wire: Wire = serde_json::from_slice(json)?;
        let assets = wire
            .assets
            .into_iter()
            .filter(|asset| asset.state.as_deref().unwrap_or("uploaded") == "uploaded");
        let sha256 = |digest: String| {
            Some(digest.strip_prefix("sha256:")?.to_ascii_lowercase()).filter(|digits| is_sha256(digits))
        };
        Ok(Self {
            tag: wire.tag_name,
            published_at: wire.published_at,
            sources: wire.tarball_url,
            assets: assets
                .map(|asset| Asset {
                    name: asset.name,
                    size: asset.size,
                    sha256: asset.digest.and_then(sha256),
                    url: asset.browser_download_url,
                })
                .collect(),
            points_to: None,
        })
    }
}

impl Releases {
    /// The releases of the settings, remembered in the hive's folder of engines.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::of(&config.engine_builds, FetchConfig::of(config), &config.engines_dir())
    }

    fn of(builds: &EngineBuilds, fetch: FetchConfig, folder: &Path) -> Self {
        Self {
            endpoint: builds.releases.trim_end_matches('/').to_owned(),
            fetch,
            path: folder.join("releases.json"),
            writing: Arc::default(),
        }
    }

    /// The release of that version, a tag or [`LATEST`], or the one with the archives that it names. What the server
    /// said within the time `fresh` is used without asking again; what it said earlier is used where it cannot be
    /// asked now.
    ///
    /// # Errors
    /// [`Code::InvalidField`] where `version` is no tag; [`Code::RevisionNotFound`] where there is no such release, or
    /// it has no archives; [`Code::ConfigInvalid`] where the address of the settings is none; and why the server could
    /// not be asked, where nothing is remembered.
    pub async fn find(&self, version: &str, fresh: Duration) -> Result<KnownRelease> {
        let mut known = self.ask(version, fresh).await?;
        if let Some(tag) = known.release.points_to.clone() {
            n!(debug: "worker_install_release", "Release {} has its archives in {tag}", known.release.tag);
            let first = std::mem::replace(&mut known, self.ask(&tag, fresh).await?);
            known.problem = known.problem.or(first.problem);
        }
        if let Some(problem) = &known.problem {
            let age = in_words(now().duration_since(known.at).unsigned_abs());
            let problem = problem.to_string();
            n!(
                warn: "worker_install_release",
                "{}: going on with release {}, as the server told it {age} ago", harmless(&problem), known.release.tag
            );
        }
        self.with_archives(known)
    }

    fn with_archives(&self, known: KnownRelease) -> Result<KnownRelease> {
        if known.release.has_archives() {
            return Ok(known);
        }
        let message =
            format!("release {} of {} has no archive of an engine", known.release.tag, self.endpoint);
        Err(Failure::new(Code::RevisionNotFound, message)
            .hint("name another version, or another address in [engine_builds] releases"))
    }

    /// What the server says of one release.
    async fn ask(&self, version: &str, fresh: Duration) -> Result<KnownRelease> {
        let url = self.url(version)?;
        let remembered = self.remembered(url.as_str()).await?;
        if let Some(answer) = &remembered
            && is_within(answer.at, fresh)
        {
            return Ok(KnownRelease { release: answer.release.clone(), at: answer.at, problem: None });
        }
        let etag = remembered.as_ref().and_then(|answer| answer.etag.clone());
        match (self.request(&url, version, etag).await, remembered) {
            (Ok(Some(answer)), _) => {
                self.remember(answer.clone()).await;
                Ok(KnownRelease { release: answer.release, at: answer.at, problem: None })
            }
            (Ok(None), Some(answer)) => {
                let answer = Answer { at: now(), ..answer };
                self.remember(answer.clone()).await;
                Ok(KnownRelease { release: answer.release, at: answer.at, problem: None })
            }
            (Ok(None), None) => Err(bad_answer(&url, "an answer that has not changed")),
            (Err(failure), Some(answer)) if failure.code != Code::RevisionNotFound => {
                Ok(KnownRelease { release: answer.release, at: answer.at, problem: Some(failure) })
            }
            (Err(failure), _) => Err(failure.stage("release")),
        }
    }

    fn url(&self, version: &str) -> Result<Url> {
        let is_tag = !version.is_empty()
            && version.len() <= 100
            && !version.starts_with(['.', '-'])
            && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte));
        if !is_tag {
            let message = format!("version: '{}' is the name of no release", excerpt(version));
            return Err(Failure::new(Code::InvalidField, message)
                .hint("name a release such as b6789, or leave the field out for the newest one"));
        }
        let path = if version == LATEST { LATEST.to_owned() } else { format!("tags/{version}") };
        Url::parse(&format!("{}/{path}", self.endpoint)).map_err(|error| {
            Failure::new(Code::ConfigInvalid, "[engine_builds] releases is not a URL")
                .cause(&error)
                .hint("write it as https://host/repos/OWNER/REPOSITORY/releases")
        })
    }

    /// Asks the server; `None` where it says that nothing has changed.
    async fn request(&self, url: &Url, version: &str, etag: Option<String>) -> Result<Option<Answer>> {
        let host = url.host_str().unwrap_or_default();
        let _waiting = waiting_for(format!("{host} to answer"));
        n!(debug: "worker_install_release", "Asking {host} for release {version}");
        let fetcher = Fetcher::new(&self.fetch, &Trust::Endpoint(url.clone()), url);
        let mut request = FetchRequest::get(url, None);
        request.headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        request
            .headers
            .insert(HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28"));
        let etag = etag.and_then(|etag| HeaderValue::from_str(&etag).ok());
        request.headers.extend(etag.map(|etag| (IF_NONE_MATCH, etag)));
        let response = fetcher.follow(request).await?;
        match response.response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::NOT_FOUND => {
                let message = format!("{host} has no release {version} of an engine");
                return Err(Failure::new(Code::RevisionNotFound, message)
                    .hint("check the version, and the address in [engine_builds] releases"));
            }
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => return Err(limited(&response)),
            _ => return Err(response.trouble().failure),
        }
        let etag = response.header(ETAG).map(str::to_owned);
        let body = fetcher.read_body(response, MOST_OF_ANSWER).await?;
        let mut release =
            Release::parse(&body).map_err(|error| bad_answer(url, "no release").cause(&error))?;
        if !release.has_archives()
            && let Some(pointer) = release.asset(POINTER)
        {
            release.points_to = Some(read_pointer(&fetcher, pointer).await?);
        }
        Ok(Some(Answer { url: url.to_string(), etag, at: now(), release, unknown: Map::new() }))
    }

    async fn remembered(&self, url: &str) -> Result<Option<Answer>> {
        let (path, url, writing) = (self.path.clone(), url.to_owned(), Arc::clone(&self.writing));
        spawn::blocking(move || {
            let _writing = writing.lock();
            let answers = read(&path).map(|file| file.answers).unwrap_or_default();
            answers.into_iter().find(|answer| answer.url == url)
        })
        .await
    }

    /// Remembers an answer. That it could not be is no reason to fail.
    async fn remember(&self, answer: Answer) {
        let (path, writing) = (self.path.clone(), Arc::clone(&self.writing));
        let written = spawn::blocking(move || {
            let _writing = writing.lock();
            write(&path, answer)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(path = %self.path.display(), %error, "what the server said of a release was not kept");
        }
    }
}

/// What is remembered; `None` where the file is not for this version to change. Blocks.
fn read(path: &Path) -> Option<Remembered> {
    versioned::load(path, MOST_REMEMBERED, "no answer about releases is remembered")
}

fn write(path: &Path, answer: Answer) -> std::io::Result<()> {
    let Some(mut file) = read(path) else { return Ok(()) };
    file.answers.retain(|other| other.url != answer.url);
    file.answers.insert(0, answer);
    file.answers.truncate(REMEMBERED);
    path.parent().map_or(Ok(()), disk::create_private_dir)?;
    files::put(path, &serde_json::to_vec(&file)?).map(drop)
}

/// The tag in a [`POINTER`].
async fn read_pointer(fetcher: &Fetcher, pointer: &Asset) -> Result<String> {
    let url = Url::parse(&pointer.url).map_err(|error| {
        Failure::new(Code::DownloadFailed, "a release has a file without a URL").cause(&error)
    })?;
    let response = fetcher.follow(FetchRequest::get(&url, None)).await?;
    if response.response.status() != StatusCode::OK {
        return Err(response.trouble().failure);
    }
    let body = fetcher.read_body(response, MOST_OF_POINTER).await?;
    if pointer.sha256.as_ref().is_some_and(|promised| *promised != hex(&Sha256::digest(&body))) {
        return Err(bad_answer(&url, "another file than its release promises"));
    }
    let tag = String::from_utf8(body.to_vec()).map_err(|_| bad_answer(&url, "no name of a release"))?;
    Ok(tag.trim().to_owned())
}

fn bad_answer(url: &Url, what: &str) -> Failure {
    let host = url.host_str().unwrap_or_default();
    Failure::new(Code::DownloadFailed, format!("{host} answered with {what} when it was asked for a release"))
        .hint("check the address in [engine_builds] releases: it is that of an API like GitHub's")
}

/// The failure of an answer that refuses, which may be because it was asked too often
/// (<https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>).
fn limited(response: &FetchResponse) -> Failure {
    let header = |name: &'static str| response.header(HeaderName::from_static(name));
    let now = SystemTime::now();
    let reset = header("x-ratelimit-reset").and_then(|at| at.trim().parse::<u64>().ok());
    let reset = reset.filter(|_| header("x-ratelimit-remaining").is_some_and(|left| left.trim() == "0"));
    let wait = response.header(RETRY_AFTER).and_then(|after| retry_after(after, now)).or_else(|| {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(reset?))?;
        Some(at.duration_since(now).unwrap_or_default())
    });
    let Some(wait) = wait else { return response.trouble().failure };
    let message = format!("{} lets this address ask for no more releases for now", response.host);
    Failure::new(Code::DownloadFailed, message).hint(format!("try again in {}", in_words(wait)))
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(Instant::now().0).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Whether it is not longer ago than that. A time that is still to come says nothing.
fn is_within(at: Timestamp, time: Duration) -> bool {
    let elapsed = now().duration_since(at);
    !elapsed.is_negative() && elapsed.unsigned_abs() < time
}

#[cfg(test)]
mod tests;
