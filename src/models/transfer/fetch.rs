//! Requests to other servers.
//!
//! Redirects are followed here and not by the HTTP client, so that each target is vetted ([`Guard`])
//! and a token is shown to its own server alone. The time in which an answer must begin includes the
//! time to connect. A failure shows nothing that the other server wrote: only its host and its status.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::config::{Config, Timers};
use crate::error::{Code, Failure};
use crate::models::transfer::guard::Guard;
use crate::models::transfer::purpose::{Purpose, Step};
use crate::models::transfer::remote::{Credentials, Trust, authority};
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};
use crate::narration::waiting_for;
use crate::outgoing::{self, ProxyServer, Unreached};
use crate::time::in_words;
use crate::{n, text};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// Sends requests for one source or one transfer, over connections of its own.
#[derive(Debug)]
pub(crate) struct Fetcher {
    guard: Guard,
    timers: Timers,
    clients: Mutex<HashMap<Route, Client>>,
}

/// What a client is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Route {
    is_https: bool,
    is_proxied: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct FetchRequest<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: HeaderMap,
    pub(crate) credentials: Option<&'a Credentials>,
}

/// An answer of any status, whose body has not been read yet.
#[derive(Debug)]
pub(crate) struct FetchResponse {
    pub(crate) response: Response,
    /// The URL that it came from, after redirects, and its host.
    pub(crate) url: Url,
    pub(crate) host: String,
    /// The proxy that it came through.
    proxy: Option<ProxyServer>,
}

/// The settings of requests.
#[derive(Clone, Debug)]
pub(crate) struct FetchConfig {
    pub(crate) allow_hosts: Vec<String>,
    /// Whether every caller is somebody of this machine.
    pub(crate) is_local: bool,
    pub(crate) timers: Timers,
}

impl FetchConfig {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            allow_hosts: config.downloads.allow_hosts.clone(),
            is_local: config.is_local(),
            timers: config.timers.clone(),
        }
    }
}

impl<'a> FetchRequest<'a> {
    /// A `GET` of `url`.
    pub(crate) fn get(url: &'a Url, credentials: Option<&'a Credentials>) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), credentials }
    }
}

impl Fetcher {
    /// A fetcher for servers that are trusted as `trust` says; `url` is the one that was named.
    pub(crate) fn new(config: &FetchConfig, trust: &Trust, url: &Url) -> Self {
        let (named, endpoint) = match trust {
            Trust::Named => (authority(url).filter(|_| config.is_local), None),
            Trust::Endpoint(endpoint) => (None, authority(endpoint)),
        };
        let (allowed, resolver_timeout) = (config.allow_hosts.clone(), *config.timers.connect);
        let guard = Guard { allowed, named, endpoint, resolver_timeout, ..Guard::default() };
        Self { guard, timers: config.timers.clone(), clients: Mutex::default() }
    }

    /// Sends a request, and does not follow a redirect.
    ///
    /// # Errors
    /// Where the server may not be asked, or no answer begins within the stall time.
    pub(crate) async fn send(&self, request: FetchRequest<'_>) -> FetchResult<FetchResponse> {
        let FetchRequest { method, url, mut headers, credentials } = request;
        let proxy = self.guard.vet(url).await?;
        let (host, port) = authority(url).unwrap_or_default();
        tracing::debug!(%host, port, %method, proxy = proxy.as_ref().map(tracing::field::display), "asking for a file");
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.remove(AUTHORIZATION);
        let authorization = credentials.and_then(|credentials| credentials.for_url(url));
        headers.extend(authorization.map(|header| (AUTHORIZATION, header)));
        let request = self.client(url, proxy.is_some())?.request(method, url.clone()).headers(headers);
        let stall = *self.timers.stall;
        let sent = timeout(stall, request.send()).await.map_err(|_| {
            let via = proxy.as_ref().map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
            let message = format!("{host}:{port} did not answer within {}{via}", in_words(stall));
            let failure = download_failed(message)
                .hint("the server hangs, or a firewall drops the connection: try again later");
            Trouble::new(TroubleKind::Stalled, failure)
        })?;
        let response = sent.map_err(|error| {
            let unreached = Unreached::new(error, url, proxy.as_ref());
            let kind = if unreached.is_lasting() { TroubleKind::Fatal } else { TroubleKind::Passing };
            Trouble::new(kind, unreached.into_failure(Code::DownloadFailed))
        })?;
        Ok(FetchResponse { response, url: url.clone(), host, proxy })
    }

