//! The gateway's routes.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::Response;

use super::{Card, Cards, Completion, GatewayProblem, Upstream, not_loaded, relay};
use crate::app::AppState;
use crate::models::{Model, ModelId};
use crate::workers::InFlight;

/// `GET /v1/models`
pub(crate) async fn list(State(app): State<AppState>) -> Result<Json<Cards>, GatewayProblem> {
    let models = app.list_models().await?;
    Ok(Json(models.iter().map(card).collect::<Vec<_>>().into()))
}

/// `GET /v1/models/{id}`; an id may have slashes in it.
pub(crate) async fn get(
    State(app): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Card>, GatewayProblem> {
    Ok(Json(card(&app.find_model(&id.parse::<ModelId>()?).await?)))
}

/// `POST /v1/chat/completions`
pub(crate) async fn chat(State(app): State<AppState>, request: Request) -> Result<Response, GatewayProblem> {
    let completion = Completion::read(request, app.config.timers.request_head).await?;
    let endpoint = match app.workers.endpoint(&completion.model) {
        Some(endpoint) => endpoint,
        // Not the id of a loaded model; perhaps its name, or a model that is not loaded.
        None => {
            let id = app.find_model(&completion.model.parse::<ModelId>()?).await?.id;
            app.workers.endpoint(&id).ok_or_else(|| not_loaded(&id, &loaded(&app)))?
        }
    };
    let (upstream, in_flight): (Upstream, InFlight) = endpoint.into();
    Ok(relay(&app.worker_client, upstream, "/v1/chat/completions", completion, in_flight).await?)
}

/// The ids of the models that workers serve now.
fn loaded(app: &AppState) -> Vec<String> {
    let mut loaded: Vec<_> = app.workers.list().into_iter().filter(|worker| worker.status.serves()).map(|worker| worker.model).collect();
    loaded.sort_unstable();
    loaded.dedup();
    loaded
}

fn card(model: &Model) -> Card {
    Card::new(
        (&model.id, &model.name),
        &model.added_at,
        model.loaded,
        model.size_bytes,
        model.context_length,
    )
}
