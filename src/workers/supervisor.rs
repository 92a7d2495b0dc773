//! The supervisor: the interface of the workers to the rest of the hive.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use super::abilities::{Abilities, Served};
use super::adopt::{self, Adoption};
use super::affinity::{Affinity, Preference};
use super::conditions::Conditions;
use super::device::Device;
use super::endpoint::{Endpoint, InFlight};
use super::engines::Engine;
use super::engines::choice::candidates;
use super::handle::Handle;
use super::measure::measure;
use super::memory::{DeviceMemory, FreeMemory};
use super::place::Place;
use super::plan::{LoadPlan, StartPlan, check_support};
use super::registry::{Cause, WorkerChange};
use super::removal::Removal;
use super::request::StartRequest;
use super::resident::ResidentWorker;
use super::secret::Secret;
use super::shared::Shared;
use super::state::{Control, LifeStage, StopReason};
use super::stop::{self, Stopped, give_up};
use super::survey::Survey;
use super::trial::{TrialWorker, Tried, TryError};
use super::usage::Sampler;
use super::worker::{Status, Worker};
use super::{restart, start, trial, usage};
use crate::config::{Config, KeepAlive, ModelSettings};
use crate::engine_store::{EngineId, EngineStore};
use crate::error::{Code, Failure, Result};
use crate::models::{EngineSupport, Needs};
use crate::spawn;

/// The workers of one hive. Clones share them.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Locked only on the blocking pool.
    sampler: Arc<Mutex<Sampler>>,
    /// What became of the workers of an earlier run.
    adoption: Mutex<Option<Adoption>>,
    affinity: Affinity,
}

impl Supervisor {
    /// A supervisor without workers, which may run the engines of the store.
    ///
    /// # Errors
    /// Where the path of the built-in worker's program is unknown.
    pub fn new(config: &Config, store: EngineStore) -> Result<Self> {
        let shared = Arc::new(Shared::new(config, store, restart::after_crash)?);
        Ok(Self(Arc::new(Inner {
            shared,
            sampler: Arc::default(),
            adoption: Mutex::default(),
            affinity: Affinity::default(),
        })))
    }

    /// The installed engines, the preferred one first. The first call searches for them.
    pub async fn engines(&self) -> Vec<Arc<Engine>> {
        self.0.shared.found_engines().await.installed.clone()
    }

    /// Searches for engines once more, after one was installed or removed. Workers keep theirs.
    pub async fn look_again(&self) {
        self.0.shared.look_again().await;
    }

    /// The names of the engines in the settings that cannot be used, and why.
    pub async fn unusable_engines(&self) -> Vec<(String, String)> {
        self.0.shared.found_engines().await.unusable.clone()
    }

    /// What is wrong with the engines that the hive installed and that fail since, and the way back.
    pub async fn engine_troubles(&self) -> Vec<String> {
        let engines = self.engines().await;
        engines.iter().filter_map(|engine| self.0.shared.troubles.way_back(engine)).collect()
    }

    /// What a model can do on the engines that serve it; where none does, on those that the settings allow. Waits
    /// for nothing: what is not known yet is not missing.
    #[must_use]
    pub fn abilities(&self, served: Option<Served>, settings: &ModelSettings) -> Abilities {
        let Some(served) = served else { return Abilities::default() };
        let serving: Vec<_> = self.live(&served.id).map(|worker| Arc::clone(&worker.engine)).collect();
        let engines = if serving.is_empty() { self.allowed(settings) } else { serving };
        Abilities::new(Some(served), engines)
    }

    /// Which engines can run a model with these needs; unset while the engines are not known. Waits for nothing.
    #[must_use]
    pub(crate) fn support(&self, needs: &Needs) -> EngineSupport {
        let (shared, found) = (&self.0.shared, self.0.shared.known_engines());
        found.map(|found| shared.support.of(&found.installed, needs)).unwrap_or_default()
    }