    /// Sends a request, and follows redirects to the first answer that is none.
    ///
    /// # Errors
    /// Those of [`Self::send`]; a redirect to no valid URL, to a server that may not be asked, or in a
    /// loop.
    pub(crate) async fn follow(&self, request: FetchRequest<'_>) -> FetchResult<FetchResponse> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(FetchRequest { url: &url, ..request.clone() }).await?;
            // 300 and 304 are no redirects of a request like these.
            if !matches!(response.response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = response.location()?;
            tracing::debug!(host = %response.host, to = url.host_str().unwrap_or_default(), "redirected");
        }
        let host = url.host_str().unwrap_or_default();
        let failure = download_failed(format!("more than {MAX_REDIRECTS} redirects, the last to {host}"));
        Err(Trouble::fatal(failure.hint("check the URL in a browser")))
    }

    /// The size of a file in bytes, where its server tells it. Where the server is only busy or slow, it is not known,
    /// and the transfer is left to wait for it.
    ///
    /// # Errors
    /// Where there is no such file, or the server may not be asked.
    pub(crate) async fn size_of(&self, url: &Url, purpose: Purpose) -> Result<Option<u64>, Failure> {
        let host = url.host_str().unwrap_or_default();
        let _waiting = waiting_for(format!("{host} to answer"));
        n!(debug: purpose.action(Step::Connect), "Asking {host}");
        match self.told_size(url).await {
            Err(trouble) if trouble.kind.is_fatal() => Err(trouble.failure),
            Err(trouble) => {
                n!(warn: purpose.action(Step::Preflight), "{}", trouble.failure);
                Ok(None)
            }
            Ok(size) => Ok(size),
        }
    }

    /// Asks for the first byte of a file: the answer tells the size, and shows that there is a file. `HEAD` would not
    /// do, because signed URLs are for one method.
    async fn told_size(&self, url: &Url) -> FetchResult<Option<u64>> {
        let mut request = FetchRequest::get(url, None);
        request.headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let response = self.follow(request).await?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        match response.response.status() {
            StatusCode::OK => Ok(response.header(CONTENT_LENGTH).and_then(number)),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                let range = response.header(CONTENT_RANGE);
                Ok(range.and_then(|range| range.rsplit_once('/')).and_then(|(_, size)| number(size)))
            }
            _ => Err(response.trouble()),
        }
    }

    /// The whole body of a small answer.
    ///
    /// # Errors
    /// Where it stalls, breaks off, or is longer than `most` bytes.
    pub(crate) async fn read_body(&self, response: FetchResponse, most: usize) -> FetchResult<Bytes> {
        let FetchResponse { mut response, host, .. } = response;
        let (mut body, stall) = (BytesMut::new(), *self.timers.stall);
        loop {
            let piece = timeout(stall, response.chunk()).await.map_err(|_| {
                let failure = download_failed(format!("{host} sent nothing for {}", in_words(stall)));
                Trouble::new(TroubleKind::Stalled, failure)
            })?;
            let piece = piece.map_err(|error| {
                let failure = download_failed(format!("{host} broke off its answer"));
                Trouble::passing(failure.cause(&error.without_url()))
            })?;
            let Some(piece) = piece else { return Ok(body.freeze()) };
            if body.len() + piece.len() > most {
                let message = format!("{host} answered with more than {}", text::bytes(most as u64));
                return Err(Trouble::fatal(download_failed(message)));
            }
            body.extend_from_slice(&piece);
        }
    }

    fn client(&self, url: &Url, is_proxied: bool) -> FetchResult<Client> {
        let route = Route { is_https: url.scheme() == "https", is_proxied };
        if let Some(client) = self.clients.lock().get(&route) {
            return Ok(client.clone());
        }
        let builder = outgoing::builder(*self.timers.connect, is_proxied)
            // The transfer counts retries; nested ones would multiply.
            .retry(reqwest::retry::never())
            .dns_resolver(self.guard.vetted.clone());
        // Plain HTTP works on a machine without root certificates, too.
        let builder = if route.is_https { builder } else { builder.tls_certs_only([]) };
        let client = builder.build().map_err(|error| {
            let failure = download_failed("the HTTPS client could not be set up".to_owned()).cause(&error);
            Trouble::fatal(
                failure.hint("the machine needs root certificates: install the package ca-certificates"),
            )
        })?;
        Ok(self.clients.lock().entry(route).or_insert(client).clone())
    }
}

