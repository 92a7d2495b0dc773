//! The routes of a worker, and the checks that each request must pass.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use subtle::ConstantTimeEq;

use super::body::MAX_BODY;
use super::error::ApiError;
use super::state::WorkerState;
use super::{chat, completions, embeddings, tokens};
use crate::error::Code;

pub(super) fn router(state: Arc<WorkerState>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, Code::RouteNotFound.name(), "no such route")
        })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                Code::MethodNotAllowed.name(),
                "the route does not allow this method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), admit))
        .with_state(state)
}

/// Refuses requests without the secret, with a foreign `Host` or with a wrong content type. Where no
/// secret is set, the last two keep out web pages, which can reach a loopback port from a browser.
async fn admit(State(state): State<Arc<WorkerState>>, request: Request, next: Next) -> Response {
    if let Err(error) = check(&state, &request) {
        return error.into_response();
    }
    next.run(request).await
}

fn check(state: &WorkerState, request: &Request) -> Result<(), ApiError> {
    if !names_loopback(request.headers()) {
        let message = "the Host header must name this machine's loopback address";
        return Err(ApiError::new(StatusCode::FORBIDDEN, Code::HostRefused.name(), message));
    }
    if request.uri().path() != "/health" && !has_secret(state.secret.as_deref(), request.headers()) {
        let message = "this worker requires its secret as a bearer token";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, Code::Unauthorized.name(), message));
    }
    if request.method() == Method::POST && !is_json(request.headers()) {
        let message = "the content type must be application/json";
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::UnsupportedMediaType.name(),
            message,
        ));
    }
    Ok(())
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Compares in a time that does not depend on how much of the token is right.
fn has_secret(secret: Option<&str>, headers: &HeaderMap) -> bool {
    let Some(secret) = secret else { return true };
    let sent = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let (scheme, token) = sent.split_at(sent.len().min("Bearer ".len()));
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(token.ct_eq(secret.as_bytes()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    sent.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

async fn health(State(state): State<Arc<WorkerState>>) -> Response {
    let Ok(ready) = state.ready() else {
        let progress = json!({
            "done": state.loaded_bytes.load(Ordering::Relaxed),
            "total": state.total_bytes.load(Ordering::Relaxed),
            "unit": "bytes",
        });
        let body = json!({"status": "loading", "progress": progress});
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response();
    };
    let counters = ready.generation.counters();
    axum::Json(json!({
        "status": "ok",
        "model": ready.model_id,
        "context_length": ready.generation.context_length(),
        "slots": ready.slots,
        "busy_slots": counters.busy_slots(),
        "requests": counters.requests(),
        "tokens_generated": counters.tokens_generated(),
        "prompt_tokens": counters.prompt_tokens(),
    }))
    .into_response()
}

async fn models(State(state): State<Arc<WorkerState>>) -> Result<Response, ApiError> {
    let ready = state.ready()?;
    let model = json!({
        "id": ready.model_id,
        "object": "model",
        "created": ready.loaded_at,
        "owned_by": "rbee-hive",
    });
    Ok(axum::Json(json!({"object": "list", "data": [model]})).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn only_loopback_hosts_are_accepted() {
        for host in ["127.0.0.1:80", "localhost", "LOCALHOST:1", "[::1]:80", "[::1]", "127.9.9.9"] {
            assert!(names_loopback(&headers(header::HOST, host)), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "0.0.0.0", "192.168.1.1:80", "", ":80"] {
            assert!(!names_loopback(&headers(header::HOST, host)), "{host}");
        }
        assert!(!names_loopback(&HeaderMap::new()));
    }

    #[test]
    fn the_secret_must_be_exact() {
        let accepted = |value| has_secret(Some("s3cret"), &headers(header::AUTHORIZATION, value));
        assert!(accepted("Bearer s3cret") && accepted("bearer s3cret"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"] {
            assert!(!accepted(wrong), "{wrong}");
        }
        assert!(has_secret(None, &HeaderMap::new()));
    }
}