    /// The engines that may serve a model with these settings.
    fn allowed(&self, settings: &ModelSettings) -> Vec<Arc<Engine>> {
        let wanted = settings.engine.as_deref().unwrap_or("auto");
        let found = self.0.shared.known_engines();
        let candidates = found.map(|found| {
            candidates(&found, wanted, settings.device.unwrap_or_default(), |_| false).unwrap_or_default()
        });
        let mut engines: Vec<Arc<Engine>> = Vec::new();
        for engine in candidates.into_iter().flatten().map(|candidate| candidate.engine) {
            if engines.iter().all(|known| known.name != engine.name) {
                engines.push(engine);
            }
        }
        engines
    }

    /// Adopts the workers that an earlier run of the hive left running, and ends those that it cannot
    /// adopt. Call it once, before any other function that needs workers.
    pub async fn adopt(&self) {
        let adoption = adopt::adopt(&self.0.shared).await;
        *self.0.adoption.lock() = Some(adoption);
        // Searching for engines takes a while, seconds where a GPU's driver has to start. The first
        // load must not wait for it.
        let shared = Arc::clone(&self.0.shared);
        spawn::detached(async move {
            shared.found_engines().await;
        });
    }

    /// What became of the workers of an earlier run; `None` before [`Self::adopt`].
    #[must_use]
    pub fn adoption(&self) -> Option<Adoption> {
        self.0.adoption.lock().clone()
    }

    /// Every worker, oldest first, with its last measurements; see [`Self::refresh`].
    #[must_use]
    pub fn list(&self) -> Vec<Worker> {
        self.handles().iter().map(|worker| worker.worker()).collect()
    }

    /// The worker with that process id, with its last measurements.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound) for every other process.
    pub fn get(&self, pid: u32) -> Result<Worker> {
        Ok(self.0.shared.registry.find(pid)?.worker())
    }

    /// The live workers of a model and of its variants, or of one variant, including those that are starting.
    #[must_use]
    pub fn of_model(&self, id: &str) -> Vec<Worker> {
        let handles = self.named();
        let live = handles.iter().filter(|worker| worker.is_of(id) && worker.status().lives());
        live.map(|worker| worker.worker()).collect()
    }

    /// What each live worker was started for, with its process id, oldest first.
    #[must_use]
    pub fn started(&self) -> Vec<(u32, StartRequest)> {
        let handles = self.named();
        let live = handles.iter().filter(|worker| worker.status().lives());
        live.map(|worker| (worker.pid, worker.request.clone())).collect()
    }

    /// The process ids of the live workers whose engine is in that folder.
    #[must_use]
    pub fn running_from(&self, folder: &Path) -> Vec<u32> {
        let handles = self.handles();
        let running =
            |worker: &&Arc<Handle>| worker.engine.program.starts_with(folder) && worker.status().lives();
        handles.iter().filter(running).map(|worker| worker.pid).collect()
    }

    /// Begins the removal of an engine that is in these folders: no worker starts from there until it is dropped.
    ///
    /// # Errors
    /// The process ids of the live workers that run from there.
    pub(crate) fn begin_removal(&self, folders: Vec<PathBuf>) -> Result<Removal, Vec<u32>> {
        Removal::begin(&self.0.shared, folders)
    }

    /// Tells which engine is to be installed on this machine, for what needs one.
    pub(crate) fn recommend(&self, id: EngineId) {
        self.0.shared.support.recommend(id);
    }

    /// The id and the file of the model of each live worker.
    #[must_use]
    pub fn served_files(&self) -> Vec<(String, PathBuf)> {
        let handles = self.named();
        let live = handles.iter().filter(|worker| worker.status().lives());
        live.map(|worker| (worker.request.model_id.clone(), worker.request.model_path.clone())).collect()
    }

    /// Whether a worker answers requests for the model or variant of exactly that id.
    #[must_use]
    pub fn serves(&self, served_id: &str) -> bool {
        self.live(served_id).any(|worker| worker.status().serves())
    }

    /// Whether a worker answers requests for the model or a variant of it.
    #[must_use]
    pub fn has_loaded(&self, model_id: &str) -> bool {
        self.named().iter().any(|worker| worker.is_of(model_id) && worker.status().serves())
    }

