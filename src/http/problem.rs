//! Errors on the wire: RFC 9457 `application/problem+json`, with a stable `code` and a `hint`.
//!
//! Every refusal of the HTTP surface is a [`Problem`], made from a [`Failure`]. A failure is logged here,
//! once, with its private detail.
//!
//! Invariants:
//! - A problem never contains the text `job_id`: existing clients take any answer with it for a job, whatever
//!   its status.
//! - On the gateway's routes, and where there is no route under `/v1`, it also has OpenAI's `error` object,
//!   whose text OpenAI's client libraries show.

use std::borrow::Cow;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::dialect;
use crate::error::{Code, Failure};

/// A refusal, as a response.
#[derive(Debug)]
pub(crate) struct Problem {
    failure: Box<Failure>,
    status: u16,
    retry_after: Option<u64>,
    param: Option<&'static str>,
    openai: bool,
}

/// The members of RFC 9457 section 3.1, and the hive's extensions.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: Code,
    detail: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    causes: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    log_tail: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OpenAiError<'a>>,
}

/// The error object of OpenAI's API.
#[derive(Serialize)]
pub(crate) struct OpenAiError<'a> {
    message: Cow<'a, str>,
    r#type: &'static str,
    code: Code,
    param: Option<&'static str>,
}

impl Problem {
    /// Adds OpenAI's `error` object: for the routes of the gateway.
    #[must_use]
    pub(crate) fn openai(mut self) -> Self {
        self.openai = true;
        self
    }

    /// Names the field in error, for OpenAI's `error.param`.
    #[must_use]
    pub(crate) fn param(mut self, field: &'static str) -> Self {
        self.param = Some(field);
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
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let retry_after = matches!(failure.code, Code::QueueFull | Code::ShuttingDown).then_some(1);
        let status = failure.code.http_status();
        Self { failure: Box::new(failure), status, retry_after, param: None, openai: false }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let failure = &*self.failure;
        let status = StatusCode::from_u16(self.status).expect("statuses are of the table of errors, or 503");
        self.log(status);
        let body = Body {
            r#type: format!("urn:rbee-hive:problem:{}", failure.code),
            title: failure.code.title(),
            status: status.as_u16(),
            code: failure.code,
            detail: without_job_id(&failure.message),
            hint: failure.hint.as_deref().map(without_job_id),
            stage: failure.stage.as_deref(),
            causes: failure.causes.iter().map(|cause| without_job_id(cause)).collect(),
            exit_code: failure.exit_code,
            signal: failure.signal.as_deref(),
            log_tail: failure.log_tail.iter().map(|line| without_job_id(line)).collect(),
            error: self.openai.then(|| openai_error(failure, self.status, self.param)),
        };
        let json = serde_json::to_vec(&body).expect("a problem is plain data");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if failure.code == Code::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        (status, headers, json).into_response()
    }
}

/// A failure as OpenAI's error object, whose type is that of the status. The message and the hint are one text, because client libraries show
/// nothing else.
pub(crate) fn openai_error<'a>(
    failure: &'a Failure,
    status: u16,
    param: Option<&'static str>,
) -> OpenAiError<'a> {
    let message = match &failure.hint {
        Some(hint) => Cow::Owned(format!("{}: {hint}", failure.message)),
        None => Cow::Borrowed(failure.message.as_str()),
    };
    let r#type = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    OpenAiError {
        message: Cow::Owned(without_job_id(&message).into_owned()),
        r#type,
        code: failure.code,
        param,
    }
}

/// Removes `job_id`, which existing clients take for a success.
fn without_job_id(text: &str) -> Cow<'_, str> {
    if text.contains("job_id") { Cow::Owned(text.replace("job_id", "job id")) } else { Cow::Borrowed(text) }
}

/// The answer to a path without a route.
pub(crate) async fn route_not_found(method: Method, uri: Uri) -> Problem {
    let problem = Problem::from(
        Failure::new(Code::RouteNotFound, format!("no route {method} {}", shorten(uri.path())))
            .hint("docs/EVENTS.md lists the routes; GET /v1/capabilities shows what this hive has"),
    );
    // Any client of OpenAI's API may have asked, even below a path of the hive's own.
    let path = uri.path();
    if path == "/v1" || path.starts_with("/v1/") { problem.openai() } else { problem }
}

/// The answer to a method that a route lacks. The router adds `Allow`.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    at(
        uri.path(),
        Failure::new(Code::MethodNotAllowed, format!("{} does not take {method}", shorten(uri.path())))
            .hint("the Allow header of this answer lists the methods it takes"),
    )
}

/// A refusal in the form that the path's clients read.
pub(crate) fn at(path: &str, failure: Failure) -> Problem {
    let problem = Problem::from(failure);
    if dialect::is_openai(path) { problem.openai() } else { problem }
}

/// The first 200 characters of a path.
fn shorten(path: &str) -> &str {
    let end = path.char_indices().map(|(at, _)| at).nth(200).unwrap_or(path.len());
    &path[..end]
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use axum::routing::{get, post};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;

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
    async fn a_problem_of_the_gateway_has_openais_error_object() {
        let failure = Failure::new(Code::ModelNotLoaded, "tiny is not loaded").hint("load it");
        let body = body(Problem::from(failure).openai().param("model").into_response()).await;
        assert_eq!(
            body["error"],
            json!({"message": "tiny is not loaded: load it", "type": "invalid_request_error",
                   "code": "model_not_loaded", "param": "model"})
        );
    }

    #[tokio::test]
    async fn unknown_routes_and_methods_are_problems_and_allow_is_kept() {
        let router: Router = Router::new()
            .route("/a", get(|| async {}).merge(post(|| async {})))
            .fallback(route_not_found)
            .method_not_allowed_fallback(method_not_allowed);
        let missing =
            router.clone().oneshot(Request::get("/v1/nothing").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(missing.status(), 404);
        let missing = body(missing).await;
        assert_eq!(missing["code"], "route_not_found");
        assert!(missing["error"]["message"].as_str().unwrap().contains("/v1/nothing"), "{missing}");
        let method = router.oneshot(Request::delete("/a").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(method.status(), 405);
        assert_eq!(method.headers()["allow"], "GET,HEAD,POST");
        assert_eq!(body(method).await["code"], "method_not_allowed");
    }

    #[tokio::test]
    async fn a_missing_token_is_answered_with_www_authenticate() {
        let response = Problem::from(Failure::new(Code::Unauthorized, "no token")).into_response();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
}
