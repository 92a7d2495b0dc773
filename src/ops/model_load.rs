//! `ModelLoad`: makes sure that a worker serves a model.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use super::{because, loading};
use crate::app::{AppState, Target};
use crate::config::KeepAlive;
use crate::error::{Code, Failure, Result};
use crate::fleet::Offer;
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::narration::waiting_for;
use crate::residency::Forecast;
use crate::workers::{Asked, Device, LoadPlan, StartRequest, Worker};
use crate::{n, text};

/// Asks for a ready worker of a model: an existing one, or a new one.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelLoad {
    /// The model's id, its name if only one model has it, an alias, or one of these with `@VARIANT`.
    id: ModelId,
    /// The device to load it on. A bare number counts GPUs; `auto` leaves the choice to the settings of the model.
    #[serde(default)]
    device: Device,
    /// Load it even if it does not seem to fit.
    #[serde(default)]
    force: bool,
    /// Tokens of context; the model's own maximum by default.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1)]
    context_length: Option<NonZeroU64>,
    /// Requests that the worker serves at once; the engine's own choice by default.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1)]
    slots: Option<NonZeroU32>,
    /// How long the model stays without a request.
    #[serde(default)]
    keep_alive: KeepAlive,
    /// Why it is loaded, for people.
    #[serde(default)]
    reason: Option<String>,
    /// Answer with the plan, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ModelLoadResult)]
pub(super) enum Loaded {
    /// A ready worker.
    Worker(Box<Worker>),
    /// The plan of a dry run.
    Plan(Box<Planned>),
}

/// The plan of a dry run, with what would have to go for it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LoadPlan)]
pub(super) struct Planned {
    #[serde(flatten)]
    plan: LoadPlan,
    #[serde(flatten)]
    forecast: Forecast,
}

impl Operation for ModelLoad {
    const NAME: &'static str = "ModelLoad";
    const VERB: &'static str = "load";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Loads;
    const DEADLINE: Deadline = Deadline::None;

    type Output = Loaded;

    async fn offer(&self, app: &AppState) -> Result<Offer> {
        let target = app.find_target(self.id.as_str()).await?;
        target.model.check_loadable()?;
        let request = self.request(&target);
        let offer = loading::offer(app, &request, target.model.size_bytes).await?;
        Ok(Offer { begins: offer.begins.filter(|_| !self.dry_run), ..offer })
    }

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let doing = if self.dry_run { "🔎 Planning to load" } else { "🚀 Loading" };
        let because = because(self.reason.as_deref());
        n!("model_load", "{doing} model '{}' on hive '{}'{because}", self.id, cx.hive_id);
        let target = cx.app.find_target(self.id.as_str()).await?;
        if self.dry_run {
            return self.plan(&target, &cx).await;
        }
        let (model, id) = (&target.model, target.served_id());
        let ticket = cx.app.residency.load(&cx.app.jobs.get(cx.job_id.as_str())?, &id);
        let _turn = match cx.app.loading.try_take(&id) {
            Some(turn) => turn,
            None => {
                n!("model_load", "Another job is loading '{id}': waiting for it");
                let _waiting = waiting_for(format!("another job that loads '{id}'"));
                tokio::select! {
                    () = cx.stop.cancelled() => return Err(Failure::new(Code::Cancelled, "stopped while waiting")),
                    turn = cx.app.loading.take(&id) => turn,
                }
            }
        };
        let request = self.request(&target);
        if let Some(worker) = cx.app.workers.ready(&request) {
            cx.app.workers.keep(worker.pid, self.keep_alive);
            n!("model_load", "'{id}' is loaded already, by worker {}", worker.pid);
            if model.added_at > worker.started_at {
                n!(
                    warn: "model_load",
                    "Its file has changed since then: worker {} serves the earlier contents until ModelUnload ends it",
                    worker.pid
                );
            }
            return Ok(Loaded::Worker(worker.into()));
        }
        model.check_loadable()?;
        for hung in cx.app.workers.unresponsive(&id, &request.device) {
            n!(warn: "model_load", "Worker {} of '{id}' does not respond: it is replaced", hung.pid);
            cx.app.workers.stop(hung.pid, Duration::ZERO).await?;
        }
        let worker = loading::start_or_replace(&cx, &ticket, request).await?;
        cx.app.publish_model_change("loaded", model);
        n!("model_load", "'{id}' is ready: worker {} on {}", worker.pid, worker.device);
        Ok(Loaded::Worker(worker.into()))
    }
}

impl ModelLoad {
    fn request(&self, target: &Target) -> StartRequest {
        let asked = Asked {
            engine: None,
            device: self.device.named(),
            context_length: self.context_length.map(NonZeroU64::get),
            slots: self.slots.map(NonZeroU32::get),
        };
        StartRequest { force: self.force, keep_alive: self.keep_alive, ..target.request(asked) }
    }

    /// The plan. Takes no turn, so that a look never waits for a load.
    async fn plan(&self, target: &Target, cx: &Context) -> Result<Loaded> {
        let (model, id) = (&target.model, target.served_id());
        model.check_loadable()?;
        let (workers, mut request) = (&cx.app.workers, self.request(target));
        let mut forecast = Forecast::default();
        let asks_for_room = !self.force && workers.ready(&request).is_none();
        if asks_for_room {
            let places = workers.placements(&request).await?;
            let replaces = workers.lesser(&request).map(|(lesser, _)| lesser.pid);
            forecast = cx.app.residency.forecast(&id, loading::placements(&places), replaces).await;
            // Planned for the place that it would get, which may be another one than that with the most room now.
            if let Some(place) = forecast.placement.and_then(|placement| places.get(placement)) {
                request = request.at(place);
            }
        }
        let mut plan = workers.plan(&request).await?;
        if asks_for_room && plan.worker.is_none() {
            plan.fits = forecast.refusal.is_none() && plan.obstacle.is_none();
        }
        match &plan.worker {
            Some(worker) => n!(
                "model_load",
                "'{id}' is loaded already, by worker {}: nothing would be started",
                worker.pid
            ),
            None if plan.fits && forecast.evictions.is_empty() => {
                n!("model_load", "'{id}' fits; nothing was started");
            }
            None if plan.fits => {
                for eviction in &forecast.evictions {
                    n!("model_load", "{eviction}");
                }
                n!("model_load", "Then '{id}' fits; nothing was started");
            }
            None if plan.obstacle.is_some() => {
                n!(warn: "model_load", "'{id}' would not be started: engine '{}' does not run it", plan.engine);
            }
            None => n!(
                warn: "model_load",
                "'{id}' does not fit: {} are missing on {}; nothing was started",
                text::bytes(plan.missing_bytes),
                plan.device
            ),
        }
        if let Some(waits_for) = &forecast.waits_for {
            n!("model_load", "It would wait for {waits_for}");
        }
        Ok(Loaded::Plan(Box::new(Planned { plan, forecast })))
    }
}
