//! The headers of every stream of Server-Sent Events (WHATWG HTML, section 9.2).

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};

/// What a response needs so that its events arrive as they are written.
pub(crate) fn headers() -> [(HeaderName, HeaderValue); 3] {
    [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        unbuffered(),
    ]
}

/// Tells proxies of the nginx family not to collect a live response before they pass it on.
pub(crate) fn unbuffered() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))
}