    /// A worker that answers requests for the model on that device and has at least the context and the
    /// slots that are asked for.
    #[must_use]
    pub fn ready(&self, request: &StartRequest) -> Option<Worker> {
        self.meeting(request).map(|worker| worker.worker())
    }

    fn meeting(&self, request: &StartRequest) -> Option<Arc<Handle>> {
        self.serving(request)
            .filter(|worker| request.device.fits(worker.device))
            .find(|worker| !worker.request.is_outdated_by(request) && request.is_met_by(&worker.worker()))
    }

    /// The workers that answer requests for what the request names.
    fn serving(&self, request: &StartRequest) -> impl Iterator<Item = Arc<Handle>> + use<> {
        self.live(&request.served_id())
            .filter(|worker| !worker.traffic.borrow().draining && worker.status().serves())
    }

    /// Told when a worker changes, and when a request to one ends. It is for one listener.
    pub(crate) fn activity(&self) -> Arc<Notify> {
        Arc::clone(&self.0.shared.registry.activity)
    }

    /// Takes over the settings of workers and of their memory, for what is decided from now on.
    pub(crate) fn reload(&self, config: &Config) {
        self.0.shared.reload(config);
    }

    /// Every live worker, oldest first.
    pub(crate) fn residents(&self) -> Vec<ResidentWorker> {
        self.handles().iter().filter_map(|worker| ResidentWorker::of(worker)).collect()
    }

    /// Measures the memory of each device, and what each live worker holds of it.
    pub(crate) async fn measure_memory(&self) -> Vec<DeviceMemory> {
        let (handles, settings) = (self.handles(), self.0.shared.memory());
        let free = spawn::blocking(move || {
            for worker in handles.iter().filter(|worker| worker.status().lives()) {
                let memory = usage::memory_of(worker.pid);
                let used = &mut worker.measurements.lock().usage;
                (used.rss_bytes, used.gpus) = (memory.rss_bytes, memory.gpus);
            }
            FreeMemory::beside(&handles, settings)
        });
        // Without it nothing is known of any device.
        free.await.map(|free| free.devices()).unwrap_or_default()
    }

    /// Lets a worker accept no more requests; those under way go on. Returns the worker's id, if it lives.
    pub(crate) fn drain(&self, pid: u32) -> Option<String> {
        self.set_draining(pid, true)
    }

    /// Takes a [`drain`](Self::drain) back. Returns the worker's id, if it lives.
    pub(crate) fn reopen(&self, pid: u32) -> Option<String> {
        self.set_draining(pid, false)
    }

    fn set_draining(&self, pid: u32, draining: bool) -> Option<String> {
        let registry = &self.0.shared.registry;
        let worker = registry.find(pid).ok().filter(|worker| worker.status().lives())?;
        worker.traffic.send_modify(|traffic| traffic.draining = draining);
        registry.activity.notify_one();
        Some(worker.worker_id.clone())
    }

    /// The id of a worker that lives, is drained and answers no request.
    pub(crate) fn drained(&self, pid: u32) -> Option<String> {
        let worker = self.0.shared.registry.find(pid).ok().filter(|worker| worker.status().lives())?;
        let traffic = *worker.traffic.borrow();
        (traffic.draining && traffic.in_flight == 0).then(|| worker.worker_id.clone())
    }

    /// Changes how long a worker stays without a request.
    pub(crate) fn keep(&self, pid: u32, keep_alive: KeepAlive) {
        let registry = &self.0.shared.registry;
        let Ok(worker) = registry.find(pid) else { return };
        let before = std::mem::replace(&mut *worker.keep_alive.lock(), keep_alive);
        if before != keep_alive {
            worker.control(Control::KeepAlive);
            registry.activity.notify_one();
        }
    }

