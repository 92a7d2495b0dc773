//! Plans a load: which engine, on which device, and whether the model fits there.
//!
//! A start and a dry run make the same plan; a dry run only reports it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::device::Device;
use super::engines::Engine;
use super::engines::choice::{EngineChoice, choose};
use super::handle::Handle;
use super::memory::{
    self, DEFAULT_CONTEXT, Estimate, ForeignProcess, FreeMemory, MemoryHolders, MemoryPart, ModelFootprint,
    StoppableWorker,
};
use super::request::StartRequest;
use super::shared::Shared;
use super::start_error::StartError;
use super::worker::Worker;
use crate::error::Result;
use crate::{n, spawn};

/// What to start, and how much memory it will take.
pub(super) struct StartPlan {
    pub(super) choice: EngineChoice,
    /// `None` where the model's header does not tell.
    pub(super) estimate: Option<Estimate>,
    /// Tokens of context of each slot, for engines that must be given a number.
    pub(super) context: u64,
    /// The projector that the engine is given.
    pub(super) projector: Option<PathBuf>,
    /// Whether the model's file has a chat template; it counts as having one where it cannot be read.
    has_template: bool,
    /// Why the engine cannot run the model, as far as its header tells.
    obstacle: Option<String>,
    free: FreeMemory,
    workers: Vec<Arc<Handle>>,
}

impl StartPlan {
    /// Chooses an engine and a device, and estimates the memory that the model will take there.
    pub(super) async fn new(shared: &Arc<Shared>, request: &StartRequest) -> Result<Self, StartError> {
        let found = shared.found_engines().await;
        let projector =
            |engine: &Engine| engine.projector_for(&request.model_path, request.projector.as_ref());
        let projectors: HashSet<_> = found.installed.iter().filter_map(|engine| projector(engine)).collect();
        let (workers, path) = (shared.registry.all(), request.model_path.clone());
        let look = move || {
            let lengths = projectors.into_iter().map(|projector| {
                let length = memory::length(&projector);
                (projector, length)
            });
            let lengths: HashMap<_, _> = lengths.collect();
            (ModelFootprint::read(&path), lengths, FreeMemory::beside(&workers), workers)
        };
        let (model, lengths, free, workers) = spawn::blocking(look).await?;
        let (context, slots) = (request.context_length, request.slots);
        let estimate = |engine: &Engine, device: Device| {
            let bytes = projector(engine).and_then(|path| lengths.get(&path).copied()).unwrap_or(0);
            let model = model.as_ref()?.with(bytes);
            Some(Estimate::of(&model, engine, device, context, slots))
        };
        let choice = choose(found, &request.engine, request.device, |engine, device| {
            let needed = estimate(engine, device)?.total();
            Some(i128::from(free.on(device)?) - i128::from(needed))
        })?;
        let estimate = estimate(&choice.engine, choice.device);
        let projector = projector(&choice.engine);
        match (&projector, &choice.engine.projector) {
            (Some(projector), _) => n!("worker_projector", "Its projector is {}", projector.display()),
            (None, Some(set)) => {
                let set = set.display();
                n!("worker_projector", "{set}, the projector of the settings, does not belong to this model");
            }
            (None, None) => {}
        }
        match &estimate {
            Some(estimate) => memory::narrate(estimate, &request.model_id, choice.device, &free),
            None => {
                n!(debug: "memory_check", "Cannot estimate the memory that '{}' needs", request.model_id);
            }
        }
        let has_template = model.as_ref().is_none_or(|model| model.has_chat_template);
        let context = model.as_ref().map_or(DEFAULT_CONTEXT, |model| model.context(context));
        let obstacle = choice.engine.obstacle(model.and_then(|model| model.builtin_obstacle));
        Ok(Self { choice, estimate, context, projector, has_template, obstacle, free, workers })
    }

    /// Narrates which chat template the worker will use, where it is not the model's own.
    pub(super) fn narrate_template(&self, shared: &Shared, request: &StartRequest) {
        let engine = &self.choice.engine;
        match shared.chat_template(&request.model_id) {
            Some(template) if engine.takes("chat_template") => {
                n!("worker_template", "Using the chat template {}", template.display());
            }
            Some(template) => n!(
                warn: "worker_template",
                "Engine '{}' does not get the chat template {}: its command has no {{chat_template}}",
                engine.name,
                template.display()
            ),
            None if !self.has_template && engine.falls_back_to_chatml => {
                n!(warn: "worker_template", "no chat template: using ChatML");
            }
            None => {}
        }
    }

