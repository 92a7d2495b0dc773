//! The hive as a whole: its page, whether it answers, reading the settings again, and its end.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Extensions;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::{caller, ollama, ui};
use crate::app::AppState;
use crate::config::Reloaded;
use crate::error::Code;
use crate::spawn;

/// The web page; in Ollama's place, what Ollama says there.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "page",
    tag = "Page",
    responses((status = 200, description = "The page.", content((String = "text/html"), (String = "text/plain"))),
        (status = 304, description = "It has not changed."))
)]
pub(super) async fn index(request: Request) -> Response {
    match ollama::is_addressed(request.extensions()) {
        true => ollama::RUNNING.into_response(),
        false => ui::index(request.headers()),
    }
}

/// Reads the settings' file again, as SIGHUP does.
#[utoipa::path(
    post,
    path = "/v1/reload",
    operation_id = "reload",
    tag = "Hive",
    responses((status = 200, description = "What changed.", body = Reloaded)),
    extensions(("x-errors" = json!([Code::ConfigInvalid])))
)]
pub(super) async fn reload(
    State(app): State<AppState>,
    extensions: Extensions,
) -> Result<Json<Reloaded>, Problem> {
    audit(&extensions, "reload");
    let reloaded = spawn::blocking(move || app.reload()).await??;
    Ok(Json(reloaded))
}

/// Whether the hive answers.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "get_health",
    tag = "Hive",
    responses((status = 200, description = "`ok`.", body = String, content_type = "text/plain"))
)]
pub(super) async fn health() -> &'static str {
    "ok"
}

/// The answer to a request to stop.
#[derive(Serialize, ToSchema)]
pub(super) struct Stopping {
    /// Always `stopping`.
    status: &'static str,
}

/// Stops the hive: jobs end, workers end and connections end, in this order.
#[utoipa::path(
    post,
    path = "/v1/shutdown",
    operation_id = "shut_down",
    tag = "Hive",
    responses((status = 200, description = "It stops.", body = Stopping))
)]
pub(super) async fn shut_down(State(app): State<AppState>, extensions: Extensions) -> Json<Stopping> {
    audit(&extensions, "shutdown");
    app.shutdown.cancel();
    Json(Stopping { status: "stopping" })
}

/// Notes in the audit log that a caller has asked for what is no operation.
fn audit(extensions: &Extensions, operation: &str) {
    let caller = caller::of(extensions);
    tracing::info!(target: "audit", operation, caller = &*caller, by = "api", "accepted an act");
}
