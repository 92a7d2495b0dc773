//! The token that a request sends.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};

/// The token of the one `Authorization: Bearer` header (RFC 6750 section 2.1), or of the one
/// `x-api-key`, which some client libraries send in its place.
pub(crate) fn given(headers: &HeaderMap) -> Option<&[u8]> {
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    match only(AUTHORIZATION) {
        Some(header) => {
            let (scheme, token) = header.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
        }
        None if headers.contains_key(AUTHORIZATION) => None,
        None => only(HeaderName::from_static("x-api-key")).map(|key| key.as_bytes().trim_ascii()),
    }
}
