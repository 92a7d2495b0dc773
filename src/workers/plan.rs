//! Plans a load: which engine, on which device, and whether the model fits there.
//!
//! A start and a dry run make the same plan; a dry run only reports it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::device::Device;
use super::engines::Engine;
use super::handle::Handle;
use super::memory::{
    self, DEFAULT_CONTEXT, ForeignProcess, FreeMemory, MemoryHolders, ModelFootprint, StoppableWorker,
};
use super::place::{MemoryPart, Place, Share};
use super::request::StartRequest;
use super::shared::Shared;
use super::start_error::StartError;
use super::survey::Survey;
use super::worker::Worker;
use crate::error::{Code, Failure, Result};
use crate::models::{EngineAdvice, EngineSupport, Needs};
use crate::{n, spawn};

/// Refuses a start where no place has an engine that may run the model, before room is made for it.
///
/// # Errors
/// [`Code::ModelUnsupported`].
pub(super) fn check_support(
    survey: &Survey<'_>,
    places: &[Place],
    request: &StartRequest,
) -> Result<(), StartError> {
    let mut refused = None;
    for engine in places.iter().filter_map(|place| survey.engine(&place.engine)) {
        let Some(obstacle) = survey.obstacle(engine) else { return Ok(()) };
        refused.get_or_insert((engine, obstacle));
    }
    match refused {
        Some((engine, obstacle)) => Err(cannot_run(&engine.name, &obstacle, &survey.support(), request)),
        None => Ok(()),
    }
}

/// What to start, and how much memory it will take.
pub(super) struct StartPlan {
    pub(super) engine: Arc<Engine>,
    pub(super) place: Place,
    /// Tokens of context of each slot, for engines that must be given a number.
    pub(super) context: u64,
    /// The projector that the engine is given.
    pub(super) projector: Option<PathBuf>,
    /// Whether the model's file has a chat template, or needs none; it counts as having one where it cannot be read.
    has_template: bool,
    /// What the model asks of an engine; `None` where its header cannot be read.
    pub(super) needs: Option<Needs>,
    /// Why the engine cannot run the model, as far as is known.
    obstacle: Option<String>,
    /// Which engines can.
    support: EngineSupport,
    free: FreeMemory,
    workers: Vec<Arc<Handle>>,
}

impl StartPlan {
    /// The plan of a start at the place that the request names; else at the first that has room, or lacks the
    /// least.
    pub(super) async fn new(shared: &Shared, request: &StartRequest) -> Result<Self, StartError> {
        let survey = Survey::take(shared, request).await?;
        let place = match &request.place {
            Some(place) => place.clone(),
            None => best(survey.places()?, &survey.free, request)?,
        };
        let engine = survey.engine(&place.engine).ok_or_else(|| unknown_engine(&place))?;
        let projector = survey.projector(engine);
        match (&projector, &engine.projector) {
            (Some(projector), _) => n!("worker_projector", "Its projector is {}", projector.display()),
            (None, Some(set)) => {
                let set = set.display();
                n!("worker_projector", "{set}, the projector of the settings, does not belong to this model");
            }
            (None, None) => {}
        }
        match &place.estimate {
            Some(estimate) => memory::narrate(estimate, &place, &request.served_id(), &survey.free),
            None => {
                n!(debug: "memory_check", "Cannot estimate the memory that '{}' needs", request.served_id());
            }
        }
        Ok(Self {
            engine: Arc::clone(engine),
            context: survey.context(),
            projector,
            has_template: survey.has_template(),
            needs: survey.needs().cloned(),
            obstacle: survey.obstacle(engine),
            support: survey.support(),
            place,
            free: survey.free,
            workers: survey.workers,
        })
    }

