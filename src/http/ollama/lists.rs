//! What there is: the version, the models, and those in memory.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::card::{Card, capabilities, name_of};
use crate::app::{App, AppState};
use crate::config::served_id;
use crate::http::problem::Problem;
use crate::models::{Model, Status};
use crate::residency::ResidencyView;
use crate::text::each_member;
use crate::workers::{ResidentWorker, WorkerPhase};

/// The version of Ollama whose API this is. Clients ask for one of at least so much.
const VERSION: &str = "0.12.6";
/// When a worker goes that stays until its room is needed: for ever, as far as clients show it.
const NEVER: &str = "2299-12-31T23:59:59.000Z";

/// A list of Ollama's.
#[derive(Debug, Serialize)]
pub(crate) struct List<T: Serialize> {
    #[serde(serialize_with = "each_member")]
    models: Vec<T>,
}

/// A model of the catalog.
#[derive(Debug, Serialize)]
pub(crate) struct Available {
    #[serde(flatten)]
    card: Card,
    modified_at: String,
    capabilities: Vec<&'static str>,
}

/// A model in memory.
#[derive(Debug, Serialize)]
pub(crate) struct Running {
    #[serde(flatten)]
    card: Card,
    expires_at: String,
    /// Bytes of it on GPUs.
    size_vram: u64,
    context_length: Option<u64>,
}

/// `GET /api/version`
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": VERSION, "rbee_hive": env!("CARGO_PKG_VERSION") }))
}

/// `GET /api/tags`: what can be loaded.
pub(crate) async fn tags(State(app): State<AppState>) -> Result<Json<List<Available>>, Problem> {
    let models = app.catalog.list().await?;
    app.workers.engines().await;
    let names = names(&app, &models).into_iter();
    let models = names
        .filter(|(_, _, model)| matches!(model.status, Status::Available | Status::Unknown))
        .map(|(name, served_id, model)| Available {
            capabilities: capabilities(&app, model, &served_id),
            card: Card::of(name, model),
            modified_at: model.added_at.clone(),
        })
        .collect();
    Ok(Json(List { models }))
}

/// Every name of a model, a variant and an alias, with the id under which it is served, and the model.
fn names<'a>(app: &App, models: &'a [Model]) -> Vec<(String, String, &'a Model)> {
    let mut names = Vec::new();
    for model in models {
        names.push((name_of(model).to_owned(), model.id.clone(), model));
        let variants = &app.settings.of_served(&model.id).variants;
        let ids = variants.keys().map(|variant| served_id(&model.id, Some(variant)));
        names.extend(ids.map(|id| (id.clone(), id, model)));
    }
    for (alias, (id, variant)) in app.settings.aliases() {
        let is_shadowed = models.iter().any(|model| model.id == alias || model.name == alias);
        let meant = models.iter().find(|model| model.id == id && !is_shadowed);
        names.extend(meant.map(|model| (alias, served_id(&id, variant.as_deref()), model)));
    }
    names
}

/// `GET /api/ps`: what is in memory.
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
    let name = if worker.model == model.id { name_of(model) } else { &worker.model };
    let expires_at = view.unload_at(worker.pid).map_or_else(|| NEVER.to_owned(), |at| at.to_string());
    Running {
        card: Card { size: held(|_| true), ..Card::of(name.to_owned(), model) },
        expires_at,
        size_vram: held(|device| !device.is_cpu()),
        context_length: app.workers.get(worker.pid).ok().and_then(|worker| worker.context_length),
    }
}
