//! Access: one middleware in front of every route.
//!
//! The checks have a fixed order, each cheaper and broader than the next: the `Host` (against DNS
//! rebinding), the `Origin` and `Sec-Fetch-Site` (against other web pages), the token, the role that the route
//! asks for ([`roles`]). Routes for POST then check the content type (`body::post`), against forms that need no
//! preflight.
//!
//! Invariants:
//! - Loopback does not protect by itself: a web page of another origin can neither read nor act.
//! - There is one authenticator, [`AccessPolicy::authenticate`]. Once there is a token, everything but the page's
//!   files, the description of the API and the health check, which existing clients poll, asks for one.
//! - The session cookie gives access to event streams, and to its own end, alone; and no longer than the token for
//!   which it was made.
//! - A stream that follows the hive breaks off when the token of its reader is revoked or expires.
//! - Only a connection whose caller was let in keeps its seat (`seats`).
//! - An allowed origin is named in the answer; no wildcard is ever sent.

mod roles;

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, HOST, ORIGIN, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use super::caller::{self, Admitted, FETCH_SITE, is_browser};
use super::guesses::Guesses;
use super::listener::Arrival;
use super::problem::{Problem, shorten};
use super::seats::Claim;
use super::session::Sessions;
use super::token;
use crate::callers::{Caller, Callers};
use crate::config::Config;
use crate::error::{Code, Failure, Result};
use crate::origin::{Host, HostPort, Origin};
use crate::usage::Usage;

/// Its values for another site, and for another port or host name of the same one.
const FOREIGN_SITES: [&[u8]; 2] = [b"cross-site", b"same-site"];

/// The headers of answers that pages of other origins may read.
const EXPOSED_HEADERS: &str =
    "Location, Request-Id, Retry-After, X-Rbee-Ignored-Fields, X-Rbee-Job-Id, X-Rbee-Request-Id";

/// The settings of access.
#[derive(Debug)]
pub(crate) struct AccessPolicy {
    hosts: Vec<Host>,
    origins: Vec<Origin>,
    callers: Callers,
    usage: Usage,
    sessions: Arc<Sessions>,
    guesses: Guesses,
}

/// What sent an admitted request.
enum Page {
    /// A program, or the hive's own page.
    Own,
    /// A page of an allowed origin.
    Allowed(HeaderValue),
}

/// How a request may pass.
enum Admission {
    /// It was let in, with a token where one is asked for: its connection is kept.
    Known(Option<Caller>),
    /// It asks for what is open to everybody.
    Open,
    /// This is its answer: it is a preflight.
    Answered(Response),
}

/// Why a request may not pass.
struct Refusal {
    failure: Failure,
    /// Whether it has a wrong token.
    is_guess: bool,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, is_guess: false }
    }
}

impl AccessPolicy {
    /// The policy of the settings, for these callers, whose uses of their tokens are counted.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if a setting is not valid.
    pub(crate) fn new(config: &Config, callers: Callers, usage: Usage) -> Result<Self> {
        Ok(Self {
            hosts: config.hosts()?,
            origins: config.origins()?,
            callers,
            usage,
            sessions: Arc::new(Sessions::new(*config.timers.session)),
            guesses: Guesses::new(*config.timers.wrong_token),
        })
    }

