//! Sessions of the web page. An `EventSource` cannot send a token in a header, so the page exchanges the
//! token for a cookie.
//!
//! Invariants:
//! - A cookie is 256 random bits, not the token. The hive keeps its hash, in memory only.
//! - `security` accepts the cookie for reading event streams and for ending the session, and for
//!   nothing else.
//! - A session belongs to the holder of the token for which it was made, and ends with that token.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use subtle::Choice;

use super::prefix::prefix;
use crate::callers::Caller;
use crate::secret_hash::SecretHash;
use crate::text::hex;

/// The name of the cookie.
pub(super) const COOKIE_NAME: &str = "rbee_session";
/// The most open sessions: one more ends the oldest.
const MOST_SESSIONS: usize = 1024;
/// Session cookies of one request that are checked.
const MOST_COOKIES: usize = 8;

/// The open sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    lifetime: Duration,
    /// Oldest first, and so in the order in which they expire. The lock is never held across an await.
    open: Mutex<VecDeque<Session>>,
}

#[derive(Debug)]
struct Session {
    hash: SecretHash,
    expires: Instant,
    holder: Caller,
}

impl Sessions {
    /// No sessions. Each new one lasts for `lifetime`.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, open: Mutex::default() }
    }

    /// Opens a session of the holder of a token for a page below `prefix`, and returns its `Set-Cookie` value. It lacks `Secure`,
    /// because the hive speaks plain HTTP; a proxy that adds TLS may add it.
    fn open(&self, holder: Caller, prefix: &str) -> String {
        let value = hex(&rand::random::<[u8; 32]>());
        let (hash, expires) = (SecretHash::of(value.as_bytes()), Instant::now() + self.lifetime);
        let mut held = self.open.lock();
        prune(&mut held);
        if held.len() == MOST_SESSIONS {
            held.pop_front();
        }
        held.push_back(Session { hash, expires, holder });
        let age = self.lifetime.as_secs();
        format!("{COOKIE_NAME}={value}; {}; Max-Age={age}", attributes(prefix))
    }

    /// Whose open session one of the request's cookies belongs to. Compares with every session, in constant time.
    pub(crate) fn holder_of(&self, headers: &HeaderMap) -> Option<Caller> {
        let given = cookies(headers);
        if given.is_empty() {
            return None;
        }
        let mut held = self.open.lock();
        prune(&mut held);
        let is_it = |session: &Session| {
            given.iter().map(|hash| session.hash.matches(hash)).fold(Choice::from(0), |any, one| any | one)
        };
        held.iter()
            .fold(None, |found, session| if is_it(session).into() { Some(&session.holder) } else { found })
            .cloned()
    }

    /// Ends the sessions of the request's cookies.
    fn end(&self, headers: &HeaderMap) {
        let given = cookies(headers);
        self.open.lock().retain(|session| !given.iter().any(|hash| session.hash.matches(hash).into()));
    }
}

/// The hashes of the request's session cookies.
fn cookies(headers: &HeaderMap) -> Vec<SecretHash> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
        .take(MOST_COOKIES)
        .map(|value| SecretHash::of(value.as_bytes()))
        .collect()
}

/// The cookie's attributes for a hive that is seen below `prefix`.
fn attributes(prefix: &str) -> String {
    format!("HttpOnly; SameSite=Strict; Path={prefix}/v1")
}

fn prune(held: &mut VecDeque<Session>) {
    let now = Instant::now();
    held.retain(|session| session.expires > now && !session.holder.is_over());
}

/// Opens a session for the web page.
///
/// An `EventSource` cannot send a token, so the page exchanges the token for a cookie.
#[utoipa::path(
    post,
    path = "/v1/session",
    operation_id = "open_session",
    tag = "Page",
    responses((status = 204, description = "It is open; there is a cookie if the hive asks for a token.", headers(
        ("set-cookie" = Option<String>, description = "The cookie `rbee_session`."))))
)]
pub(crate) async fn create(
    State(sessions): State<Arc<Sessions>>,
    holder: Option<Extension<Caller>>,
    headers: HeaderMap,
) -> Response {
    match holder {
        Some(Extension(holder)) => {
            (StatusCode::NO_CONTENT, [(SET_COOKIE, sessions.open(holder, prefix(&headers)))]).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// Ends the session of the cookie, and removes it.
#[utoipa::path(
    delete,
    path = "/v1/session",
    operation_id = "end_session",
    tag = "Page",
    responses((status = 204, description = "It has ended."))
)]
pub(crate) async fn end(State(sessions): State<Arc<Sessions>>, headers: HeaderMap) -> Response {
    sessions.end(&headers);
    let gone = format!("{COOKIE_NAME}=; {}; Max-Age=0", attributes(prefix(&headers)));
    (StatusCode::NO_CONTENT, [(SET_COOKIE, gone)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Caller {
        Caller::manager_of_a_test()
    }

    fn admits(sessions: &Sessions, headers: &HeaderMap) -> bool {
        sessions.holder_of(headers).is_some()
    }

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, value.parse().unwrap())])
    }

    fn pair(set_cookie: &str) -> &str {
        set_cookie.split(';').next().unwrap()
    }

    #[test]
    fn a_session_cookie_is_accepted_until_it_expires() {
        let sessions = Sessions::new(Duration::from_secs(43_200));
        let set = sessions.open(holder(), "");
        assert!(set.ends_with("; HttpOnly; SameSite=Strict; Path=/v1; Max-Age=43200"), "{set}");
        assert!(admits(&sessions, &with(&format!("theme=dark; {}", pair(&set)))));
        assert!(!admits(&sessions, &with("rbee_session=; rbee_session=guess")));
        assert!(!admits(&sessions, &HeaderMap::new()));
        let other = sessions.open(holder(), "");
        sessions.end(&with(pair(&set)));
        assert!(!admits(&sessions, &with(pair(&set))) && admits(&sessions, &with(pair(&other))));

        let brief = Sessions::new(Duration::ZERO);
        let set = brief.open(holder(), "/hive");
        assert!(set.contains("; Path=/hive/v1; "), "{set}");
        assert!(!admits(&brief, &with(pair(&set))));
        assert!(brief.open.lock().is_empty(), "expired sessions are removed");
    }

    #[test]
    fn a_new_session_beyond_the_limit_ends_the_oldest() {
        let sessions = Sessions::new(Duration::from_secs(60));
        let first = sessions.open(holder(), "");
        let second = sessions.open(holder(), "");
        for _ in 0..MOST_SESSIONS - 1 {
            sessions.open(holder(), "");
        }
        assert!(!admits(&sessions, &with(pair(&first))));
        assert!(admits(&sessions, &with(pair(&second))));
    }
}
