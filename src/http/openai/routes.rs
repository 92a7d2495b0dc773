//! OpenAI's routes.

use axum::extract::{Request, State};
use axum::response::Response;

use super::card::Card;
use super::request::read;
use super::shape::{
    ChatAnswer, ChatRequest, CompletionAnswer, CompletionRequest, EmbeddingAnswer, EmbeddingRequest,
    Narrated, RerankAnswer, RerankRequest,
};
use crate::app::{App, AppState};
use crate::callers::Caller;
use crate::error::Code;
use crate::fleet::Others;
use crate::http::gateway;
use crate::http::problem::Problem;
use crate::models::Model;
use crate::workers::Route;

/// Answers the messages of a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "chat_completions",
    tag = "OpenAI",
    params(Narrated),
    request_body(content = ChatRequest, example = json!({
        "model": "rbee-quickstart", "stream": true, "messages": [{ "role": "user", "content": "Hello" }],
    })),
    responses((status = 200, description = "The engine's answer, or its events where `stream` is true.", content(
        (ChatAnswer = "application/json"),
        (ChatAnswer = "text/event-stream"),
    ))),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn chat_completions(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Chat, body)).await
}

/// Continues a prompt.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "completions",
    tag = "OpenAI",
    params(Narrated),
    request_body(content = CompletionRequest, example = json!({
        "model": "rbee-quickstart", "stream": true, "prompt": "Hello",
    })),
    responses((status = 200, description = "The engine's answer, or its events where `stream` is true.", content(
        (CompletionAnswer = "application/json"),
        (CompletionAnswer = "text/event-stream"),
    ))),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn completions(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Completions, body)).await
}

/// Makes vectors of texts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    operation_id = "embeddings",
    tag = "OpenAI",
    params(Narrated),
    request_body(content = EmbeddingRequest, example = json!({
        "model": "rbee-quickstart", "input": "Hello",
    })),
    responses((status = 200, description = "The engine's answer.", content(
        (EmbeddingAnswer = "application/json"),
    ))),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn embeddings(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Embeddings, body)).await
}

/// Ranks documents for a query.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    operation_id = "rerank",
    tag = "OpenAI",
    params(Narrated),
    request_body(content = RerankRequest, example = json!({
        "model": "rbee-quickstart", "query": "Hello", "documents": ["Hello from your hive!"],
    })),
    responses((status = 200, description = "The engine's answer.", content(
        (RerankAnswer = "application/json"),
    ))),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn rerank(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| read(Route::Rerank, body)).await
}

/// Every model, and every variant and alias of the settings, that the caller may use. In a fleet also those of the
/// other hives.
pub(crate) async fn cards(app: &App, caller: Option<&Caller>) -> Result<Vec<Card>, Problem> {
    let models = app.catalog.list().await?;
    app.workers.engines().await;
    let names = app.names(&models).into_iter().filter(|named| app.may_use(caller, &named.served_id));
    let others = app.fleet.others();
    let mut there = others.as_ref().map(Others::named).unwrap_or_default();
    let mut cards: Vec<_> = names
        .map(|named| {
            let card = of(app, named.model, named.served_id);
            let card = named.alias.into_iter().fold(card, Card::called);
            let Some(others) = &others else { return card };
            let there = there.remove(&card.id).filter(|there| there.record.is_like(named.model));
            card.at(others.own().as_str(), there)
        })
        .collect();
    let there = there.into_iter().filter(|(name, _)| app.may_use(caller, name));
    cards.extend(there.map(|(name, there)| Card::there(name, there)));
    Ok(cards)
}

/// What a caller names, and may use.
pub(crate) async fn card(app: &App, caller: Option<&Caller>, name: &str) -> Result<Card, Problem> {
    let there =
        app.fleet.others().and_then(|others| Some((others.own().clone(), others.named().remove(name)?)));
    let target = match (app.find_target(name).await, there) {
        (Ok(target), there) => {
            app.check_may_use(caller, &target.served_id())?;
            let card = of(app, &target.model, target.served_id());
            return Ok(match there {
                Some((own, there)) => {
                    card.at(own.as_str(), Some(there).filter(|there| there.record.is_like(&target.model)))
                }
                None => card,
            });
        }
        (Err(failure), Some((_, there))) if failure.code == Code::ModelNotFound => {
            app.check_may_use(caller, name)?;
            return Ok(Card::there(name.to_owned(), there));
        }
        (Err(_), _) => app.find_requested(name).await?,
    };
    app.check_may_use(caller, &target.served_id())?;
    Ok(of(app, &target.model, target.served_id()))
}

fn of(app: &App, model: &Model, served_id: String) -> Card {
    let context_length = app.settings.of_served(&served_id).context_length;
    let can = app.abilities(model, &served_id).list();
    Card::of(model, app.workers.serves(&served_id), can).served(served_id, context_length)
}