    /// An endpoint of a worker of the model that has the preferred context and a free slot: of several, the preferred
    /// one, else the one with the fewest requests in flight. It counts as one more request until its guard is dropped.
    #[must_use]
    pub fn endpoint(&self, model_id: &str, preference: &Preference) -> Option<Endpoint> {
        let mut ready: Vec<_> =
            self.live(model_id).filter(|worker| worker.stage() == LifeStage::Ready).collect();
        preference.choose_context(&mut ready, |worker| worker.worker().context_length);
        let knows_it = self.0.affinity.worker(model_id, &preference.conversation);
        // Each key is read once: traffic changes meanwhile.
        ready.sort_by_cached_key(|worker| {
            let is_avoided = Some(worker.pid) == preference.avoided;
            (is_avoided, Some(worker.pid) != knows_it, worker.traffic.borrow().in_flight)
        });
        // A worker that was closed or got a request in this moment has none free; the next one may.
        let mut endpoint =
            ready.iter().find_map(|worker| Endpoint::open(worker, &self.0.shared.registry.activity))?;
        endpoint.knows_conversation = Some(endpoint.pid) == knows_it;
        self.0.affinity.remember(model_id, &preference.conversation, endpoint.pid);
        Some(endpoint)
    }

    /// The process ids and statuses of the live workers of a model, oldest first.
    #[must_use]
    pub fn statuses(&self, model_id: &str) -> Vec<(u32, Status)> {
        self.live(model_id).map(|worker| (worker.pid, worker.status())).collect()
    }

    /// The workers of the model on that device that do not respond, oldest first.
    #[must_use]
    pub fn unresponsive(&self, model_id: &str, device: &Device) -> Vec<Worker> {
        self.live(model_id)
            .filter(|worker| worker.status() == Status::Unresponsive && device.fits(worker.device))
            .map(|worker| worker.worker())
            .collect()
    }

    fn live(&self, served_id: &str) -> impl Iterator<Item = Arc<Handle>> + use<> {
        let served_id = served_id.to_owned();
        self.named()
            .into_iter()
            .filter(move |worker| worker.model_id() == served_id && worker.status().lives())
    }

    /// What slows a worker down that is not its own work.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound) for every other process.
    pub async fn conditions(&self, pid: u32) -> Result<Conditions> {
        let (worker, all) = (self.0.shared.registry.find(pid)?, self.handles());
        let settings = self.0.shared.memory();
        spawn::blocking(move || Conditions::of(&worker, &all, settings)).await
    }

    /// Measures every live worker.
    pub async fn refresh(&self) {
        measure(self.sampler(), &self.0.shared.client, &self.handles()).await;
    }

    pub(super) fn sampler(&self) -> Arc<Mutex<Sampler>> {
        Arc::clone(&self.0.sampler)
    }

    pub(super) fn handles(&self) -> Vec<Arc<Handle>> {
        self.0.shared.registry.all()
    }

    /// The workers that requests can name: all but those that try an engine.
    fn named(&self) -> Vec<Arc<Handle>> {
        let mut handles = self.handles();
        handles.retain(|worker| !worker.is_trial());
        handles
    }

    /// Starts a worker and returns it once it is ready. On failure, on `stop`, and where the future is
    /// dropped, it leaves no process behind.
    ///
    /// # Errors
    /// [`Code`](crate::error::Code)`::EngineUnavailable`, `DeviceUnavailable`, `OutOfMemory`,
    /// `WorkerFailed`, `PortInUse`, `Timeout`, `Cancelled`, `ShuttingDown`, or what the worker itself
    /// reported.
    pub async fn start(&self, request: StartRequest, stop: &CancellationToken) -> Result<Worker> {
        let worker = start::start(&self.0.shared, request, 0, stop).await?;
        // Measured at once, so that the answer has its memory.
        self.refresh().await;
        Ok(self.get(worker.pid).unwrap_or(worker))
    }

    /// Asks the llama.cpp server at `program`, which need not be installed, to describe itself. The engine gets
    /// that name.
    ///
    /// # Errors
    /// Why it does not, and at which stage it was.
    pub(crate) async fn describe(&self, name: &str, program: &Path) -> Result<Arc<Engine>, TryError> {
        trial::describe(&self.0.shared, name, program).await
    }