impl FetchResponse {
    /// The answer of a server that was asked by another client; `host` is what it is called.
    pub(crate) const fn direct(response: Response, url: Url, host: String) -> Self {
        Self { response, url, host, proxy: None }
    }

    /// A header of the answer, if it is text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The URL that a redirect leads to.
    ///
    /// # Errors
    /// Where it is not valid.
    pub(crate) fn location(&self) -> FetchResult<Url> {
        let next = self.header(LOCATION).and_then(|location| self.url.join(location).ok());
        let mut next = next.ok_or_else(|| {
            let (host, status) = (&self.host, self.response.status().as_u16());
            Trouble::fatal(download_failed(format!("{host} redirected ({status}) to no valid address")))
        })?;
        // The client would make an Authorization header of them.
        let _ = (next.set_username(""), next.set_password(None));
        Ok(next)
    }

    /// The failure that an answer other than a success stands for.
    pub(crate) fn trouble(&self) -> Trouble {
        let (host, status) = (&self.host, self.response.status());
        let code = status.as_u16();
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Trouble::fatal(
                Failure::new(Code::SourceNotFound, format!("{host} has no such file ({code})"))
                    .hint("check the URL's path"),
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Trouble::fatal(
                download_failed(format!("{host} does not give the file to everybody ({code})"))
                    .hint("fetch the file with your own credentials and import it with file:/path"),
            ),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let failure = download_failed(format!("{host} is too busy ({code})"));
                match self.header(RETRY_AFTER).and_then(|text| retry_after(text, SystemTime::now())) {
                    None => Trouble::passing(failure.hint("try again later")),
                    Some(after) => {
                        let hint = format!("it asks to wait {}: try again then", in_words(after));
                        Trouble::new(TroubleKind::Later(after), failure.hint(hint))
                    }
                }
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Trouble::fatal(
                download_failed(format!("a proxy on the way to {host} asks for a password ({code})")).hint(
                    "put the user and the password into the URL of the proxy: http://user:password@host:port",
                ),
            ),
            _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                let failure = download_failed(format!("{host} answered {code}"));
                Trouble::passing(match &self.proxy {
                    None => failure.hint("try again later"),
                    Some(proxy) => failure.hint(format!(
                        "it was asked through the proxy {proxy}, which may have answered itself"
                    )),
                })
            }
            StatusCode::BAD_REQUEST if self.url.scheme() == "http" => Trouble::fatal(
                download_failed(format!("{host} answered {code} where 200 was expected"))
                    .hint("check the URL in a browser; if the port serves https, write https://"),
            ),
            _ => Trouble::fatal(
                download_failed(format!("{host} answered {code} where 200 was expected"))
                    .hint("check the URL in a browser"),
            ),
        }
    }
}

/// How long `Retry-After` (RFC 9110, section 10.2.3) asks to wait: seconds, or until an instant.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are more seconds than anybody waits.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_an_instant() {
        let now = httpdate::parse_http_date("Mon, 23 Nov 2026 12:00:00 GMT").unwrap();
        let seconds = |text| retry_after(text, now).map(|after| after.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Mon, 23 Nov 2026 12:00:07 GMT"), Some(7));
        assert_eq!(seconds("Mon, 23 Nov 2020 12:00:07 GMT"), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(seconds("-1"), None);
        assert_eq!(seconds("soon"), None);
    }
}
