//! Compression of what is read as a whole: the page's files and JSON.
//!
//! Invariant: no stream is compressed, neither events nor a log that is followed. A compressor holds
//! back what it is given until it has enough, and a stream has to arrive as it is written.

use axum::http::header::CONTENT_TYPE;
use axum::http::{Extensions, HeaderMap, StatusCode, Version};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, Predicate, SizeAbove};

/// A body below this size, in bytes, fits into the packet of its head.
const LEAST: u64 = 512;

/// The media types that are compressed.
const TYPES: [&str; 7] = [
    "application/json",
    "application/openmetrics-text",
    "application/problem+json",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/javascript",
];

type IsWhole = fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool;

/// Compresses answers for clients that accept it.
pub(super) fn layer() -> CompressionLayer<And<SizeAbove, IsWhole>> {
    CompressionLayer::new().compress_when(SizeAbove::new(LEAST).and(is_whole as IsWhole))
}

fn is_whole(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let essence = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()?.split(';').next());
    essence.is_some_and(|essence| TYPES.contains(&essence.trim()))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
    use axum::response::IntoResponse;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn only_what_is_read_as_a_whole_is_compressed() {
        let answer = |kind: &'static str, bytes: usize| {
            get(move || async move { ([(CONTENT_TYPE, kind)], "a".repeat(bytes)).into_response() })
        };
        let router: Router = Router::new()
            .route("/json", answer("application/json", 5000))
            .route("/script", answer("text/javascript; charset=utf-8", 5000))
            .route("/small", answer("application/json", 100))
            .route("/events", answer("text/event-stream", 5000))
            .route("/log", answer("text/plain; charset=utf-8", 5000))
            .layer(layer());
        for (path, accepts, wanted) in [
            ("/json", "gzip, br", true),
            ("/script", "gzip", true),
            ("/json", "br", false),
            ("/small", "gzip", false),
            ("/events", "gzip", false),
            ("/log", "gzip", false),
        ] {
            let request = Request::get(path).header(ACCEPT_ENCODING, accepts).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let encoding = response.headers().get(CONTENT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!(encoding, wanted.then_some("gzip"), "{path} for {accepts}");
        }
    }
}
