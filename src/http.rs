//! The HTTP surface: every route of the hive on one page.

mod body;
mod capabilities;
pub(crate) mod client;
mod events;
pub(crate) mod heartbeats;
mod jobs;
mod numbers;
mod openai;
mod origin;
mod problem;
mod security;
mod server;
mod session;
mod sse;
mod stream;
#[cfg(test)]
mod testing;
mod token;
mod worker_log;

use std::sync::Arc;

use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::app::AppState;
use crate::error::Result;

pub(crate) use server::serve;

/// The API's table of contents.
///
/// # Errors
/// Where the token's file is not as it must be.
pub(crate) fn router(app: &AppState) -> Result<Router> {
    let gate = Arc::new(security::Gate::new(&app.config)?);
    let session = Router::new().route("/v1/session", post(session::create)).with_state(Arc::clone(&gate));
    Ok(Router::new()
        .route("/health", get(health))
        .route("/v1/jobs", post(jobs::submit).get(jobs::list))
        .route("/v1/jobs/{job_id}", get(jobs::get).delete(jobs::cancel))
        .route("/v1/jobs/{job_id}/stream", get(stream::stream))
        .route("/v1/events", get(events::events))
        .route("/v1/heartbeats/stream", get(heartbeats::get))
        .route("/v1/capabilities", get(capabilities::get))
        .route("/capabilities", get(capabilities::get))
        .route("/v1/workers/{pid}/log", get(worker_log::get))
        .route("/v1/models", get(openai::list))
        .route("/v1/models/{*id}", get(openai::get))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/shutdown", post(shutdown))
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(Arc::clone(app))
        .merge(session)
        .layer(from_fn_with_state(gate, security::guard)))
}

/// `GET /health`: existing clients poll it and compare the body.
async fn health() -> &'static str {
    "ok"
}

/// `POST /v1/shutdown`
async fn shutdown(State(app): State<AppState>) -> Json<serde_json::Value> {
    tracing::info!("asked to shut down over HTTP");
    app.shutdown.cancel();
    Json(serde_json::json!({ "status": "shutting_down" }))
}
