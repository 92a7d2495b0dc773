//! Errors on the wire: RFC 9457 `application/problem+json`, with a stable `code` and a `hint`.
//!
//! Every refusal of the HTTP surface is a [`Problem`], made from a [`Failure`]. A failure is logged here,
//! once, with its private detail.
//!
//! Invariants:
//! - A problem never contains the text `job_id`: existing clients take any answer with it for a job, whatever
//!   its status.
//! - It also has the members by which the clients of its request's dialect know an error, which one layer adds
//!   (`dialect`): a handler does not need to know how it was asked.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::dialects::trouble::{Dialect, Trouble};
use crate::error::{Code, Failure};
use crate::fields::FieldError;

/// A refusal, as a response.
#[derive(Debug)]
pub(crate) struct Problem {
    failure: Box<Failure>,
    status: u16,
    retry_after: Option<u64>,
    param: Option<String>,
}

/// What the layer of the dialects needs of a refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(Arc<Problem>);

/// The members of RFC 9457 section 3.1, and the hive's extensions.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Members<'a> {
    r#type: String,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    code: Code,
    #[schema(value_type = String)]
    detail: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    hint: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>)]
    causes: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>)]
    log_tail: Vec<Cow<'a, str>>,
}

/// A problem, with the object by which clients of OpenAI's API know an error.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the description of the API reads it")]
pub(super) struct OpenAiProblem {
    #[serde(flatten)]
    problem: Members<'static>,
    error: OpenAiError,
}

/// An error as clients of OpenAI's API know it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the description of the API reads it")]
struct OpenAiError {
    message: String,
    r#type: String,
    /// The code; of an engine's error its own.
    code: Option<String>,
    /// The field at fault.
    param: Option<String>,
}

/// A problem, with the members by which clients of Anthropic's API know an error.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the description of the API reads it")]
pub(super) struct AnthropicProblem {
    #[serde(flatten)]
    problem: Members<'static>,
    error: AnthropicError,
}

/// An error as clients of Anthropic's API know it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the description of the API reads it")]
struct AnthropicError {
    r#type: String,
    message: String,
}

/// A problem, with the text that Ollama's clients show. It has no `status`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the description of the API reads it")]
pub(super) struct OllamaProblem {
    #[serde(flatten)]
    problem: Members<'static>,
    error: String,
}

impl Problem {
    /// Names the field in error, for clients of OpenAI's API.
    #[must_use]
    pub(crate) fn param(mut self, field: impl Into<String>) -> Self {
        self.param = Some(field.into());
        self
    }

    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Answers with this status in place of the one that belongs to the code: 503 where what failed is not the
    /// request but what it needs.
    #[must_use]
    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Says after how many seconds the request may succeed.
    #[must_use]
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    fn log(&self, status: StatusCode) {
        let Failure { code, message, detail, .. } = &*self.failure;
        let detail = detail.as_ref().map(|detail| format!("{detail:#}")).unwrap_or_default();
        // Refusing requests during a shutdown is not an error of the hive.
        if status.is_server_error() && *code != Code::ShuttingDown {
            tracing::error!(%code, detail, "{message}");
        } else {
            tracing::debug!(%code, detail, "{message}");
        }
    }

    /// The body, with the members of a dialect.
    fn body(&self, dialect: Dialect) -> Vec<u8> {
        let failure = &*self.failure;
        let members = Members {
            r#type: format!("urn:rbee-hive:problem:{}", failure.code),
            title: failure.code.title(),
            // Ollama's client for Go reads a `status` as text, and shows the whole body where it is a number.
            status: (dialect != Dialect::Ollama).then_some(self.status),
            code: failure.code,
            detail: without_job_id(&failure.message),
            hint: failure.hint.as_deref().map(without_job_id),
            stage: failure.stage.as_deref(),
            causes: failure.causes.iter().map(|cause| without_job_id(cause)).collect(),
            exit_code: failure.exit_code,
            signal: failure.signal.as_deref(),
            log_tail: failure.log_tail.iter().map(|line| without_job_id(line)).collect(),
        };
        let mut body = serde_json::to_value(&members).expect("a problem is plain data");
        if let Value::Object(body) = &mut body {
            body.extend(dialect.error(&trouble(failure, self.status, self.param.clone())));
        }
        body.to_string().into_bytes()
    }
}

/// A failure as clients of dialects are told it, with the field at fault.
pub(crate) fn trouble(failure: &Failure, status: u16, param: Option<String>) -> Trouble {
    let trouble = Trouble::of(failure, status);
    Trouble { message: without_job_id(&trouble.message).into_owned(), param, ..trouble }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let retry_after = matches!(failure.code, Code::QueueFull | Code::ShuttingDown).then_some(1);
        let status = failure.code.http_status();
        Self { failure: Box::new(failure), status, retry_after, param: None }
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        let field = error.field.clone();
        Self::from(Failure::from(error)).param(field)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let failure = &*self.failure;
        let status = StatusCode::from_u16(self.status).expect("statuses are of the table of errors, or 503");
        self.log(status);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if failure.code == Code::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let mut response = (status, headers, self.body(Dialect::Hive)).into_response();
        response.extensions_mut().insert(Refusal(Arc::new(self)));
        response
    }
}

impl Refusal {
    pub(super) fn failure(&self) -> &Failure {
        &self.0.failure
    }

