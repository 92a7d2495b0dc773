//! What there is: the version, the models, and those in memory.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::http::Extensions;
use serde::Serialize;
use utoipa::ToSchema;

use super::card::{Card, capabilities, in_ollamas_words, name_of};
use crate::app::{App, AppState, Named};
use crate::fleet::NamedThere;
use crate::http::caller::holder;
use crate::http::problem::Problem;
use crate::models::{Model, Status};
use crate::residency::ResidencyView;
use crate::text::each_member;
use crate::workers::{ResidentWorker, WorkerPhase};

/// The version of Ollama whose API this is, and whose own program works with it. Clients ask for one of at least so
/// much: Codex for 0.13.4, because of `/v1/responses`.
const VERSION: &str = "0.17.4";
/// When a worker goes that stays until its room is needed: for ever, as far as clients show it.
const NEVER: &str = "2299-12-31T23:59:59.000Z";

/// Whose API this is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaVersion)]
pub(crate) struct Version {
    version: &'static str,
    /// The hive's own.
    rbee_hive: &'static str,
}

/// A list of Ollama's.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaModels)]
pub(crate) struct List<T: Serialize> {
    #[serde(serialize_with = "each_member")]
    models: Vec<T>,
}

/// A model of the catalog.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaAvailable)]
pub(crate) struct Available {
    #[serde(flatten)]
    card: Card,
    modified_at: String,
    capabilities: Vec<&'static str>,
}

/// A model in memory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaRunning)]
pub(crate) struct Running {
    #[serde(flatten)]
    card: Card,
    expires_at: String,
    /// Bytes of it on GPUs.
    size_vram: u64,
    context_length: Option<u64>,
}

/// Tells the version of Ollama whose API this is, and the hive's own.
#[utoipa::path(
    get,
    path = "/api/version",
    operation_id = "ollama_version",
    tag = "Ollama",
    responses((status = 200, description = "The versions.", body = Version))
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: VERSION, rbee_hive: env!("CARGO_PKG_VERSION") })
}

/// Lists what this caller can load: models, variants and aliases.
#[utoipa::path(
    get,
    path = "/api/tags",
    operation_id = "ollama_tags",
    tag = "Ollama",
    responses((status = 200, description = "The models.", body = List<Available>))
)]
pub(crate) async fn tags(
    State(app): State<AppState>,
    extensions: Extensions,
) -> Result<Json<List<Available>>, Problem> {
    let models = app.catalog.list().await?;
    app.workers.engines().await;
    let mut models: Vec<_> = app
        .names(&models)
        .into_iter()
        .filter(|named| matches!(named.model.status, Status::Available | Status::Unknown))
        .filter(|named| app.may_use(holder(&extensions), &named.served_id))
        .map(|Named { alias, served_id, model }| Available {
            capabilities: capabilities(&app, model, &served_id),
            card: Card::of(alias.unwrap_or_else(|| shown(&served_id, model)), model),
            modified_at: model.added_at.clone(),
        })
        .collect();
    if let Some(others) = app.fleet.others() {
        let there = others.named().into_iter().filter(|(name, _)| app.may_use(holder(&extensions), name));
        for (name, NamedThere { record, served_id, .. }) in there {
            let model = &record.model;
            let name = if name == served_id { shown(&served_id, model) } else { name };
            if models.iter().all(|listed| listed.card.name != name) {
                models.push(Available {
                    capabilities: in_ollamas_words(model.capabilities.clone()),
                    card: Card::of(name, model),
                    modified_at: model.added_at.clone(),
                });
            }
        }
    }
    Ok(Json(List { models }))
}

/// The name of what is served under that id.
fn shown(served_id: &str, model: &Model) -> String {
    if served_id == model.id { name_of(model).to_owned() } else { served_id.to_owned() }
}

/// Lists what is in memory.
#[utoipa::path(
    get,
    path = "/api/ps",
    operation_id = "ollama_ps",
    tag = "Ollama",
    responses((status = 200, description = "The models.", body = List<Running>))
)]
pub(crate) async fn ps(State(app): State<AppState>) -> Result<Json<List<Running>>, Problem> {
    let models = app.known_models();
    let models: HashMap<_, _> = models.iter().map(|model| (model.id.as_str(), model)).collect();
    let view = app.residency.view().await;
    let ready = app.workers.residents().into_iter().filter(|worker| worker.phase == WorkerPhase::Ready);
    let running = ready
        .filter_map(|worker| {
            Some(running(&app, models.get(worker.request.model_id.as_str())?, &worker, &view))
        })
        .collect();
    Ok(Json(List { models: running }))
}

fn running(app: &App, model: &Model, worker: &ResidentWorker, view: &ResidencyView) -> Running {
    let held = |counts: fn(&crate::workers::Device) -> bool| {
        worker.holds.iter().filter(|(device, _)| counts(device)).map(|(_, bytes)| bytes).sum()
    };
    let name = shown(&worker.model, model);
    let expires_at = view.unload_at(worker.pid).map_or_else(|| NEVER.to_owned(), |at| at.to_string());
    Running {
        card: Card { size: held(|_| true), ..Card::of(name, model) },
        expires_at,
        size_vram: held(|device| !device.is_cpu()),
        context_length: app.workers.get(worker.pid).ok().and_then(|worker| worker.context_length),
    }
}
