//! OpenAI's routes.

use axum::extract::{Request, State};
use axum::response::Response;

use super::card::Card;
use super::request::read;
use crate::app::{App, AppState};
use crate::config::served_id;
use crate::http::gateway;
use crate::http::problem::Problem;
use crate::models::Model;
use crate::workers::Route;

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

/// Every model, and every variant and alias of the settings.
pub(crate) async fn cards(app: &App) -> Result<Vec<Card>, Problem> {
    let models = app.catalog.list().await?;
    app.workers.engines().await;
    let mut all: Vec<Card> = models.iter().flat_map(|model| with_variants(app, model)).collect();
    for (alias, (id, variant)) in app.settings.aliases() {
        let is_shadowed = models.iter().any(|model| model.id == alias || model.name == alias);
        if let Some(model) = models.iter().find(|model| model.id == id && !is_shadowed) {
            all.push(of(app, model, variant.as_deref()).called(alias));
        }
    }
    Ok(all)
}

/// What a caller names.
pub(crate) async fn card(app: &App, name: &str) -> Result<Card, Problem> {
    let target = app.find_requested(name).await?;
    Ok(of(app, &target.model, target.variant.as_deref()))
}

/// The cards of a model and of its variants.
fn with_variants(app: &App, model: &Model) -> Vec<Card> {
    let variants = app.settings.of_served(&model.id).variants.keys().cloned().map(Some).collect::<Vec<_>>();
    let each = std::iter::once(None).chain(variants);
    each.map(|variant| of(app, model, variant.as_deref())).collect()
}

fn of(app: &App, model: &Model, variant: Option<&str>) -> Card {
    let id = served_id(&model.id, variant);
    let context_length = app.settings.of_served(&id).context_length;
    let can = app.abilities(model, &id).list();
    Card::of(model, app.workers.serves(&id), can).served(id, context_length)
}
