//! Small requests to a registry of models.
//!
//! Repeated requests are bounded: a busy server is asked up to three times, one that cannot be reached
//! once, so that a machine without a network fails at once.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use crate::config::Timers;
use crate::error::Failure;
use crate::models::transfer::fetch::{FetchRequest, FetchResponse, Fetcher};
use crate::models::transfer::remote::{Credentials, authority};
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};
use crate::n;
use crate::narration::waiting_for;
use crate::time::in_words;

/// How many redirects within itself a server may answer a `HEAD` with.
const MAX_REDIRECTS: usize = 5;
/// The longest body, in bytes: a repository of many thousand files stays far below.
const MAX_BODY: usize = 16 << 20;
/// How often a busy server is asked.
const TRIES: u32 = 3;
/// The longest wait between two tries, whatever the server requests.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// A request.
#[derive(Debug)]
pub(crate) struct RegistryRequest<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) credentials: Option<&'a Credentials>,
    /// The media types that are understood.
    pub(crate) accept: &'static str,
}

/// A response, whatever its status.
#[derive(Debug)]
pub(crate) struct RegistryResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Empty for `HEAD`, and where the status is no success.
    pub(crate) body: Bytes,
    pub(crate) host: String,
    /// The failure that the status means where the caller does not know better.
    pub(crate) unexpected: Failure,
}

/// Why a registry did not give what was requested.
#[derive(Debug)]
pub(crate) enum RegistryError {
    /// It gave no usable answer. What was downloaded before may do instead.
    Unavailable(Failure),
    /// It answered that it does not have it, or does not give it; or this hive may not ask a server that it
    /// redirected to.
    Refused(Failure),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unavailable(failure) | RegistryError::Refused(failure) => failure,
        }
    }
}

impl From<Trouble> for RegistryError {
    fn from(trouble: Trouble) -> Self {
        match trouble.kind {
            TroubleKind::Refused => Self::Refused(trouble.failure),
            _ => Self::Unavailable(trouble.failure),
        }
    }
}

impl RegistryResponse {
    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends a request. A `HEAD` ends at the first redirect to another server: the registry states what it
/// knows of the file in the redirect.
///
/// # Errors
/// [`RegistryError::Unavailable`] where there is no complete answer.
pub(crate) async fn send(
    request: &RegistryRequest<'_>,
    fetcher: &Fetcher,
    timers: &Timers,
) -> Result<RegistryResponse, RegistryError> {
    let mut tried = 1;
    loop {
        let (response, kind) = send_once(request, fetcher).await?;
        let wait = match kind {
            TroubleKind::Later(wait) => wait,
            _ => *timers.progress * tried,
        };
        let is_busy = response.status == StatusCode::TOO_MANY_REQUESTS || response.status.is_server_error();
        if !is_busy || tried == TRIES || wait > MAX_WAIT {
            return Ok(response);
        }
        n!(warn: "source_retry", "{} is busy ({}); asking again in {}",
           response.host, response.status.as_u16(), in_words(wait));
        tokio::time::sleep(wait).await;
        tried += 1;
    }
}

async fn send_once(
    request: &RegistryRequest<'_>,
    fetcher: &Fetcher,
) -> FetchResult<(RegistryResponse, TroubleKind)> {
    let RegistryRequest { method, url, credentials, accept } = request;
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    let _waiting = waiting_for(format!("{} to answer", url.host_str().unwrap_or_default()));
    let fetch = FetchRequest { method: method.clone(), url, headers, credentials: *credentials };
    let fetched =
        if *method == Method::HEAD { head(fetch, fetcher).await? } else { fetcher.follow(fetch).await? };
    let trouble = fetched.trouble();
    let (status, headers) = (fetched.response.status(), fetched.response.headers().clone());
    let host = fetched.host.clone();
    let has_body = status.is_success() && *method != Method::HEAD;
    let body = if has_body { fetcher.read_body(fetched, MAX_BODY).await? } else { Bytes::new() };
    Ok((RegistryResponse { status, headers, body, host, unexpected: trouble.failure }, trouble.kind))
}

async fn head(request: FetchRequest<'_>, fetcher: &Fetcher) -> FetchResult<FetchResponse> {
    let mut url = request.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let response = fetcher.send(FetchRequest { url: &url, ..request.clone() }).await?;
        if !response.response.status().is_redirection() {
            return Ok(response);
        }
        let next = response.location()?;
        if authority(&next) != authority(&url) {
            return Ok(response);
        }
        url = next;
    }
    let host = url.host_str().unwrap_or_default();
    Err(Trouble::fatal(
        download_failed(format!("more than {MAX_REDIRECTS} redirects, the last to {host}"))
            .hint("check the configured endpoint"),
    ))
}