    pub(super) fn code(&self) -> Code {
        self.0.failure.code
    }

    /// The response, in the form of a dialect.
    pub(super) fn write(&self, dialect: Dialect, mut response: Response) -> Response {
        let body = self.0.body(dialect);
        response.headers_mut().remove(CONTENT_LENGTH);
        if dialect == Dialect::Ollama {
            // Its clients for JavaScript show the text of an error only where the type is that of plain JSON.
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        *response.body_mut() = Body::from(body);
        response
    }
}

/// Removes `job_id`, which existing clients take for a success.
fn without_job_id(text: &str) -> Cow<'_, str> {
    if text.contains("job_id") { Cow::Owned(text.replace("job_id", "job id")) } else { Cow::Borrowed(text) }
}

/// The answer to a path without a route.
pub(crate) async fn route_not_found(method: Method, uri: Uri) -> Problem {
    Problem::from(
        Failure::new(Code::RouteNotFound, format!("no route {method} {}", shorten(uri.path())))
            .hint("docs/EVENTS.md lists the routes; GET /v1/capabilities shows what this hive has"),
    )
}

/// The answer to a method that a route lacks. The router adds `Allow`.
///
/// A client that wants a WebSocket gets the status by which it knows to send a plain request instead: Codex tries
/// again and again after any other.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = shorten(uri.path());
    if headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        let failure = Failure::new(Code::UpgradeRefused, format!("{path} speaks no WebSocket"))
            .hint("send the request over HTTP, by a method that the Allow header of this answer lists");
        return ([(UPGRADE, "HTTP/1.1")], Problem::from(failure)).into_response();
    }
    Problem::from(
        Failure::new(Code::MethodNotAllowed, format!("{path} does not take {method}"))
            .hint("the Allow header of this answer lists the methods it takes"),
    )
    .into_response()
}

/// The first 200 characters of a path.
pub(crate) fn shorten(path: &str) -> &str {
    let end = path.char_indices().map(|(at, _)| at).nth(200).unwrap_or(path.len());
    &path[..end]
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use axum::middleware::from_fn;
    use axum::routing::{get, post};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::http::dialect;

    async fn body(response: Response) -> Value {
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_problem_has_every_public_part_of_its_failure_and_no_private_one() {
        let mut failure = Failure::new(Code::InvalidField, "unknown field 'job_id'")
            .hint("leave it out")
            .stage("parse")
            .cause(&std::io::Error::other("deep"))
            .detail(anyhow::anyhow!("secret"));
        failure.log_tail = vec!["last words".into()];
        failure.exit_code = Some(3);
        let response = Problem::from(failure).into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(
            body(response).await,
            json!({
                "type": "urn:rbee-hive:problem:invalid_field", "title": "A field is not valid", "status": 400,
                "code": "invalid_field", "detail": "unknown field 'job id'", "hint": "leave it out",
                "stage": "parse", "causes": ["deep"], "exit_code": 3, "log_tail": ["last words"],
            })
        );
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_its_requests_dialect() {
        let refuse = || async {
            let failure = Failure::new(Code::ModelNotLoaded, "tiny is not loaded").hint("load job_id");
            Problem::from(failure).param("model")
        };
        let router: Router = Router::new().fallback(refuse).layer(from_fn(dialect::speak));
        let refused = async |path: &str| {
            body(router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap()).await
        };
        let of_hive = refused("/v1/jobs").await;
        assert!(of_hive.get("error").is_none() && of_hive["code"] == "model_not_loaded", "{of_hive}");
        assert_eq!(
            refused("/v1/completions").await["error"],
            json!({"message": "tiny is not loaded: load job id", "type": "invalid_request_error",
                   "code": "model_not_loaded", "param": "model"})
        );
        let of_anthropic = refused("/v1/messages").await;
        assert_eq!(
            (&of_anthropic["type"], &of_anthropic["error"], &of_anthropic["code"]),
            (
                &json!("error"),
                &json!({"type": "not_found_error", "message": "tiny is not loaded: load job id"}),
                &json!("model_not_loaded")
            )
        );
        let of_ollama = refused("/api/chat").await;
        assert_eq!(
            (&of_ollama["error"], of_ollama.get("status")),
            (&json!("tiny is not loaded: load job id"), None)
        );
    }

    #[tokio::test]
    async fn unknown_routes_and_methods_are_problems_and_allow_is_kept() {
        let router: Router = Router::new()
            .route("/a", get(|| async {}).merge(post(|| async {})))
            .fallback(route_not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn(dialect::speak));
        let missing =
            router.clone().oneshot(Request::get("/v1/nothing").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(missing.status(), 404);
        let missing = body(missing).await;
        assert_eq!(missing["code"], "route_not_found");
        assert!(missing["error"]["message"].as_str().unwrap().contains("/v1/nothing"), "{missing}");
        for (protocol, status, code) in
            [("h2c", 405, "method_not_allowed"), ("WebSocket", 426, "upgrade_refused")]
        {
            let request = Request::delete("/a").header("upgrade", protocol).body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["allow"], "GET,HEAD,POST");
            assert_eq!(answer.headers().contains_key("upgrade"), status == 426);
            assert_eq!(body(answer).await["code"], code);
        }
    }

    #[tokio::test]
    async fn a_missing_token_is_answered_with_www_authenticate() {
        let response = Problem::from(Failure::new(Code::Unauthorized, "no token")).into_response();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
}