    /// Checks that the model fits, or that the request forces it.
    pub(super) fn check(&self, request: &StartRequest) -> Result<(), StartError> {
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

    /// The memory that the worker is expected to take, in bytes; 0 where unknown.
    pub(super) fn expected_bytes(&self) -> u64 {
        self.estimate.map_or(0, |estimate| estimate.total())
    }

    fn holders(&self) -> MemoryHolders {
        MemoryHolders::of(self.choice.device, &self.free, &self.workers)
    }
}

/// What a load would do: the result of a dry run.
#[derive(Clone, Debug, Serialize)]
pub struct LoadPlan {
    /// The id of the model.
    pub model: String,
    /// The worker that serves the model on the device already; then nothing would be started.
    pub worker: Option<Worker>,
    /// The name of the engine that would serve the model.
    pub engine: String,
    /// The device that it would use.
    pub device: String,
    /// Why these were chosen, for people.
    pub reason: String,
    /// Whether the load would be accepted without `force`. It is where the memory is unknown.
    pub fits: bool,
    /// Why the engine cannot run the model, as far as its header tells; unset where it may be able to.
    pub obstacle: Option<String>,
    /// The memory that the load would take; unset where the file does not tell.
    pub required_bytes: Option<u64>,
    /// The free memory of the device, less what workers that are still loading are expected to take;
    /// unset where it is unknown.
    pub free_bytes: Option<u64>,
    /// The whole memory of the device; unset where it is unknown.
    pub capacity_bytes: Option<u64>,
    /// The memory that is missing.
    pub missing_bytes: u64,
    /// The parts of `required_bytes`.
    pub parts: Vec<MemoryPart>,
    /// Tokens of context of each slot.
    pub context_length: u64,
    /// Requests that the worker would answer at once.
    pub slots: u32,
    /// This hive's workers that hold memory of the device.
    pub stoppable_workers: Vec<StoppableWorker>,
    /// Other processes that hold memory of the device, as its driver lists them.
    pub foreign_processes: Vec<ForeignProcess>,
}

impl LoadPlan {
    /// The plan of a load that would start a worker.
    pub(super) async fn of_start(shared: &Arc<Shared>, request: &StartRequest) -> Result<Self> {
        let plan = StartPlan::new(shared, request).await?;
        let MemoryHolders { stoppable_workers, foreign_processes } = plan.holders();
        let StartPlan { choice, estimate, context, obstacle, free, .. } = plan;
        let EngineChoice { engine, device, reason } = choice;
        let required_bytes = estimate.map(|estimate| estimate.total());
        let free_bytes = free.on(device);
        let missing_bytes = memory::missing(required_bytes, free_bytes);
        n!(
            "worker_choose",
            "Engine '{}' would serve '{}' on {device}: {reason}",
            engine.name,
            request.model_id
        );
        if let Some(obstacle) = &obstacle {
            n!(
                warn: "worker_choose",
                "Engine '{}' does not run '{}': {obstacle}",
                engine.name,
                request.model_id
            );
        }
        Ok(Self {
            model: request.model_id.clone(),
            worker: None,
            engine: engine.name.clone(),
            device: device.to_string(),
            reason,
            fits: missing_bytes == 0,
            obstacle,
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

    /// The plan of a load of a model that this worker serves already: it would take no memory.
    pub(super) async fn of_worker(shared: &Arc<Shared>, worker: &Arc<Handle>) -> Result<Self> {
        let workers = shared.registry.all();
        let (device, request) = (worker.device, &worker.request);
        let path = request.model_path.clone();
        let (free, holders, model) = spawn::blocking(move || {
            let free = FreeMemory::beside(&workers);
            let holders = MemoryHolders::of(device, &free, &workers);
            (free, holders, ModelFootprint::read(&path))
        })
        .await?;
        let requested = worker.worker().context_length.or(request.context_length);
        Ok(Self {
            model: worker.model_id().to_owned(),
            worker: Some(worker.worker()),
            engine: worker.engine.name.clone(),
            device: device.to_string(),
            reason: format!("worker {} serves it already", worker.pid),
            fits: true,
            obstacle: None,
            required_bytes: Some(0),
            free_bytes: free.on(device),
            capacity_bytes: free.capacity(device),
            missing_bytes: 0,
            parts: Vec::new(),
            context_length: model
                .map_or(requested.unwrap_or(DEFAULT_CONTEXT), |model| model.context(requested)),
            slots: request.slots.unwrap_or(1),
            stoppable_workers: holders.stoppable_workers,
            foreign_processes: holders.foreign_processes,
        })
    }
}