    /// Starts a worker that tries an engine, which need not be installed.
    ///
    /// # Errors
    /// Why there is none; no process of it is left.
    pub(crate) async fn try_engine(
        &self,
        what: &Tried,
        stop: &CancellationToken,
    ) -> Result<TrialWorker, TryError> {
        TrialWorker::start(&self.0.shared, what, stop).await
    }

    /// Whether so many workers like that have room beside what is in memory now, as far as that is known.
    ///
    /// # Errors
    /// Where the engine cannot use the device.
    pub(crate) async fn has_room_for(&self, what: &Tried, count: u64) -> Result<bool> {
        trial::has_room(&self.0.shared, what, count).await
    }

    /// A worker that serves the model on that device with less than what is asked for, or one that was started
    /// with other settings; and what it was started for.
    #[must_use]
    pub(crate) fn lesser(&self, request: &StartRequest) -> Option<(Worker, StartRequest)> {
        let is_lesser =
            |worker: &Handle| request.device.fits(worker.device) || worker.request.is_outdated_by(request);
        let lesser = self.serving(request).find(|worker| is_lesser(worker))?;
        Some((lesser.worker(), lesser.request_now()))
    }

    /// What the worker was started for, and how long it stays without a request. One that tries an engine is not
    /// started again.
    pub(crate) fn start_of(&self, pid: u32) -> Option<StartRequest> {
        let worker = self.0.shared.registry.find(pid).ok()?;
        (!worker.is_trial()).then(|| worker.request_now())
    }

    /// Why the model does not fit: what it needs, what is free, and who holds the rest. `because` is why no room
    /// can be made.
    pub(crate) async fn lacks_room(&self, request: &StartRequest, because: &str) -> Failure {
        let checked = match StartPlan::new(&self.0.shared, request).await {
            Ok(plan) => plan.check(request),
            Err(error) => return error.into(),
        };
        let mut failure = checked.map_or_else(Failure::from, |()| {
            let message = format!("there is no room for '{}': {because}", request.served_id());
            Failure::new(Code::OutOfMemory, message)
                .hint("stop a worker (ModelUnload, WorkerProcessDelete); \"force\": true loads it anyway")
                .stage("preflight")
        });
        failure.causes.insert(0, because.to_owned());
        failure
    }

    /// The places where a start could go, the best class first, with what it would take there. What is free now
    /// does not change their order.
    ///
    /// # Errors
    /// Where no engine or device matches the request.
    pub async fn placements(&self, request: &StartRequest) -> Result<Vec<Place>> {
        self.refresh().await;
        Ok(Survey::take(&self.0.shared, request).await?.places()?)
    }

    /// The same, for a start that is about to make room there.
    ///
    /// # Errors
    /// Those of [`Self::placements`], or where no engine can run the model.
    pub(crate) async fn placements_that_run(&self, request: &StartRequest) -> Result<Vec<Place>> {
        self.refresh().await;
        let survey = Survey::take(&self.0.shared, request).await?;
        let places = survey.places()?;
        check_support(&survey, &places, request)?;
        Ok(places)
    }

    /// Reports what [`start`](Self::start) would do, and does nothing.
    ///
    /// # Errors
    /// Where no engine or device matches the request.
    pub async fn plan(&self, request: &StartRequest) -> Result<LoadPlan> {
        self.refresh().await;
        match self.meeting(request) {
            Some(worker) => LoadPlan::of_worker(&self.0.shared, &worker).await,
            None => LoadPlan::of_start(&self.0.shared, request).await,
        }
    }

    /// Stops a worker: it accepts no more requests, finishes those in flight, is asked to end and, after
    /// `grace`, is killed. Returns once its whole group is gone. A crashed worker leaves the list. A
    /// second stop waits for the same end; the shorter grace period counts.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound) for every other process.
    pub async fn stop(&self, pid: u32, grace: Duration) -> Result<Stopped> {
        let registry = &self.0.shared.registry;
        let worker = registry.find(pid)?;
        Ok(stop::stop(registry, &worker, grace).await)
    }

