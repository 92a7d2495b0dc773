//! The models, in the form of the dialect in which a client asks.

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::holder;
use super::path::Parameter;
use super::problem::Problem;
use super::{anthropic, dialect, openai};
use crate::app::AppState;
use crate::dialects::trouble::Dialect;
use crate::error::Code;

/// The list, in the form that the client knows.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ListedModels)]
pub(crate) enum Listed {
    /// All of them.
    OpenAi(openai::Cards),
    /// A page.
    Anthropic(anthropic::Page),
}

/// One model, in the form that the client knows.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = FoundModel)]
pub(crate) enum Found {
    /// With fields of the hive's own.
    OpenAi(Box<openai::Card>),
    /// Without.
    Anthropic(anthropic::Info),
}

/// Lists the models, with every variant and alias as an entry of its own.
///
/// With the header `anthropic-version` the answer has Anthropic's form, in pages.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "OpenAI",
    params(
        ("anthropic-version" = Option<String>, Header, description = "Asks for Anthropic's form."),
        ("limit" = Option<u64>, Query, description = "Models of a page of Anthropic's form; 20 by default, 1000 at most."),
        ("after_id" = Option<String>, Query, description = "The model before the first one, in Anthropic's form."),
        ("before_id" = Option<String>, Query, description = "The model after the last one, in Anthropic's form."),
    ),
    responses((status = 200, description = "The models.", body = Listed))
)]
pub(crate) async fn list(State(app): State<AppState>, request: Request) -> Result<Json<Listed>, Problem> {
    let cards = openai::cards(&app, holder(request.extensions())).await?;
    Ok(Json(match dialect::of(request.uri(), request.headers()) {
        Dialect::Anthropic => Listed::Anthropic(anthropic::page(request.uri(), cards)?),
        _ => Listed::OpenAi(cards.into()),
    }))
}

/// Shows a model, a variant or an alias. Its id may have slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "find_model",
    tag = "OpenAI",
    params(
        ("id" = String, Path, description = "What names the model."),
        ("anthropic-version" = Option<String>, Header, description = "Asks for Anthropic's form."),
    ),
    responses((status = 200, description = "The model.", body = Found)),
    extensions(("x-errors" = json!([Code::ModelNotFound, Code::ModelAmbiguous, Code::InvalidId])))
)]
pub(crate) async fn find(
    State(app): State<AppState>,
    Parameter(id): Parameter,
    request: Request,
) -> Result<Json<Found>, Problem> {
    let card = openai::card(&app, holder(request.extensions()), &id).await?;
    Ok(Json(match dialect::of(request.uri(), request.headers()) {
        Dialect::Anthropic => Found::Anthropic(card.into()),
        _ => Found::OpenAi(Box::new(card)),
    }))
}
