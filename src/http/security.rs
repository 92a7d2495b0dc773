//! Access: one middleware in front of every route.
//!
//! The checks have a fixed order, each cheaper and broader than the next: the `Host` (against DNS
//! rebinding), the `Origin` (against other web pages), the token. Routes for POST then check the content type
//! (`body::post`), against forms that need no preflight.
//!
//! Invariants:
//! - Loopback does not protect by itself: a web page of another origin can neither read nor act.
//! - There is one authenticator, [`AccessPolicy::authenticate`]. With a token set, every path that is not
//!   listed as open asks for it.
//! - The session cookie gives access to event streams alone.
//! - An allowed origin is named in the answer; no wildcard is ever sent.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL, HOST, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::origin::{Host, HostPort, Origin};
use super::problem;
use super::server::LocalAddr;
use super::session::Sessions;
use super::token::{self, SecretHash};
use crate::config::Config;
use crate::error::{Code, Failure, Result};

/// Paths that ask for no token: the health check, which existing clients poll, and the web page, which has
/// no data in it.
const OPEN_PATHS: [&str; 2] = ["/health", "/"];
/// The prefix of the web page's other files.
const OPEN_PREFIX: &str = "/ui/";

/// The settings of access.
#[derive(Debug)]
pub(crate) struct AccessPolicy {
    hosts: Vec<Host>,
    origins: Vec<Origin>,
    token: Option<(SecretHash, Arc<Sessions>)>,
}

/// What sent an admitted request.
enum Caller {
    /// A program, or the hive's own page.
    Own,
    /// A page of an allowed origin.
    Allowed(HeaderValue),
}