    /// The open sessions.
    pub(crate) fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.sessions)
    }

    /// The host and port that the request was sent to: the authority of its target, otherwise its one `Host`
    /// (RFC 9112 sections 3.2 and 3.2.2). Refuses hosts that are neither this machine nor allowed.
    fn check_host(&self, request: &Request) -> Result<HostPort> {
        let arrival = request.extensions().get::<Arrival>();
        if matches!(arrival, Some(Arrival::Unix { .. })) && !is_browser(request.headers()) {
            // Only the hive's own user can connect there, so any name will do, or none. What a browser sent
            // came through a proxy, and a name could have been bound to that.
            return Ok(HostPort { host: Host::Name("localhost".to_owned()), port: None });
        }
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
        let is_own = match arrival {
            Some(Arrival::Tcp { local, .. }) => target.host == Host::Ip(local.ip().to_canonical()),
            _ => false,
        };
        if is_own || target.host.is_loopback() || self.hosts.contains(&target.host) {
            return Ok(target);
        }
        let name = match &target.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.chars().take(100).collect(),
        };
        Err(Failure::new(Code::HostRefused, format!("this hive does not answer to the host '{name}'"))
            .hint(format!("start it with --allow-host {name} if that is its name, or use its address")))
    }

    /// Refuses pages of origins that are neither the hive's own nor allowed, and what a browser marks as sent
    /// by another site. Some of that has no `Origin`: images, frames, links. A link to the page itself is a
    /// person's own step.
    fn check_origin(&self, request: &Request, target: &HostPort) -> Result<Page> {
        let refused = |what: &str| {
            Err(Failure::new(Code::OriginRefused, format!("{what} may not call this hive"))
                .hint("start the hive with --allow-origin scheme://host:port for a page that you trust"))
        };
        let mut headers = request.headers().get_all(ORIGIN).iter();
        if let Some(header) = headers.next() {
            let origin = header.to_str().ok().filter(|_| headers.next().is_none()).and_then(Origin::parse);
            match origin {
                Some(origin) if origin.is_of(target) => {}
                Some(origin) if self.origins.contains(&origin) => return Ok(Page::Allowed(header.clone())),
                _ => return refused("web pages of this origin"),
            }
        }
        let sites = request.headers().get_all(FETCH_SITE).iter();
        let is_foreign = sites.map(HeaderValue::as_bytes).any(|site| FOREIGN_SITES.contains(&site));
        if is_foreign && !is_page(request.method(), request.uri().path()) {
            refused("web pages of other sites")
        } else {
            Ok(Page::Own)
        }
    }

    /// Checks the token, if one is asked for and the path is not open.
    fn authenticate(&self, request: &Request) -> Result<Admission, Refusal> {
        if !self.callers.ask_for_a_token() {
            return Ok(Admission::Known(None));
        }
        let (method, path) = (request.method(), request.uri().path());
        let given = token::given(request.headers());
        if let Some(caller) = given.and_then(|given| self.callers.holder_of(given)) {
            return Ok(Admission::Known(Some(caller)));
        }
        if is_open(method, path) {
            return Ok(Admission::Open);
        }
        // A session can read event streams and end itself.
        let is_for_session = (*method == Method::GET && is_event_stream(path))
            || (*method == Method::DELETE && path == "/v1/session");
        if is_for_session && let Some(caller) = self.sessions.holder_of(request.headers()) {
            return Ok(Admission::Known(Some(caller)));
        }
        let message = if given.is_some() {
            "the token is not this hive's, was revoked or has expired"
        } else {
            "this hive asks for a token"
        };
        let failure = Failure::new(Code::Unauthorized, message).hint(
            "send a token of the hive (of its --token-file, or one that TokenCreate made) as 'Authorization: Bearer \
             TOKEN' or as 'x-api-key: TOKEN'",
        );
        Err(Refusal { failure, is_guess: given.is_some() })
    }

    fn admit(&self, request: &Request, page: &mut Page) -> Result<Admission, Refusal> {
        let target = self.check_host(request)?;
        *page = self.check_origin(request, &target)?;
        let preflight = *request.method() == Method::OPTIONS
            && request.headers().contains_key(ORIGIN)
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if preflight {
            Ok(Admission::Answered(answer_preflight(request)))
        } else {
            self.authenticate(request)
        }
    }

    /// Notes a refusal of a wrong token, and waits until it may be answered.
    async fn note(&self, refusal: &Refusal, peer: Option<IpAddr>) {
        if refusal.is_guess {
            self.guesses.wrong(peer).await;
        }
    }

    /// Adds the headers of every answer, and those that let an allowed page read it.
    fn add_headers(&self, response: &mut Response, page: Page, credentials: bool) {
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Page::Allowed(origin) = page {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
            if credentials && self.callers.ask_for_a_token() {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }
}

/// The middleware. The router's outermost layer, so that it also covers fallbacks.
pub(crate) async fn check_access(
    State(policy): State<Arc<AccessPolicy>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    // A page of an allowed origin may send the cookie on these routes only.
    let credentials = path == "/v1/session" || is_event_stream(&path);
    let mut page = Page::Own;
    let mut response = match policy.admit(&request, &mut page) {
        Ok(Admission::Answered(answer)) => answer,
        Ok(Admission::Open) => next.run(request).await,
        Ok(Admission::Known(caller)) => {
            if let Some(claim) = request.extensions().get::<Claim>() {
                claim.keep();
            }
            if let Some(caller) = &caller {
                policy.usage.used(caller.name());
                request.extensions_mut().insert(caller.clone());
            }
            let admitted = Admitted(caller::of(request.extensions()));
            let mut answer = match caller {
                Some(caller) => answer_to(caller, request, next).await,
                None => next.run(request).await,
            };
            answer.extensions_mut().insert(admitted);
            answer
        }
        Err(refusal) => {
            let peer = request.extensions().get::<Arrival>().and_then(Arrival::peer);
            audit(&refusal, &request);
            policy.note(&refusal, peer).await;
            Problem::from(refusal.failure).into_response()
        }
    };
    policy.add_headers(&mut response, page, credentials);
    response
}

/// The answer to the holder of a token, who may lack the role that the route asks for.
async fn answer_to(caller: Caller, request: Request, next: Next) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let route = request.extensions().get::<MatchedPath>();
    let needed = roles::needed(method, route.map(MatchedPath::as_str));
    if let Err(failure) = caller.require(needed, &format!("{method} {}", shorten(path))) {
        return Problem::from(failure).into_response();
    }
    let follows = *method == Method::GET && is_event_stream(path);
    let response = next.run(request).await;
    if follows { response.map(|body| while_let_in(caller, body)) } else { response }
}

