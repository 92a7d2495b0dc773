//! `WorkerSpawn`: starts another worker for a model.

use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::loading;
use super::operation::{Context, Deadline, Operation};
use crate::app::{AppState, Target};
use crate::error::Result;
use crate::fleet::Offer;
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::n;
use crate::workers::{Asked, Device, StartRequest, Worker};

/// Starts a worker, even if the model has one already.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerSpawn {
    /// The model's id, its name if only one model has it, an alias, or one of these with `@VARIANT`.
    model: ModelId,
    /// The kind of device to serve the model on (`cpu`, `cuda`, `metal`, ...), or an engine's name.
    worker: String,
    /// Which of the devices of that kind.
    #[serde(default = "first_device")]
    device: Device,
    /// Tokens of context; the model's own maximum by default.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1)]
    context_length: Option<NonZeroU64>,
    /// Requests that the worker serves at once; the engine's own choice by default.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1)]
    slots: Option<NonZeroU32>,
    /// Start it even if the model does not seem to fit.
    #[serde(default)]
    force: bool,
}

const fn first_device() -> Device {
    Device::Index(0)
}

impl Operation for WorkerSpawn {
    const NAME: &'static str = "WorkerSpawn";
    const VERB: &'static str = "spawn";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Loads;
    const DEADLINE: Deadline = Deadline::None;

    type Output = Worker;

    async fn offer(&self, app: &AppState) -> Result<Offer> {
        let target = app.find_target(self.model.as_str()).await?;
        target.model.check_loadable()?;
        // Another worker is asked for, wherever one serves the model already.
        loading::offer_of_room(app, &self.request(&target), None).await
    }

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!(
            "worker_spawn",
            "🚀 Starting a {} worker for '{}' on hive '{}'",
            self.worker,
            self.model,
            cx.hive_id
        );
        let target = cx.app.find_target(self.model.as_str()).await?;
        target.model.check_loadable()?;
        let request = self.request(&target);
        let ticket = cx.app.residency.load(&cx.app.jobs.get(cx.job_id.as_str())?, &target.served_id());
        let worker = loading::start(&cx, &ticket, request).await?;
        cx.app.publish_model_change("loaded", &target.model);
        n!("worker_spawn", "Worker {} serves '{}' on {}", worker.pid, worker.model, worker.device);
        Ok(worker)
    }
}

impl WorkerSpawn {
    fn request(&self, target: &Target) -> StartRequest {
        let engine = (!self.worker.eq_ignore_ascii_case("auto")).then(|| self.worker.clone());
        let asked = Asked {
            engine,
            device: self.device.named(),
            context_length: self.context_length.map(NonZeroU64::get),
            slots: self.slots.map(NonZeroU32::get),
        };
        StartRequest { force: self.force, ..target.request(asked) }
    }
}
