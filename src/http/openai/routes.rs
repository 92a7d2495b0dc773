//! OpenAI's routes.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;

use super::card::{Card, Cards};
use super::request::read;
use crate::app::{App, AppState};
use crate::config::served_id;
use crate::http::gateway;
use crate::http::path::Parameter;
use crate::http::problem::Problem;
use crate::models::Model;
use crate::workers::Route;

/// `GET /v1/models`
pub(crate) async fn models(State(app): State<AppState>) -> Result<Json<Cards>, Problem> {
    let models = app.catalog.list().await?;
    app.workers.engines().await;
    let mut all: Vec<Card> = models.iter().flat_map(|model| cards(&app, model)).collect();
    for (alias, (id, variant)) in app.settings.aliases() {
        let is_shadowed = models.iter().any(|model| model.id == alias || model.name == alias);
        if let Some(model) = models.iter().find(|model| model.id == id && !is_shadowed) {
            all.push(card(&app, model, variant.as_deref()).called(alias));
        }
    }
    Ok(Json(Cards::from(all)))
}

/// `GET /v1/models/{*id}`: ids have slashes.
pub(crate) async fn model(
    State(app): State<AppState>,
    Parameter(id): Parameter,
) -> Result<Json<Card>, Problem> {
    let target = app.find_requested(&id).await?;
    Ok(Json(card(&app, &target.model, target.variant.as_deref())))
}

/// `POST /v1/chat/completions`
pub(crate) async fn chat_completions(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Chat, body)).await
}

/// `POST /v1/completions`
pub(crate) async fn completions(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Completions, body)).await
}

/// `POST /v1/embeddings`
pub(crate) async fn embeddings(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Embeddings, body)).await
}

/// `POST /v1/rerank`
pub(crate) async fn rerank(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Rerank, body)).await
}

/// The cards of a model and of its variants.
fn cards(app: &App, model: &Model) -> Vec<Card> {
    let variants = app.settings.of_served(&model.id).variants.keys().cloned().map(Some).collect::<Vec<_>>();
    let each = std::iter::once(None).chain(variants);
    each.map(|variant| card(app, model, variant.as_deref())).collect()
}

fn card(app: &App, model: &Model, variant: Option<&str>) -> Card {
    let id = served_id(&model.id, variant);
    let context_length = app.settings.of_served(&id).context_length;
    let can = app.abilities(model, &id).list();
    Card::of(model, app.workers.serves(&id), can).served(id, context_length)
}
