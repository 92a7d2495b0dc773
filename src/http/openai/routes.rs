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
use crate::config::served_id;
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
) -> Result<Json<Card>, GatewayProblem> {
    let target = app.find_target(&id).await?;
    Ok(Json(card(&app, &target.model, target.variant.as_deref())))
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
    let model: Arc<str> = app.served_id(&completion.model).await?.into();
    recorder.asks(&model, completion.streams);
    let (shown, waits_for) = watch::channel(Shown::default());
    let preference = Preference { conversation: completion.conversation, avoided: None };
    let attempt = Attempt {
        admissions: app.residency.admissions().clone(),
        workers: app.workers.clone(),
        client: app.gateway.clone(),
        defaults: app.defaults(&model),
        asking: Asking { model, caller, preference },
        body: completion.body,
        keep_alive: completion.keep_alive,
        shown,
        recorder: recorder.clone(),
    };
    let waits = Waits::new(waits_for, narrates, (&app.config.timers).into());
    Ok(relay(attempt.answer().boxed(), completion.streams, waits, recorder.clone()).await)
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
    Card::of(model, app.workers.serves(&id)).served(id, context_length)
}
