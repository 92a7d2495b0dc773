//! The gateway's routes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::watch;

use super::attempt::{Attempt, Shown};
use super::card::{Card, Cards};
use super::completion::Completion;
use super::problem::GatewayProblem;
use super::relay::relay;
use super::waits::Waits;
use crate::app::{App, AppState};
use crate::error::Result;
use crate::http::caller;
use crate::http::path::Parameter;
use crate::models::Model;
use crate::requests::Recorder;
use crate::residency::Asking;
use crate::workers::Preference;

/// The header with the id of a request, under which logs, events and `ModelDiagnose` know it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-rbee-request-id");
/// The header by which a client of a stream asks to be told what it waits for.
const NARRATE: &str = "x-rbee-narrate";

/// `GET /v1/models`
pub(crate) async fn models(State(app): State<AppState>) -> Result<Json<Cards>, GatewayProblem> {
    let models = app.catalog.list().await?;
    let cards: Vec<Card> = models.iter().map(|model| card(&app, model)).collect();
    Ok(Json(Cards::from(cards)))
}

/// `GET /v1/models/{*id}`: ids have slashes.
pub(crate) async fn model(
    State(app): State<AppState>,
    Parameter(id): Parameter,
) -> Result<Json<Card>, GatewayProblem> {
    Ok(Json(card(&app, &app.catalog.find(&id).await?)))
}

/// `POST /v1/chat/completions`
pub(crate) async fn chat_completions(State(app): State<AppState>, request: Request) -> Response {
    let recorder = Recorder::new(&app.requests, caller::of(request.extensions()));
    let id = HeaderValue::from_str(recorder.id());
    let mut response = complete(&app, request, &recorder).await.unwrap_or_else(|problem| {
        recorder.failed(problem.failure());
        problem.into_response()
    });
    if let Ok(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

async fn complete(app: &App, request: Request, recorder: &Recorder) -> Result<Response, GatewayProblem> {
    let caller = caller::of(request.extensions());
    let narrates = request.headers().get(NARRATE).is_some_and(|value| value == "1");
    let completion = Completion::read(request, *app.config.timers.request_head).await?;
    let model = served_id(app, completion.model).await?;
    recorder.asks(&model, completion.streams);
    let (shown, waits_for) = watch::channel(Shown::default());
    let preference = Preference { conversation: completion.conversation, avoided: None };
    let attempt = Attempt {
        admissions: app.residency.admissions().clone(),
        workers: app.workers.clone(),
        client: app.gateway.clone(),
        asking: Asking { model, caller, preference },
        body: completion.body,
        keep_alive: completion.keep_alive,
        shown,
        recorder: recorder.clone(),
    };
    let waits = Waits::new(waits_for, narrates, (&app.config.timers).into());
    Ok(relay(attempt.answer().boxed(), completion.streams, waits, recorder.clone()).await)
}

/// The id under which workers serve the model of that id or unique name. Asks the catalog only if no worker
/// serves a model of exactly that id.
async fn served_id(app: &App, wanted: String) -> Result<Arc<str>> {
    if !app.workers.statuses(&wanted).is_empty() {
        return Ok(wanted.into());
    }
    Ok(app.catalog.find(&wanted).await?.id.into())
}

fn card(app: &App, model: &Model) -> Card {
    Card::of(model, app.workers.serves(&model.id))
}
