//! The plan of a load: which engine, on which device, and whether the model fits there.
//!
//! One road leads to it, whether a worker is then started ([`start`](super::start)) or a dry run
//! only says what would be.

use std::sync::Arc;

use serde::Serialize;

use super::devices::Device;
use super::engines::{Choice, Engine, choose};
use super::handle::Handle;
use super::memory::{self, Estimate, ForeignProcess, Free, Holders, Part, StoppableWorker};
use super::start::StartRequest;
use super::supervisor::Shared;
use super::worker::Worker;
use crate::error::{Failure, Result};
use crate::{n, spawn};

/// What to start, and how much memory it will take.
pub(super) struct Plan {
    pub(super) choice: Choice,
    /// `None` where the file's header does not tell.
    pub(super) estimate: Option<Estimate>,
    /// Tokens of context of each slot, for engines that must be told.
    pub(super) context: u64,
    free: Free,
    workers: Vec<Arc<Handle>>,
}

impl Plan {
    /// Chooses an engine and a device, and says what the model will take there.
    pub(super) async fn of(shared: &Arc<Shared>, request: &StartRequest) -> Result<Self> {
        let engines = shared.engines().await;
        let (workers, path) = (shared.registry.all(), request.model_path.clone());
        let looked = spawn::blocking(move || {
            let mut free = Free::now();
            free.set_aside(&workers);
            (memory::Model::read(&path), free, workers)
        });
        let (model, free, workers) =
            looked.await.map_err(|error| Failure::internal("could not look at the memory").detail(error))?;
        let (context, slots) = (request.context_length, request.slots);
        let estimate = |engine: &Engine, device: Device| {
            model.as_ref().map(|model| Estimate::of(model, engine, device, context, slots))
        };
        let choice = choose(engines, &request.engine, request.device, |engine, device| {
            let needed = estimate(engine, device)?.total();
            Some(i128::from(free.on(device)?) - i128::from(needed))
        })?;
        let estimate = estimate(&choice.engine, choice.device);
        match &estimate {
            Some(estimate) => memory::narrate(estimate, &request.model_id, choice.device, &free),
            None => {
                n!(debug: "memory_check", "The memory that '{}' needs cannot be estimated", request.model_id);
            }
        }
        let context = model.map_or(memory::DEFAULT_CONTEXT, |model| model.context(context));
        Ok(Self { choice, estimate, context, free, workers })
    }

    /// Refuses a model that does not fit, unless it is forced.
    pub(super) fn check(&self, request: &StartRequest) -> Result<()> {
        let Some(estimate) = &self.estimate else { return Ok(()) };
        memory::check(
            estimate,
            &request.model_id,
            self.choice.device,
            &self.free,
            &self.holders(),
            request.force,
        )
    }

    /// The memory that the worker is expected to take, in bytes; 0 where nobody knows.
    pub(super) fn needs_bytes(&self) -> u64 {
        self.estimate.map_or(0, |estimate| estimate.total())
    }

    fn holders(&self) -> Holders {
        Holders::of(self.choice.device, &self.free, &self.workers)
    }
}

/// What a load would do: the result of a dry run.
#[derive(Clone, Debug, Serialize)]
pub struct LoadPlan {
    /// The id of the model.
    pub model: String,
    /// The worker that serves it there already: then nothing would be started.
    pub worker: Option<Worker>,
    /// The name of the engine that would serve it.
    pub engine: String,
    /// The device that it would be put on.
    pub device: String,
    /// Why these, for people.
    pub reason: String,
    /// Whether the load would be taken up without `force`. Memory that nobody can tell refuses
    /// nothing.
    pub fits: bool,
    /// What it would take in all, in bytes; unset where the file does not tell.
    pub required_bytes: Option<u64>,
    /// What is free on the device now, in bytes, less what workers that still load are about to
    /// take; unset where that cannot be told.
    pub free_bytes: Option<u64>,
    /// The memory of the device in all, in bytes; unset where that cannot be told.
    pub capacity_bytes: Option<u64>,
    /// How much too little is free, in bytes.
    pub missing_bytes: u64,
    /// What `required_bytes` is made of.
    pub parts: Vec<Part>,
    /// Tokens of context of each slot.
    pub context_length: u64,
    /// Requests that it would answer at once.
    pub slots: u32,
    /// This hive's workers that hold memory of the device.
    pub stoppable_workers: Vec<StoppableWorker>,
    /// Other processes that the device's driver names as holders of its memory.
    pub foreign_processes: Vec<ForeignProcess>,
}

impl LoadPlan {
    /// What starting this worker would do. Starts nothing.
    pub(super) async fn of_start(shared: &Arc<Shared>, request: &StartRequest) -> Result<Self> {
        let plan = Plan::of(shared, request).await?;
        let Holders { stoppable_workers, foreign_processes } = plan.holders();
        let Plan { choice: Choice { engine, device, why }, estimate, context, free, .. } = plan;
        let required_bytes = estimate.map(|estimate| estimate.total());
        let free_bytes = free.on(device);
        let missing_bytes = memory::missing(required_bytes, free_bytes);
        n!("worker_choose", "Engine '{}' would serve '{}' on {device}: {why}", engine.name, request.model_id);
        Ok(Self {
            model: request.model_id.clone(),
            worker: None,
            engine: engine.name.clone(),
            device: device.to_string(),
            reason: why,
            fits: missing_bytes == 0,
            required_bytes,
            free_bytes,
            capacity_bytes: free.capacity(device),
            missing_bytes,
            parts: estimate.map(|estimate| estimate.parts()).unwrap_or_default(),
            context_length: context,
            slots: request.slots.unwrap_or(1),
            stoppable_workers,
            foreign_processes,
        })
    }

    /// Where a worker serves the model already, nothing more would be taken.
    pub(super) async fn of_worker(shared: &Arc<Shared>, worker: &Arc<Handle>) -> Result<Self> {
        let workers = shared.registry.all();
        let (device, request) = (worker.device, &worker.request);
        let path = request.model_path.clone();
        let (free, holders, model) = spawn::blocking(move || {
            let mut free = Free::now();
            free.set_aside(&workers);
            let holders = Holders::of(device, &free, &workers);
            (free, holders, memory::Model::read(&path))
        })
        .await
        .map_err(|error| Failure::internal("could not look at the memory").detail(error))?;
        let asked = request.context_length;
        Ok(Self {
            model: worker.model_id.clone(),
            worker: Some(worker.worker()),
            engine: worker.engine.name.clone(),
            device: device.to_string(),
            reason: format!("worker {} serves it already", worker.pid),
            fits: true,
            required_bytes: Some(0),
            free_bytes: free.on(device),
            capacity_bytes: free.capacity(device),
            missing_bytes: 0,
            parts: Vec::new(),
            context_length: model
                .map_or(asked.unwrap_or(memory::DEFAULT_CONTEXT), |model| model.context(asked)),
            slots: request.slots.unwrap_or(1),
            stoppable_workers: holders.stoppable_workers,
            foreign_processes: holders.foreign_processes,
        })
    }
}