/// A stream that breaks off when its reader is let in no more. It does not end as a stream does that is complete.
fn while_let_in(caller: Caller, body: Body) -> Body {
    let over = Box::pin(caller.over());
    let cut = futures::stream::unfold(Some((body.into_data_stream(), over)), async |open| {
        let (mut data, mut over) = open?;
        tokio::select! {
            biased;
            () = &mut over => Some((Err(axum::Error::new("the token was revoked or has expired")), None)),
            piece = data.next() => Some((piece?, Some((data, over)))),
        }
    });
    Body::from_stream(cut)
}

/// Notes in the audit log who sent a wrong token.
fn audit(refusal: &Refusal, request: &Request) {
    if refusal.is_guess {
        let caller = caller::of(request.extensions());
        let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
        tracing::warn!(target: "audit", caller = &*caller, method = %request.method(), route, "refused a token");
    }
}

/// A page of an allowed origin may send whatever headers it wants to: client libraries have many of their own.
fn answer_preflight(request: &Request) -> Response {
    let nothing = HeaderValue::from_static("");
    let headers = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or(&nothing);
    (
        StatusCode::NO_CONTENT,
        [
            (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE")),
            (ACCESS_CONTROL_ALLOW_HEADERS, headers.clone()),
            (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
        ],
    )
        .into_response()
}

fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether it asks for the web page, the description of the API, or a file of either, which have no data in them.
fn is_page(method: &Method, path: &str) -> bool {
    let is_beneath =
        |root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    is_reading(method)
        && (path == "/" || path == "/openapi.json" || path.starts_with("/ui/") || is_beneath("/docs"))
}

/// Whether a route is open to everybody, also where a token is set.
pub(super) fn is_open(method: &Method, path: &str) -> bool {
    is_page(method, path) || (is_reading(method) && path == "/health")
}

/// Whether the path is one that a browser's `EventSource` reads, or a worker's log.
pub(super) fn is_event_stream(path: &str) -> bool {
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
pub(crate) use roles::table;

#[cfg(test)]
mod tests;
