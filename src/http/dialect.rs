//! Which dialect a request speaks, and so the form of a refusal: one layer in front of everything adds to a
//! [`Problem`] what the clients of the dialect look for, and to every answer in Anthropic's the id by which its clients
//! know a request.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::Response;

use super::problem::Refusal;
use crate::dialects::trouble::Dialect;
use crate::error::Code;
use crate::requests::new_request_id;

/// The first segments, under `/v1`, of the hive's own API.
const OWN: [&str; 10] = [
    "jobs",
    "events",
    "capabilities",
    "heartbeats",
    "workers",
    "session",
    "markdown",
    "shutdown",
    "reload",
    "config",
];

/// The header that all clients of Anthropic's API send.
const ANTHROPIC: &str = "anthropic-version";

/// The header with the id of a request, under which logs, events and `ModelDiagnose` know it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-rbee-request-id");
/// The header by which Anthropic's clients know a request.
const ANTHROPICS_ID: HeaderName = HeaderName::from_static("request-id");

/// The dialect of a request, by its path: under `/v1` everything is OpenAI's but Anthropic's messages and the
/// hive's own API, so that a route of OpenAI's that the hive lacks is refused in its form too. What both have is
/// Anthropic's where its header is there.
pub(crate) fn of(uri: &Uri, headers: &HeaderMap) -> Dialect {
    let path = uri.path();
    let is_under =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_under("/api") {
        return Dialect::Ollama;
    }
    if is_under("/v1/messages") {
        return Dialect::Anthropic;
    }
    if !is_under("/v1") {
        return Dialect::Hive;
    }
    let first = path.split('/').nth(2).unwrap_or_default();
    match first {
        own if OWN.contains(&own) => Dialect::Hive,
        _ if headers.contains_key(ANTHROPIC) => Dialect::Anthropic,
        _ => Dialect::OpenAi,
    }
}

/// The middleware.
pub(crate) async fn speak(request: Request, next: Next) -> Response {
    let dialect = of(request.uri(), request.headers());
    let is_of_v1 = request.uri().path().starts_with("/v1/");
    let mut response = next.run(request).await;
    if dialect == Dialect::Anthropic {
        let id = response.headers().get(REQUEST_ID).cloned().unwrap_or_else(new_id);
        response.headers_mut().insert(ANTHROPICS_ID, id);
    }
    let Some(refusal) = response.extensions_mut().remove::<Refusal>() else { return response };
    // Any client of OpenAI's API may have asked, even below a path of the hive's own.
    let is_unknown = refusal.code() == Code::RouteNotFound && is_of_v1;
    let dialect = if is_unknown && dialect == Dialect::Hive { Dialect::OpenAi } else { dialect };
    refusal.write(dialect, response)
}

/// The id of a request that only asks for what the hive has, of which it keeps no record.
fn new_id() -> HeaderValue {
    HeaderValue::from_str(&new_request_id()).expect("an id is plain text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Dialect {
        super::of(&path.parse().unwrap(), &HeaderMap::new())
    }

    #[test]
    fn all_of_v1_is_openais_but_messages_and_the_hives_own_api() {
        for path in ["/v1", "/v1/models", "/v1/models/a/b", "/v1/audio/speech", "/v1/v1/models", "/v1/jobsx"]
        {
            assert_eq!(of(path), Dialect::OpenAi, "{path}");
        }
        for path in ["/", "/v1x", "/health", "/v1/jobs", "/v1/jobs/job-1/stream", "/v1/session", "/apis"] {
            assert_eq!(of(path), Dialect::Hive, "{path}");
        }
        for path in ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/?beta=true"] {
            assert_eq!(of(path), Dialect::Anthropic, "{path}");
        }
        for path in ["/api", "/api/chat", "/api/nothing"] {
            assert_eq!(of(path), Dialect::Ollama, "{path}");
        }
        let headers = HeaderMap::from_iter([(ANTHROPIC.parse().unwrap(), "2023-06-01".parse().unwrap())]);
        for (path, dialect) in [
            ("/v1/models", Dialect::Anthropic),
            ("/v1/models/a/b", Dialect::Anthropic),
            ("/v1/files", Dialect::Anthropic),
            ("/v1/jobs", Dialect::Hive),
            ("/api/tags", Dialect::Ollama),
        ] {
            assert_eq!(super::of(&path.parse().unwrap(), &headers), dialect, "{path}");
        }
    }
}
