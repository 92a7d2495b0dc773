//! The models, in the form of the dialect in which a client asks.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::path::Parameter;
use super::problem::Problem;
use super::{anthropic, dialect, openai};
use crate::app::AppState;
use crate::dialects::trouble::Dialect;

/// `GET /v1/models`
pub(crate) async fn list(State(app): State<AppState>, request: Request) -> Result<Response, Problem> {
    let cards = openai::cards(&app).await?;
    Ok(match dialect::of(request.uri(), request.headers()) {
        Dialect::Anthropic => Json(anthropic::page(request.uri(), cards)?).into_response(),
        _ => Json(openai::Cards::from(cards)).into_response(),
    })
}

/// `GET /v1/models/{*id}`: ids have slashes.
pub(crate) async fn find(
    State(app): State<AppState>,
    Parameter(id): Parameter,
    request: Request,
) -> Result<Response, Problem> {
    let card = openai::card(&app, &id).await?;
    Ok(match dialect::of(request.uri(), request.headers()) {
        Dialect::Anthropic => Json(anthropic::Info::from(card)).into_response(),
        _ => Json(card).into_response(),
    })
}