    /// Narrates which chat template the worker will use, where it is not the model's own.
    pub(super) fn narrate_template(&self, request: &StartRequest) {
        let engine = &self.engine;
        match &request.chat_template {
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
                n!(
                    warn: "worker_template",
                    "no chat template: using ChatML, although '{0}' may not be trained for it; set chat_template in \
                     [models.\"{0}\"], or send text to /v1/completions",
                    request.model_id
                );
            }
            None => {}
        }
    }

    /// Narrates which options of the settings the engine does not take.
    pub(super) fn narrate_options(&self, request: &StartRequest) {
        let names = request.engine_options.names();
        if !self.engine.takes_options && !names.is_empty() {
            let (engine, names) = (&self.engine.name, names.join(", "));
            n!(warn: "worker_options", "Engine '{engine}' does not take {names}: these are options of llama-server");
        }
    }

    /// Checks that the engine may run the model and that it fits, or that the request forces it.
    pub(super) fn check(&self, request: &StartRequest) -> Result<(), StartError> {
        if let Some(obstacle) = self.obstacle.as_ref().filter(|_| !request.force) {
            return Err(cannot_run(&self.engine.name, obstacle, &self.support, request));
        }
        let Some(estimate) = &self.place.estimate else { return Ok(()) };
        memory::check(estimate, &self.place, &request.served_id(), &self.free, request.force, |device| {
            self.holders(device)
        })
    }

    /// Whether so many such workers fit into what is free now; where that is unknown, they do.
    pub(super) fn has_room(&self, count: u64) -> bool {
        let needs: Vec<_> = self
            .place
            .needs()
            .into_iter()
            .map(|(device, bytes)| (device, bytes.saturating_mul(count)))
            .collect();
        memory::missing(&needs, &self.free).is_empty()
    }

    fn holders(&self, device: Device) -> MemoryHolders {
        MemoryHolders::of(device, &self.free, &self.workers)
    }
}

/// The first of the places that lacks the least memory, for a start that nobody made room for: none where the
/// memory is unknown. Of GPUs that have room for the whole model, the one with the most.
fn best(places: Vec<Place>, free: &FreeMemory, request: &StartRequest) -> Result<Place, StartError> {
    let room = |place: &Place| free.on(place.device).unwrap_or(0);
    let has_gpu = places.iter().any(|place| !place.device.is_cpu());
    let mut best: Option<(u64, Place)> = None;
    for place in places {
        let missing = memory::sum(&memory::missing(&place.needs(), free));
        let is_better = best.as_ref().is_none_or(|(least, known)| {
            let is_roomier = missing == 0
                && place.class == Place::ONE_GPU
                && known.class == Place::ONE_GPU
                && room(&place) > room(known);
            missing < *least || is_roomier
        });
        if is_better {
            best = Some((missing, place));
        }
    }
    let (_, mut place) =
        best.ok_or_else(|| Failure::internal(format!("no place for '{}'", request.model_id)))?;
    let more = match place.class {
        Place::ONE_GPU => ", which has the most free memory",
        Place::PROCESSOR if has_gpu => ", and no GPU has room for the model",
        _ => "",
    };
    if request.device == Device::Auto {
        place.reason.push_str(more);
    }
    Ok(place)
}

/// The failure of a load on an engine that cannot run the model.
fn cannot_run(engine: &str, obstacle: &str, support: &EngineSupport, request: &StartRequest) -> StartError {
    let model = format!("'{}' ({})", request.served_id(), request.model_path.display());
    let others = support.engines.as_deref().unwrap_or_default().join("' or '");
    let (message, hint) = match &support.engines_detail {
        Some(detail) => (
            format!("no engine here can run {model}: {detail}"),
            support.engine_advice.as_ref().map_or_else(
                || "use another model, or describe an engine that runs it in [engines.NAME]".to_owned(),
                ToString::to_string,
            ),
        ),
        None => (
            format!("engine '{engine}' cannot run {model}: {obstacle}"),
            format!("ask for engine '{others}', which may run it; \"auto\" leaves the choice to the hive"),
        ),
    };
    Failure::new(Code::ModelUnsupported, message)
        .hint(format!("{hint}. \"force\": true tries it anyway"))
        .stage("preflight")
        .into()
}

