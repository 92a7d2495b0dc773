//! OpenAI's routes.

use axum::extract::{Request, State};
use axum::response::Response;

use super::card::Card;
use super::request::read;
use crate::app::{App, AppState};
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
    let cards = app.names(&models).into_iter().map(|named| {
        let card = of(app, named.model, named.served_id);
        named.alias.into_iter().fold(card, Card::called)
    });
    Ok(cards.collect())
}

/// What a caller names.
pub(crate) async fn card(app: &App, name: &str) -> Result<Card, Problem> {
    let target = app.find_requested(name).await?;
    Ok(of(app, &target.model, target.served_id()))
}

fn of(app: &App, model: &Model, served_id: String) -> Card {
    let context_length = app.settings.of_served(&served_id).context_length;
    let can = app.abilities(model, &served_id).list();
    Card::of(model, app.workers.serves(&served_id), can).served(served_id, context_length)
}
