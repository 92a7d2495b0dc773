//! Who sent a request, for the queue, the counts and the logs.

use std::sync::Arc;

use axum::http::Extensions;

use super::listener::Arrival;

/// The caller: the Unix user of a peer at the Unix socket, else the peer's address. An IPv6 address counts with
/// its whole network, all of whose addresses one machine may have.
pub(crate) fn of(extensions: &Extensions) -> Arc<str> {
    match extensions.get::<Arrival>() {
        Some(Arrival::Unix { user }) => format!("user {user}").into(),
        Some(arrival @ Arrival::Tcp { .. }) => {
            arrival.peer().map_or("unknown".into(), |peer| peer.to_string().into())
        }
        None => "unknown".into(),
    }
}

/// For whom the hive keeps what a caller says, and lets only them see it: the Unix user of a peer at the Unix
/// socket, or all who come over the network, whose addresses change.
pub(crate) fn owner(extensions: &Extensions) -> Arc<str> {
    match extensions.get::<Arrival>() {
        Some(Arrival::Unix { .. }) => of(extensions),
        _ => "network".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_a_user_or_an_address() {
        let caller = |arrival: Option<Arrival>| {
            let mut extensions = Extensions::new();
            arrival.map(|arrival| extensions.insert(arrival));
            of(&extensions)
        };
        let tcp = |peer: &str| {
            Some(Arrival::Tcp { local: "127.0.0.1:1".parse().unwrap(), peer: peer.parse().unwrap() })
        };
        assert_eq!(&*caller(Some(Arrival::Unix { user: 1000 })), "user 1000");
        assert_eq!(&*caller(tcp("127.0.0.2")), "127.0.0.2");
        assert_eq!(&*caller(tcp("::ffff:127.0.0.2")), "127.0.0.2");
        assert_eq!(caller(tcp("2001:db8:1:2:3::4")), caller(tcp("2001:db8:1:2::1")));
        assert_eq!(&*caller(None), "unknown");
    }
}
