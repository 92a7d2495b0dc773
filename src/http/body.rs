//! Reading a request's JSON body, bounded in size and in time.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{self, MethodRouter};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::caller::is_browser;
use super::problem::Problem;
use crate::error::{Code, Failure, Result};
use crate::text::excerpt;

/// A route for `POST`. A body must be declared to be JSON ([`is_declared`]). A path without a route, or without `POST`, is refused for that first.
pub(crate) fn post<H, T, S>(handler: H) -> MethodRouter<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    routing::post(handler).route_layer(from_fn(require_json))
}

async fn require_json(request: Request, next: Next) -> Result<Response, Problem> {
    let (headers, path) = (request.headers(), request.uri().path());
    let is_sent = headers.contains_key(CONTENT_TYPE) || has_body(headers, request.body());
    if is_sent && !is_declared(path, headers) {
        return Err(not_json(headers).into());
    }
    Ok(next.run(request).await)
}

/// Reads the body of a request, and checks that it is JSON, has at most `limit` bytes and arrives within
/// `time_limit`. The caller interprets the JSON.
///
/// # Errors
/// [`Code::UnsupportedMediaType`], [`Code::BodyTooLarge`], [`Code::RequestTimeout`],
/// [`Code::InvalidJson`] or, for a key that comes twice, [`Code::InvalidField`], with the line and column.
pub(crate) async fn json_bytes(request: Request, limit: usize, time_limit: Duration) -> Result<Bytes> {
    let (parts, body) = request.into_parts();
    if !is_declared(parts.uri.path(), &parts.headers) {
        return Err(not_json(&parts.headers));
    }
    if body.size_hint().lower() > limit as u64 {
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

/// Whether the body is declared to be JSON as far as it must be: a form of another web page, which needs no
/// preflight, cannot do that. Under `/api`, whose callers leave the type out, only a browser must.
fn is_declared(path: &str, headers: &HeaderMap) -> bool {
    is_json(headers) || (path.starts_with("/api/") && !is_browser(headers))
}

/// Whether the headers declare one JSON body (RFC 9110 section 8.3). Parameters are ignored: JSON
/// is UTF-8 (RFC 8259 section 8.1).
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let only = types.next().filter(|_| types.next().is_none());
    only.and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The refusal of a body that is not declared to be JSON.
fn not_json(headers: &HeaderMap) -> Failure {
    let message = match headers.get(CONTENT_TYPE).map(|value| value.to_str()) {
        None => "the request has no Content-Type".to_owned(),
        Some(Ok(value)) => {
            format!("the Content-Type '{}' is not application/json", excerpt(value))
        }
        Some(Err(_)) => "the Content-Type cannot be read".to_owned(),
    };
    Failure::new(Code::UnsupportedMediaType, message)
        .hint("send the body with the header 'Content-Type: application/json'")
}

/// Whether a request declares a body that is not empty.
fn has_body(headers: &HeaderMap, body: &Body) -> bool {
    !body.is_end_stream() || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

async fn read(mut body: Body, limit: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(Code::InvalidRequest, "the body ended before it was complete")
                .hint("send as many bytes as the Content-Length says")
                .detail(error)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
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
    DistinctKeys::deserialize(&mut json).and_then(|DistinctKeys| json.end()).map_err(|error| {
        if error.is_data() {
            return Failure::new(Code::InvalidField, error.to_string()).hint("send it once");
        }
        // The error's text is the parser's own; it quotes nothing of the body.
        Failure::new(Code::InvalidJson, format!("the body is not valid JSON: {error}"))
            .hint("check the body with `jq .`")
    })
}

/// Any JSON in which no object has a key twice: of two readers, one could take the first and the other the
/// last. No other valid JSON is an error.
struct DistinctKeys;

impl<'de> Deserialize<'de> for DistinctKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for DistinctKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format_args!("field `{}` comes twice", excerpt(&key))));
            }
            map.next_value::<Self>()?;
            seen.insert(key);
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
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
    async fn under_api_only_a_browser_must_declare_the_type() {
        let request = |path: &str, headers: &[(&str, &str)]| {
            let request = Request::post(path);
            let with = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            with.body(Body::from("{}")).unwrap()
        };
        let form = ("content-type", "application/x-www-form-urlencoded");
        for headers in [&[][..], &[form], &[("sec-fetch-mode", "cors"), form]] {
            assert!(json_bytes(request("/api/show", headers), 100, TIME_LIMIT).await.is_ok());
        }
        for (path, headers) in [
            ("/v1/jobs", &[form][..]),
            ("/apis", &[form]),
            ("/api/show", &[("origin", "http://localhost"), form]),
            ("/api/show", &[("sec-fetch-site", "none")]),
        ] {
            assert_eq!(refusal(request(path, headers), 100).await.code, Code::UnsupportedMediaType, "{path}");
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

    #[tokio::test]
    async fn no_key_of_a_body_comes_twice_at_any_depth() {
        for (body, name) in [
            (r#"{"id":1,"id":2}"#, "`id`"),
            (r#"{"a":[{"b":{"c":1,"d":[],"c":1}}]}"#, "`c`"),
            (r#"{"\u0069d":1,"id":1}"#, "`id`"),
        ] {
            let failure = refusal(request("application/json", body), 100).await;
            assert_eq!(failure.code, Code::InvalidField, "{body}");
            assert!(failure.message.contains(name) && failure.message.contains("line 1"), "{failure}");
        }
        let sound = r#"{"a":{"a":[1,-1,1e3,true,null,"a"]},"b":{"a":"\n"}}"#;
        assert!(json_bytes(request("application/json", sound), 100, TIME_LIMIT).await.is_ok());
    }
}