impl AccessPolicy {
    /// The policy of the settings. Reads the token file.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if a setting or the token file is not valid.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let invalid = |what: &str, text: &str| {
            Failure::new(Code::ConfigInvalid, format!("{what} '{text}' is not valid"))
        };
        let hosts = config.allow_hosts.iter().map(|text| {
            Host::from_setting(text).ok_or_else(|| {
                invalid("--allow-host", text).hint("write a single host name or address, without a scheme")
            })
        });
        let origins = config.allow_origins.iter().map(|text| {
            Origin::parse(text.trim_end_matches('/')).ok_or_else(|| {
                invalid("--allow-origin", text).hint("write it as scheme://host or scheme://host:port")
            })
        });
        let token = config.token_file.as_deref().map(token::read).transpose()?;
        Ok(Self {
            hosts: hosts.collect::<Result<_>>()?,
            origins: origins.collect::<Result<_>>()?,
            token: token.map(|token| (token, Arc::new(Sessions::new(*config.timers.session)))),
        })
    }

    /// The open sessions, if a token is asked for.
    pub(crate) fn sessions(&self) -> Option<Arc<Sessions>> {
        self.token.as_ref().map(|(_, sessions)| Arc::clone(sessions))
    }

    /// The host and port that the request was sent to: the authority of its target, otherwise its one `Host`
    /// (RFC 9112 sections 3.2 and 3.2.2). Refuses hosts that are neither this machine nor allowed.
    fn check_host(&self, request: &Request) -> Result<HostPort> {
        let mut headers = request.headers().get_all(HOST).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else {
            return Err(Failure::new(Code::InvalidRequest, "the request must have exactly one Host header")
                .hint("send one Host header with the hive's name or address"));
        };
        let text = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => header.to_str().ok(),
        };
        let target = text.and_then(HostPort::parse).ok_or_else(|| {
            Failure::new(Code::InvalidRequest, "the Host header is not a host with an optional port")
                .hint("send one Host header with the hive's name or address")
        })?;
        let local =
            request.extensions().get::<LocalAddr>().map(|local| Host::Ip(local.0.ip().to_canonical()));
        let known = target.host.is_loopback() || Some(&target.host) == local.as_ref();
        if known || self.hosts.contains(&target.host) {
            return Ok(target);
        }
        let name = match &target.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.chars().take(100).collect(),
        };
        Err(Failure::new(Code::HostRefused, format!("this hive does not answer to the host '{name}'"))
            .hint(format!("start it with --allow-host {name} if that is its name, or use its address")))
    }

    /// Refuses pages of origins that are neither the hive's own nor allowed.
    fn check_origin(&self, request: &Request, target: &HostPort) -> Result<Caller> {
        let mut headers = request.headers().get_all(ORIGIN).iter();
        let Some(header) = headers.next() else { return Ok(Caller::Own) };
        let origin = header.to_str().ok().filter(|_| headers.next().is_none()).and_then(Origin::parse);
        match origin {
            Some(origin) if origin.is_of(target) => Ok(Caller::Own),
            Some(origin) if self.origins.contains(&origin) => Ok(Caller::Allowed(header.clone())),
            _ => Err(Failure::new(Code::OriginRefused, "web pages of this origin may not call this hive")
                .hint("start the hive with --allow-origin scheme://host:port for a page that you trust")),
        }
    }

    /// Checks the token, if one is set and the path is not open.
    fn authenticate(&self, request: &Request) -> Result<()> {
        let Some((token, sessions)) = &self.token else { return Ok(()) };
        let (method, path) = (request.method(), request.uri().path());
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if reads && (OPEN_PATHS.contains(&path) || path.starts_with(OPEN_PREFIX)) {
            return Ok(());
        }
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let bearer = headers.next().filter(|_| headers.next().is_none()).and_then(bearer);
        if bearer.is_some_and(|given| token.matches(&SecretHash::of(given)).into()) {
            return Ok(());
        }
        if *method == Method::GET && is_event_stream(path) && sessions.admit(request.headers()) {
            return Ok(());
        }
        let message =
            if bearer.is_some() { "the token is not this hive's" } else { "this hive asks for a token" };
        Err(Failure::new(Code::Unauthorized, message)
            .hint("send the token of the hive's --token-file as 'Authorization: Bearer TOKEN'"))
    }

    fn admit(&self, request: &Request, caller: &mut Caller) -> Result<Option<Response>> {
        let target = self.check_host(request)?;
        *caller = self.check_origin(request, &target)?;
        let preflight = *request.method() == Method::OPTIONS
            && request.headers().contains_key(ORIGIN)
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if preflight {
            return Ok(Some(answer_preflight()));
        }
        self.authenticate(request)?;
        Ok(None)
    }

    /// Adds the headers of every answer, and those that let an allowed page read it.
    fn add_headers(&self, response: &mut Response, caller: Caller, credentials: bool) {
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Caller::Allowed(origin) = caller {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Location"));
            if credentials && self.token.is_some() {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }
}

/// The middleware. The router's outermost layer, so that it also covers fallbacks.
pub(crate) async fn check_access(
    State(policy): State<Arc<AccessPolicy>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    // A page of an allowed origin may send the cookie on these routes only.
    let credentials = path == "/v1/session" || is_event_stream(&path);
    let mut caller = Caller::Own;
    let mut response = match policy.admit(&request, &mut caller) {
        Ok(None) => next.run(request).await,
        Ok(Some(answer)) => answer,
        Err(failure) => problem::at(&path, failure).into_response(),
    };
    policy.add_headers(&mut response, caller, credentials);
    response
}

fn answer_preflight() -> Response {
    (
        StatusCode::NO_CONTENT,
        [
            (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, idempotency-key, last-event-id"),
            (ACCESS_CONTROL_MAX_AGE, "600"),
        ],
    )
        .into_response()
}

/// The token of an `Authorization: Bearer` header (RFC 6750 section 2.1).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether the path is one that a browser's `EventSource` reads, or a worker's log.
fn is_event_stream(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let first_four = [segments.next(), segments.next(), segments.next(), segments.next()];
    if segments.next().is_some() {
        return false;
    }
    match first_four {
        [Some("v1"), Some("events"), None, None] | [Some("v1"), Some("heartbeats"), Some("stream"), None] => {
            true
        }
        [Some("v1"), Some("jobs"), Some(id), Some("stream")]
        | [Some("v1"), Some("workers"), Some(id), Some("log")] => !id.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
