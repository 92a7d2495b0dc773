//! `WorkerSpawn`: starts another worker for a model.

use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

use super::loading;
use super::operation::{Context, Deadline, Operation};
use crate::config::KeepAlive;
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::models::ModelId;
use crate::n;
use crate::workers::{Device, StartRequest, Worker};

/// Starts a worker, even if the model has one already.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerSpawn {
    /// The model's id, or its name if only one model has it.
    model: ModelId,
    /// The kind of device to serve the model on (`cpu`, `cuda`, `metal`, ...), or an engine's name.
    worker: String,
    /// Which of the devices of that kind.
    #[serde(default = "first_device")]
    device: Device,
    /// Tokens of context; the model's own maximum by default.
    #[serde(default)]
    context_length: Option<NonZeroU64>,
    /// Requests that the worker serves at once; the engine's own choice by default.
    #[serde(default)]
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
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Loads;
    const DEADLINE: Deadline = Deadline::None;

    type Output = Worker;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!(
            "worker_spawn",
            "🚀 Starting a {} worker for '{}' on hive '{}'",
            self.worker,
            self.model,
            cx.hive_id
        );
        let model = cx.app.find_model(&self.model).await?;
        model.check_loadable()?;
        let request = StartRequest {
            model_id: model.id.clone(),
            model_path: model.path.clone(),
            projector: model.projector.clone(),
            engine: self.worker,
            device: self.device,
            context_length: self.context_length.map(NonZeroU64::get),
            slots: self.slots.map(NonZeroU32::get),
            force: self.force,
            keep_alive: KeepAlive::Forever,
            load: None,
            place: None,
        }
        .within(model.context_length);
        let ticket = cx.app.residency.load(&cx.app.jobs.get(cx.job_id.as_str())?, &model.id);
        let worker = loading::start(&cx, &ticket, request).await?;
        cx.app.publish_model_change("loaded", &model);
        n!("worker_spawn", "Worker {} serves '{}' on {}", worker.pid, model.id, worker.device);
        Ok(worker)
    }
}
