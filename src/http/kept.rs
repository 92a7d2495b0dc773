//! Answers that are the same as long as the executable is: files of pages, and the description of the API.
//!
//! Each has a validator (RFC 9110, section 8.8.3): a weak one, because a compressed answer has other bytes. The only
//! request header that changes an answer is `If-None-Match`.

use std::borrow::Cow;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::text::hex;

/// For what a browser must revalidate each time (RFC 9111, section 5.2.2.4).
pub(super) const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");

/// One such answer.
#[derive(Debug)]
pub(super) struct Kept {
    kind: &'static str,
    bytes: Bytes,
    tag: HeaderValue,
}

impl Kept {
    /// An answer of this media type.
    pub(super) fn new(kind: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::of_bytes(
            kind,
            match text.into() {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
        )
    }

    /// The same of bytes.
    pub(super) fn of_bytes(kind: &'static str, bytes: Cow<'static, [u8]>) -> Self {
        let bytes = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let digest = hex(&Sha256::digest(&bytes)[..16]);
        let tag =
            HeaderValue::try_from(format!("W/\"{digest}\"")).expect("hexadecimal digits are visible ASCII");
        Self { kind, bytes, tag }
    }

    /// The answer, or `304` if the browser's copy is current.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let mut response = if is_current(headers, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(CONTENT_TYPE, self.kind)], self.bytes.clone()).into_response()
        };
        let own = response.headers_mut();
        own.insert(ETAG, self.tag.clone());
        own.insert(CACHE_CONTROL, REVALIDATED);
        for (name, value) in
            [("referrer-policy", "no-referrer"), ("cross-origin-resource-policy", "same-origin")]
        {
            own.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }

    /// The text.
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        str::from_utf8(&self.bytes).expect("it was made from text")
    }
}

/// Whether `If-None-Match` has the tag, by weak comparison (RFC 9110, section 13.1.2).
pub(super) fn is_current(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let Ok(tag) = tag.to_str() else { return false };
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|given| given.trim())
        .any(|given| given == "*" || opaque(given) == opaque(tag))
}

/// A tag without the mark of a weak one.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}