    /// Ends the restarts of the crashed workers of a model. Returns their process ids.
    pub fn give_up(&self, model_id: &str) -> Vec<u32> {
        let workers = self.named();
        workers
            .iter()
            .filter(|worker| worker.is_of(model_id))
            .filter(|worker| give_up(&self.0.shared.registry, worker) == Some(true))
            .map(|worker| worker.pid)
            .collect()
    }

    /// Accepts no more workers and stops all of them, at the same time; if the settings say so, leaves
    /// the ready ones running. It belongs to the end of the hive, not to a job, and reports to `tracing`
    /// alone.
    pub async fn stop_all(&self, grace: Duration) {
        let shared = &self.0.shared;
        shared.closing.cancel();
        let workers = shared.registry.close();
        let keep = shared.settings().keep_on_shutdown && !shared.settings().lifeline;
        let ends = workers.iter().filter(|worker| worker.status().lives()).map(|worker| async {
            if keep && worker.status().serves() && !worker.is_trial() {
                worker.control(Control::Release);
                worker.ended().await;
                tracing::info!(pid = worker.pid, "left a worker running for the next run of the hive");
                return;
            }
            worker.control(Control::Stop { grace, reason: StopReason::Shutdown });
            let end = worker.ended().await;
            tracing::info!(pid = worker.pid, exit = ?end.exit, remains = ?end.remains, "stopped a worker");
        });
        join_all(ends).await;
    }

    /// Leaves every worker that serves to another hive, which adopts it, and stops the others. The requests under way
    /// go on, and those that this hive has taken already still reach these workers.
    pub(crate) async fn hand_over(&self, grace: Duration) {
        let shared = &self.0.shared;
        shared.closing.cancel();
        let workers = shared.registry.close();
        let ends = workers.iter().filter(|worker| worker.status().lives()).map(|worker| async {
            if !worker.status().serves() || worker.is_trial() {
                worker.control(Control::Stop { grace, reason: StopReason::Shutdown });
                worker.ended().await;
                return;
            }
            worker.control(Control::HandOver);
            tokio::select! {
                () = worker.handed_over.cancelled() => {
                    tracing::info!(pid = worker.pid, "left a worker to the hive that takes over");
                }
                _ = worker.ended() => {}
            }
        });
        join_all(ends).await;
    }

    /// The requests that each worker answers now, by process id; those that answer none are left out.
    pub(crate) fn in_flight(&self) -> Vec<(u32, usize)> {
        let handles = self.handles();
        let busy = handles.iter().map(|worker| (worker.pid, worker.traffic.borrow().in_flight));
        busy.filter(|(_, requests)| *requests > 0).collect()
    }

    /// Counts requests that another hive still has at a worker, until the guards are dropped.
    pub(crate) fn hold(&self, pid: u32, requests: usize) -> Vec<InFlight> {
        let registry = &self.0.shared.registry;
        let Ok(worker) = registry.find(pid) else { return Vec::new() };
        (0..requests).map(|_| InFlight::of_another_hive(&worker, &registry.activity)).collect()
    }

    /// The changes of workers from now on. A reader that falls more than 256 behind gets an error from
    /// its receiver and must list the workers again.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<WorkerChange> {
        self.0.shared.registry.changes()
    }

    /// How many changes of workers had each cause since the hive started.
    pub(crate) fn causes(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().map(|cause| (cause, self.0.shared.registry.caused(cause)))
    }

    /// The log of a worker, which a [`Follower`](super::log_follow::Follower) reads as it grows.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound).
    pub fn log(&self, pid: u32) -> Result<PathBuf> {
        Ok(self.0.shared.registry.find(pid)?.folder.log())
    }

    /// The secret of a worker, which its log must not show to readers.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound).
    pub fn secret(&self, pid: u32) -> Result<Secret> {
        Ok(self.0.shared.registry.find(pid)?.secret.clone())
    }
}
