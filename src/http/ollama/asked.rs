//! The body of a request, and the fields of it that a route does not know.

use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;

use crate::app::App;
use crate::error::{Code, Failure};
use crate::fields::{FieldError, Fields};
use crate::http::body::json_bytes;
use crate::http::caller::Sender;
use crate::http::problem::Problem;
use crate::ops::{Asker, By};

/// The largest body, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// The answer of a route.
pub(super) type Answered = Result<Response, Problem>;

/// Reads the body of a request about models.
///
/// # Errors
/// Those of [`json_bytes`].
pub(super) async fn read(app: &App, request: Request) -> Result<Value, Problem> {
    parse(&json_bytes(request, BODY_LIMIT, *app.config.timers.request_head).await?)
}

/// Who sent a request, for the operations that it makes.
pub(super) fn asker(request: &Request) -> Asker {
    Sender::of(request.extensions()).asker(By::Ollama)
}

/// What the bytes say, which are JSON.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    let parsed = serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(Code::InvalidJson, format!("the body is not JSON: {error}")).hint("send one JSON object")
    });
    Ok(parsed?)
}

/// The model that a request names. Ollama's older clients call it `name`, and its own program sends that beside an
/// empty `model`.
pub(super) fn model<'a>(fields: &Fields<'a>) -> Result<&'a str, FieldError> {
    for field in ["model", "name"] {
        if let Some(name) = fields.string(field)?.filter(|name| !name.is_empty()) {
            return Ok(name);
        }
    }
    Err(fields.error("model", "must be the name of a model, as GET /api/tags lists them"))
}
