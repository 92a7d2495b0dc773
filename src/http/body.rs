//! Reading a request's JSON body, bounded in size and in time.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Code, Failure, Result};

/// How many bytes beyond its limit a body is still read and thrown away. A client that is refused while it
/// writes would otherwise get a reset connection instead of the refusal.
const DISCARDED_BYTES: usize = 8 << 20;

/// Reads the body of a request, and checks that it is JSON, has at most `limit` bytes and arrives within
/// `time_limit`. The caller interprets the JSON.
///
/// # Errors
/// [`Code::UnsupportedMediaType`], [`Code::BodyTooLarge`], [`Code::RequestTimeout`], or
/// [`Code::InvalidJson`] with the line and column of the error.
pub(crate) async fn json_bytes(request: Request, limit: usize, time_limit: Duration) -> Result<Bytes> {
    let (parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        return Err(not_json(&parts.headers));
    }
    let declared = body.size_hint().lower();
    if declared > limit as u64
        && (parts.headers.contains_key(EXPECT) || declared > (limit + DISCARDED_BYTES) as u64)
    {
        return Err(too_large(limit));
    }
    let bytes = tokio::time::timeout(time_limit, read(body, limit)).await.map_err(|_| {
        Failure::new(
            Code::RequestTimeout,
            format!("the body did not arrive within {} seconds", time_limit.as_secs_f32()),
        )
        .hint("send the whole body at once")
    })??;
    check_json(&bytes)?;
    Ok(bytes)
}

/// Whether the headers declare one JSON body (RFC 9110 section 8.3). Parameters are ignored: JSON
/// is UTF-8 (RFC 8259 section 8.1).
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let only = types.next().filter(|_| types.next().is_none());
    only.and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The refusal of a body that is not declared to be JSON.
pub(crate) fn not_json(headers: &HeaderMap) -> Failure {
    let message = match headers.get(CONTENT_TYPE).map(|value| value.to_str()) {
        None => "the request has no Content-Type".to_owned(),
        Some(Ok(value)) => {
            format!("the Content-Type '{}' is not application/json", crate::text::excerpt(value))
        }
        Some(Err(_)) => "the Content-Type cannot be read".to_owned(),
    };
    Failure::new(Code::UnsupportedMediaType, message)
        .hint("send the body with the header 'Content-Type: application/json'")
}

/// Whether a request declares a body that is not empty.
pub(crate) fn has_body(headers: &HeaderMap, body: &Body) -> bool {
    !body.is_end_stream() || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

async fn read(mut body: Body, limit: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(Code::InvalidRequest, "the body ended before it was complete")
                .hint("send as many bytes as the Content-Length says")
                .detail(error)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total <= limit {
            bytes.extend_from_slice(&data);
        } else if total > limit + DISCARDED_BYTES {
            break;
        }
    }
    if total > limit { Err(too_large(limit)) } else { Ok(bytes.freeze()) }
}

fn too_large(limit: usize) -> Failure {
    Failure::new(Code::BodyTooLarge, format!("the body is larger than {}", in_words(limit)))
        .hint("send a smaller body")
}

fn in_words(bytes: usize) -> String {
    match bytes {
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB ({n} bytes)", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} KiB ({n} bytes)", n >> 10),
        n => format!("{n} bytes"),
    }
}

fn check_json(bytes: &[u8]) -> Result<()> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    IgnoredAny::deserialize(&mut json).and_then(|_| json.end()).map_err(|error| {
        // The error's text is the parser's own; it quotes nothing of the body.
        Failure::new(Code::InvalidJson, format!("the body is not valid JSON: {error}"))
            .hint("check the body with `jq .`")
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use futures::stream;

    use super::*;
    use crate::config::Timers;
    use crate::http::problem::Problem;
    use crate::http::testing::{Served, status};

    const TIME_LIMIT: Duration = Duration::from_secs(10);

    fn request(content_type: &str, body: impl Into<Body>) -> Request {
        Request::post("/").header("content-type", content_type).body(body.into()).unwrap()
    }

    async fn refusal(request: Request, limit: usize) -> Failure {
        json_bytes(request, limit, TIME_LIMIT).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_json_body_is_passed_on_unchanged_for_every_spelling_of_its_type() {
        for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
            let body = json_bytes(request(content_type, "{\"a\" : 1}\n"), 100, TIME_LIMIT).await.unwrap();
            assert_eq!(body, "{\"a\" : 1}\n");
        }
    }

    #[tokio::test]
    async fn each_refusal_names_its_cause() {
        let failure = refusal(request("text/plain;application/json", "{}"), 100).await;
        assert_eq!(failure.code, Code::UnsupportedMediaType);
        let failure = refusal(Request::post("/").body(Body::from("{}")).unwrap(), 100).await;
        assert_eq!(failure.message, "the request has no Content-Type");
        let failure = refusal(request("application/json", "{\n  \"a\": nope}"), 100).await;
        assert_eq!(failure.code, Code::InvalidJson);
        assert!(failure.message.contains("line 2 column 9"), "{failure}");
        let failure = refusal(request("application/json", "{} {}"), 100).await;
        assert_eq!(failure.code, Code::InvalidJson);
        let failure = refusal(request("application/json", "[".repeat(100_000)), 1 << 20).await;
        assert_eq!(failure.code, Code::InvalidJson);
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_even_without_a_length() {
        let limit = 1 << 10;
        let body = Body::from_stream(stream::iter((0..3).map(|_| Ok::<_, std::io::Error>(vec![b' '; 512]))));
        let failure = refusal(request("application/json", body), limit).await;
        assert_eq!(failure.code, Code::BodyTooLarge);
        assert!(failure.message.contains("1 KiB (1024 bytes)"), "{failure}");
        let failure = refusal(request("application/json", vec![b' '; 1025]), limit).await;
        assert_eq!(failure.code, Code::BodyTooLarge);
        let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16])));
        assert_eq!(refusal(request("application/json", endless), limit).await.code, Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_refused_after_the_time_limit() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let time_limit = Duration::from_millis(20);
        let failure = json_bytes(request("application/json", body), 100, time_limit).await.unwrap_err();
        assert_eq!(failure.code, Code::RequestTimeout);
    }

    #[tokio::test]
    async fn a_client_that_still_writes_gets_the_refusal() {
        let app = Router::new().route(
            "/",
            post(async |request: Request| {
                json_bytes(request, 1 << 20, TIME_LIMIT).await.map(drop).map_err(Problem::from)
            }),
        );
        let served = Served::start(app, Timers::default()).await;
        let head = |length: usize, more: &str| {
            format!(
                "POST / HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: {length}\n{more}"
            )
        };
        let body = " ".repeat(5 << 20);
        let answer = served.ask(&head(body.len(), ""), &body).await;
        assert!(status(&answer) == 413 && answer.contains("1 MiB (1048576 bytes)"), "{answer}");
        let answer = served.ask(&head(body.len(), "Expect: 100-continue\n"), "").await;
        assert_eq!(status(&answer), 413, "refused before the body was sent: {answer}");
        served.stop().await;
    }
}
