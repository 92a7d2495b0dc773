//! Who sent a request, for the queue, the counts and the logs.

use std::sync::Arc;

use axum::http::header::ORIGIN;
use axum::http::{Extensions, HeaderMap};

use super::listener::Arrival;
use super::problem::Problem;
use crate::callers::{Caller, Limited, Permit};
use crate::ops::{Asker, By};

/// The header by which a browser says which site sent a request (W3C Fetch Metadata).
pub(super) const FETCH_SITE: &str = "sec-fetch-site";

/// Who was let in, as an extension of the answer: for the access log, which stands in front of the check.
#[derive(Clone, Debug)]
pub(super) struct Admitted(pub(super) Arc<str>);

/// Whether a browser sent it for a page.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE)
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) name: Arc<str>,
    /// The holder of its token, where one is asked for.
    pub(crate) holder: Option<Caller>,
}

impl Sender {
    pub(crate) fn of(extensions: &Extensions) -> Self {
        Self { name: of(extensions), holder: holder(extensions).cloned() }
    }

    /// For the operations that the request makes.
    pub(super) fn asker(&self, by: By) -> Asker {
        Asker { caller: Arc::clone(&self.name), by }
    }

    /// Counts a request that is answered at once.
    ///
    /// # Errors
    /// Those of [`Caller::count`].
    pub(crate) fn count(&self) -> Result<(), Problem> {
        Ok(self.holder.as_ref().map_or(Ok(()), Caller::count)?)
    }

    /// Begins a request to a model.
    ///
    /// # Errors
    /// Those of [`Caller::begin`].
    pub(crate) fn begin(&self) -> Result<Option<Permit>, Problem> {
        Ok(self.holder.as_ref().map(Caller::begin).transpose()?)
    }
}

impl From<Limited> for Problem {
    fn from(Limited { failure, retry_after }: Limited) -> Self {
        Self::from(failure).retry_after(retry_after)
    }
}

/// The holder of the request's token, where one is asked for.
pub(crate) fn holder(extensions: &Extensions) -> Option<&Caller> {
    extensions.get::<Caller>()
}

/// The name of the caller: that of its token; where none is asked for, the Unix user of a peer at the Unix socket,
/// else the peer's address. An IPv6 address counts with its whole network, all of whose addresses one machine may
/// have.
pub(crate) fn of(extensions: &Extensions) -> Arc<str> {
    if let Some(holder) = holder(extensions) {
        return Arc::clone(holder.name());
    }
    match extensions.get::<Arrival>() {
        Some(Arrival::Unix { user }) => format!("user {user}").into(),
        Some(arrival @ Arrival::Tcp { .. }) => {
            arrival.peer().map_or("unknown".into(), |peer| peer.to_string().into())
        }
        None => "unknown".into(),
    }
}

/// For whom the hive keeps what a caller says, and lets only them see it: the holder of a token; where none is asked
/// for, the Unix user of a peer at the Unix socket, or all who come over the network, whose addresses change.
pub(crate) fn owner(extensions: &Extensions) -> Arc<str> {
    if let Some(holder) = holder(extensions) {
        return format!("token {}", holder.name()).into();
    }
    match extensions.get::<Arrival>() {
        Some(Arrival::Unix { .. }) => of(extensions),
        _ => "network".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(peer: &str) -> Option<Arrival> {
        Some(Arrival::Tcp {
            local: "127.0.0.1:1".parse().unwrap(),
            peer: peer.parse().unwrap(),
            is_for_ollama: false,
        })
    }

    fn extensions(arrival: Option<Arrival>) -> Extensions {
        let mut extensions = Extensions::new();
        arrival.map(|arrival| extensions.insert(arrival));
        extensions
    }

    #[test]
    fn a_caller_is_a_user_or_an_address() {
        let caller = |arrival: Option<Arrival>| of(&extensions(arrival));
        assert_eq!(&*caller(Some(Arrival::Unix { user: 1000 })), "user 1000");
        assert_eq!(&*caller(tcp("127.0.0.2")), "127.0.0.2");
        assert_eq!(&*caller(tcp("::ffff:127.0.0.2")), "127.0.0.2");
        assert_eq!(caller(tcp("2001:db8:1:2:3::4")), caller(tcp("2001:db8:1:2::1")));
        assert_eq!(&*caller(None), "unknown");
    }

    #[test]
    fn what_is_kept_for_a_user_is_for_no_other_and_the_network_is_one() {
        let owner_of = |arrival: Option<Arrival>| owner(&extensions(arrival));
        let user = |user: u32| Some(Arrival::Unix { user });
        assert_eq!(owner_of(tcp("127.0.0.1")), owner_of(tcp("192.0.2.7")));
        assert_ne!(owner_of(user(1)), owner_of(user(2)));
        assert_ne!(owner_of(user(1)), owner_of(tcp("127.0.0.1")));
        let mut with_token = extensions(tcp("127.0.0.1"));
        with_token.insert(Caller::manager_of_a_test());
        assert_eq!((&*owner(&with_token), &*of(&with_token)), ("token tester", "tester"));
    }
}