fn unknown_engine(place: &Place) -> StartError {
    let failure =
        Failure::new(Code::EngineUnavailable, format!("there is no engine '{}' here", place.engine));
    failure.hint("ask for worker 'auto', or for an engine that is installed").stage("preflight").into()
}

/// What a load would do: the result of a dry run.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = StartPlan)]
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
    /// Why the engine cannot run the model, as far as is known; unset where it may be able to.
    pub obstacle: Option<String>,
    /// How to get an engine that runs it; unset where one that is here may.
    pub engine_advice: Option<EngineAdvice>,
    /// The memory that the load would take; unset where the file does not tell.
    pub required_bytes: Option<u64>,
    /// The free memory of the device, less what workers that are still loading are expected to take;
    /// unset where it is unknown.
    pub free_bytes: Option<u64>,
    /// The whole memory of the device; unset where it is unknown.
    pub capacity_bytes: Option<u64>,
    /// The memory that is missing.
    pub missing_bytes: u64,
    /// `measured` where `required_bytes` is what an earlier worker took, `formula` where it follows from the
    /// file; unset where the file does not tell.
    pub source_of_estimate: Option<&'static str>,
    /// What the formula says.
    pub formula_bytes: Option<u64>,
    /// How much more was measured than the formula says; unset where nothing was measured.
    pub formula_error_bytes: Option<i64>,
    /// The parts of `required_bytes`.
    pub parts: Vec<MemoryPart>,
    /// Which part of the model would be on which device; empty where all of it is on `device`.
    pub split: Vec<Share>,
    /// How many times slower than wholly on a GPU a split model is, estimated; unset where it is not split.
    pub slowdown: Option<f64>,
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
        let device = plan.place.device;
        let MemoryHolders { stoppable_workers, foreign_processes } = plan.holders(device);
        let StartPlan { engine, place, context, obstacle, support, free, .. } = plan;
        n!(
            "worker_choose",
            "Engine '{}' would serve '{}' on {}: {}",
            engine.name,
            request.served_id(),
            place.devices(),
            place.reason
        );
        if let Some(obstacle) = &obstacle {
            n!(
                warn: "worker_choose",
                "Engine '{}' does not run '{}': {obstacle}",
                engine.name,
                request.served_id()
            );
            if let Some(advice) = &support.engine_advice {
                n!(warn: "worker_choose", "{advice}");
            }
        }
        let missing_bytes = memory::sum(&memory::missing(&place.needs(), &free));
        Ok(Self {
            model: request.served_id(),
            worker: None,
            engine: engine.name.clone(),
            device: device.to_string(),
            slowdown: place.slowdown(),
            reason: place.reason,
            fits: missing_bytes == 0 && obstacle.is_none(),
            obstacle,
            engine_advice: support.engine_advice,
            required_bytes: place.estimate.map(|estimate| estimate.total()),
            free_bytes: free.on(device),
            capacity_bytes: free.capacity(device),
            missing_bytes,
            source_of_estimate: place.estimate.map(|estimate| estimate.source()),
            formula_bytes: place.estimate.map(|estimate| estimate.formula()),
            formula_error_bytes: place.estimate.and_then(|estimate| estimate.formula_error()),
            parts: place.estimate.map(|estimate| estimate.parts()).unwrap_or_default(),
            split: place.split,
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
        let (path, settings) = (request.model_path.clone(), shared.memory());
        let (free, holders, model) = spawn::blocking(move || {
            let free = FreeMemory::beside(&workers, settings);
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
            engine_advice: None,
            required_bytes: Some(0),
            free_bytes: free.on(device),
            capacity_bytes: free.capacity(device),
            missing_bytes: 0,
            source_of_estimate: None,
            formula_bytes: None,
            formula_error_bytes: None,
            parts: Vec::new(),
            split: worker.split.clone(),
            slowdown: None,
            context_length: model
                .map_or(requested.unwrap_or(DEFAULT_CONTEXT), |model| model.context(requested)),
            slots: request.slots.unwrap_or(1),
            stoppable_workers: holders.stoppable_workers,
            foreign_processes: holders.foreign_processes,
        })
    }
}
