//! Asking a registry about a model: small questions, small answers.
//!
//! What is asked twice is bounded: a server that is busy gets a second and a third chance, one that
//! cannot be reached does not, so that a machine without a network learns of it at once.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use crate::config::Timers;
use crate::error::{Failure, Result};
use crate::models::transfer::fetch::{FetchRequest, FetchResponse, Fetcher};
use crate::models::transfer::remote::{Credentials, authority};
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};
use crate::models::units;
use crate::n;
use crate::narration::waiting_for;

/// How many redirects within itself a server may answer a `HEAD` with.
const MAX_REDIRECTS: usize = 5;
/// The longest answer, in bytes: a repository of many thousand files stays far below.
const MAX_ANSWER: usize = 16 << 20;
/// How often a question is put to a server that is busy.
const TRIES: u32 = 3;
/// The longest wait before it is put again, whatever the server wishes.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// A question.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) credentials: Option<&'a Credentials>,
    /// The media types that are understood.
    pub(crate) accept: &'static str,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Empty for `HEAD`, and where the status is no success.
    pub(crate) body: Bytes,
    pub(crate) host: String,
    /// What the status means where it was not expected.
    pub(crate) unexpected: Failure,
}

impl Answer {
    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Puts a question. A `HEAD` is answered by the first redirect that leads to another server: what
/// the registry knows of the file lies in the redirect.
///
/// # Errors
/// `DownloadFailed` where there is no whole answer; `SourceRefused` for an address that is not
/// allowed.
pub(crate) async fn ask(question: &Question<'_>, fetcher: &Fetcher, timers: &Timers) -> Result<Answer> {
    let mut tried = 1;
    loop {
        let (answer, kind) = ask_once(question, fetcher).await?;
        let wait = match kind {
            TroubleKind::Later(wait) => wait,
            _ => *timers.progress * tried,
        };
        let is_busy = answer.status == StatusCode::TOO_MANY_REQUESTS || answer.status.is_server_error();
        if !is_busy || tried == TRIES || wait > MAX_WAIT {
            return Ok(answer);
        }
        n!(warn: "source_retry", "{} is busy ({}); asking again in {}",
           answer.host, answer.status.as_u16(), units::duration(wait));
        tokio::time::sleep(wait).await;
        tried += 1;
    }
}

async fn ask_once(question: &Question<'_>, fetcher: &Fetcher) -> FetchResult<(Answer, TroubleKind)> {
    let Question { method, url, credentials, accept } = question;
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    let _waiting = waiting_for(format!("{} to answer", url.host_str().unwrap_or_default()));
    let ask = FetchRequest { method: method.clone(), url, headers, credentials: *credentials };
    let hop = if *method == Method::HEAD { head(ask, fetcher).await? } else { fetcher.follow(ask).await? };
    let trouble = hop.trouble();
    let (status, headers) = (hop.response.status(), hop.response.headers().clone());
    let host = hop.host.clone();
    let has_body = status.is_success() && *method != Method::HEAD;
    let body = if has_body { fetcher.read_body(hop, MAX_ANSWER).await? } else { Bytes::new() };
    Ok((Answer { status, headers, body, host, unexpected: trouble.failure }, trouble.kind))
}

async fn head(ask: FetchRequest<'_>, fetcher: &Fetcher) -> FetchResult<FetchResponse> {
    let mut url = ask.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let hop = fetcher.send(FetchRequest { url: &url, ..ask.clone() }).await?;
        if !hop.response.status().is_redirection() {
            return Ok(hop);
        }
        let next = hop.location()?;
        if authority(&next) != authority(&url) {
            return Ok(hop);
        }
        url = next;
    }
    let host = url.host_str().unwrap_or_default();
    Err(Trouble::fatal(
        download_failed(format!("more than {MAX_REDIRECTS} redirects, the last to {host}"))
            .hint("check the configured endpoint"),
    ))
}
