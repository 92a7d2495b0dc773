//! The supervisor: what the rest of the hive asks of its workers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OnceCell, broadcast};
use tokio_util::sync::CancellationToken;

use super::adopt::{self, Adoption};
use super::devices::Device;
use super::engines::Engine;
use super::engines::discover::{Found, Sought};
use super::exit::Exit;
use super::handle::{Control, Endpoint, Handle, Reason, Secret, Stage};
use super::health::{Client, Health};
use super::plan::LoadPlan;
use super::process::{End, Left};
use super::registry::{Change, Registry};
use super::start::{self, StartRequest};
use super::usage::Sampler;
use super::worker::Worker;
use crate::config::{Config, Timers, Workers};
use crate::error::{Failure, Result};
use crate::narration::waiting_for;
use crate::{n, spawn, text};

/// The workers of one hive. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) workers_dir: PathBuf,
    /// Where the logs of failed attempts are kept with their jobs.
    pub(super) jobs_dir: PathBuf,
    pub(super) timers: Timers,
    pub(super) settings: Workers,
    sought: Sought,
    /// Found once: asking an engine what it is takes a while.
    engines: OnceCell<Found>,
    pub(super) registry: Registry,
    pub(super) client: Client,
    /// Held on the blocking pool alone.
    sampler: Arc<Mutex<Sampler>>,
    /// Cancelled when the hive stops.
    pub(super) closing: CancellationToken,
    /// What was found of an earlier run.
    adoption: Mutex<Option<Adoption>>,
}

impl Shared {
    /// The engines that are installed, the preferred one first.
    pub(super) async fn engines(&self) -> &[Arc<Engine>] {
        &self.found().await.engines
    }

    async fn found(&self) -> &Found {
        self.engines.get_or_init(|| self.sought.find()).await
    }

    /// The installed engine of that name, once somebody has looked which there are.
    pub(super) fn known_engine(&self, name: &str) -> Option<Arc<Engine>> {
        self.engines.get()?.engines.iter().find(|engine| engine.name == name).cloned()
    }
}

/// How a worker was stopped: the result of `WorkerProcessDelete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// The process id that it had.
    pub pid: u32,
    /// Its exit code, where it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it, such as `SIGTERM`.
    pub signal: Option<String>,
    /// The memory that it held last and that is free again.
    pub freed_bytes: u64,
    /// Whether everything of it was seen to be gone; where not, a warning has said what is left.
    #[serde(skip)]
    pub proven: bool,
}

impl Supervisor {
    /// A supervisor without workers.
    ///
    /// # Errors
    /// Where the path of the built-in worker's program cannot be told.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self(Arc::new(Shared {
            workers_dir: config.workers_dir(),
            jobs_dir: config.jobs_dir(),
            timers: config.timers.clone(),
            sought: Sought::new(config)?,
            engines: OnceCell::new(),
            settings: config.workers.clone(),
            registry: Registry::default(),
            client: Client::new()?,
            sampler: Arc::default(),
            closing: CancellationToken::new(),
            adoption: Mutex::default(),
        })))
    }

    /// The engines that are installed, the preferred one first. The first call looks for them.
    pub async fn engines(&self) -> &[Arc<Engine>] {
        self.0.engines().await
    }

    /// The names of the engines that the settings speak of and that cannot be used, and why.
    pub async fn absent_engines(&self) -> &[(String, String)] {
        &self.0.found().await.absent
    }

    /// Takes over the workers that an earlier run of the hive left behind, and ends those that it
    /// cannot take over. To be called once, before anything else is asked of the workers.
    pub async fn adopt(&self) {
        let found = adopt::adopt(&self.0).await;
        *self.0.adoption.lock() = Some(found);
        // Asking engines what they are takes a while, seconds where a GPU's driver wakes up: the first
        // load must not wait for it.
        let shared = Arc::clone(&self.0);
        spawn::detached(async move {
            shared.engines().await;
        });
    }

    /// What was found of an earlier run of the hive, once that has been looked for.
    #[must_use]
    pub fn adoption(&self) -> Option<Adoption> {
        self.0.adoption.lock().clone()
    }

    /// Every worker, oldest first, as last measured; see [`Self::refresh`].
    #[must_use]
    pub fn list(&self) -> Vec<Worker> {
        self.0.registry.all().iter().map(|worker| worker.worker()).collect()
    }

    /// The worker with that process id, as last measured.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound) for every other process.
    pub fn get(&self, pid: u32) -> Result<Worker> {
        Ok(self.0.registry.find(pid)?.worker())
    }

    /// The live workers of a model, from the first moment of their start.
    #[must_use]
    pub fn of_model(&self, model_id: &str) -> Vec<Worker> {
        self.live(model_id).map(|worker| worker.worker()).collect()
    }

    /// Whether a worker answers requests for the model.
    #[must_use]
    pub fn serves(&self, model_id: &str) -> bool {
        self.live(model_id).any(|worker| worker.status().serves())
    }

    /// A worker that answers requests for the model on that device (any, where none is named).
    #[must_use]
    pub fn ready(&self, model_id: &str, device: Option<&Device>) -> Option<Worker> {
        self.live(model_id)
            .find(|worker| worker.status().serves() && device.is_none_or(|device| device.fits(worker.device)))
            .map(|worker| worker.worker())
    }

    /// The worker of the model with the fewest requests in flight, and one more request in flight
    /// there until the endpoint's guard is dropped.
    #[must_use]
    pub fn endpoint(&self, model_id: &str) -> Option<Endpoint> {
        let mut open: Vec<_> = self.live(model_id).filter(|worker| worker.stage() == Stage::Ready).collect();
        open.sort_by_key(|worker| worker.traffic.borrow().in_flight);
        // One that is being closed at this moment lets nobody in any more.
        open.iter().find_map(Handle::enter)
    }

    fn live(&self, model_id: &str) -> impl Iterator<Item = Arc<Handle>> {
        self.0
            .registry
            .all()
            .into_iter()
            .filter(move |worker| worker.model_id == model_id && worker.status().lives())
    }

    /// Measures every live worker now: what its processes use, and what it counts.
    pub async fn refresh(&self) {
        let workers: Vec<_> =
            self.0.registry.all().into_iter().filter(|worker| worker.status().lives()).collect();
        let groups: Vec<u32> = workers.iter().map(|worker| worker.pid).collect();
        let sampler = Arc::clone(&self.0.sampler);
        let usages = spawn::blocking(move || sampler.lock().groups(&groups).clone());
        let counted = join_all(workers.iter().map(|worker| self.count(worker)));
        let (usages, _counted) = tokio::join!(usages, counted);
        // Where sampling panicked, the last values stand.
        let usages = usages.unwrap_or_default();
        for worker in workers {
            if let Some(usage) = usages.get(&worker.pid) {
                worker.measures.lock().usage = *usage;
            }
        }
    }

    /// Asks a worker that answers requests what it has counted.
    async fn count(&self, worker: &Handle) {
        let Some(url) = worker.url().filter(|_| worker.stage() == Stage::Ready) else { return };
        match self.0.client.ask(&url, &worker.engine.health_route).await {
            Ok(Health::Ready(mut counters)) => {
                counters.slots = counters.slots.max(worker.request.slots.unwrap_or(1));
                let measures = &mut worker.measures.lock();
                // An engine that counts for Prometheus alone leaves it out here.
                counters.tokens_generated = counters.tokens_generated.max(measures.counters.tokens_generated);
                measures.counters = counters;
            }
            Ok(Health::Loading(_)) => {}
            Err(error) => tracing::debug!(pid = worker.pid, %error, "a worker did not say how it is"),
        }
        let Some(route) = &worker.engine.metrics_route else { return };
        match self.0.client.tokens_generated(&url, route, &worker.secret).await {
            Ok(tokens) => {
                let counted = &mut worker.measures.lock().counters.tokens_generated;
                *counted = tokens.unwrap_or(0).max(*counted);
            }
            Err(error) => {
                tracing::debug!(pid = worker.pid, %error, "a worker did not say what it has counted");
            }
        }
    }

    pub(super) fn sampler(&self) -> Arc<Mutex<Sampler>> {
        Arc::clone(&self.0.sampler)
    }

    pub(super) fn handles(&self) -> Vec<Arc<Handle>> {
        self.0.registry.all()
    }

    /// Starts a worker and returns it once it is ready. On failure, on `stop`, and where the
    /// future is dropped, nothing of it is left.
    ///
    /// # Errors
    /// [`Code`](crate::error::Code)`::EngineUnavailable`, `DeviceUnavailable`, `WorkerFailed`,
    /// `Timeout`, `Cancelled`, `ShuttingDown`, or whatever the worker itself reported.
    pub async fn start(&self, request: StartRequest, stop: &CancellationToken) -> Result<Worker> {
        let worker = start::start(&self.0, request, 0, stop).await?;
        // Measured for the first time, so that the answer tells what it took.
        self.refresh().await;
        Ok(self.get(worker.pid).unwrap_or(worker))
    }

    /// Says what [`start`](Self::start) would do, and does nothing.
    ///
    /// # Errors
    /// Where no engine or device fits what was asked for.
    pub async fn plan(&self, request: &StartRequest) -> Result<LoadPlan> {
        self.refresh().await;
        let ready = |worker: &Arc<Handle>| worker.status().serves() && request.device.fits(worker.device);
        match self.live(&request.model_id).find(ready) {
            Some(worker) => LoadPlan::of_worker(&self.0, &worker).await,
            None => LoadPlan::of_start(&self.0, request).await,
        }
    }

    /// Stops a worker: it takes no more requests, finishes those in flight, is asked to end and,
    /// after `grace`, killed. Returns once its whole group is gone. A crashed worker leaves the
    /// list. Stopping one that is being stopped waits for the same end; the shorter grace counts.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound) for every other process.
    pub async fn stop(&self, pid: u32, grace: Duration) -> Result<Stopped> {
        let worker = self.0.registry.find(pid)?;
        Ok(self.stop_handle(&worker, grace).await)
    }

    async fn stop_handle(&self, worker: &Handle, grace: Duration) -> Stopped {
        let pid = worker.pid;
        if worker.stage() == Stage::Crashed {
            worker.given_up.cancel();
            if self.0.registry.take(worker) {
                self.0.registry.removed(worker);
            }
            n!("worker_stop", "Worker {pid} had crashed before; it left the list");
            return stopped(worker, worker.ended().await);
        }
        n!("worker_stop", "Stopping worker {pid} of model '{}'", worker.model_id);
        let _wait = waiting_for(format!("worker {pid} to end"));
        let mut states = worker.state.subscribe();
        worker.control(Control::Stop { grace, reason: Reason::User });
        let mut told = Stage::Ready;
        let end = loop {
            let state = *states.borrow_and_update();
            if let Some(end) = state.end {
                break end;
            }
            if told < state.stage {
                told = state.stage;
                narrate_stage(worker, state.stage, grace);
            }
            if states.changed().await.is_err() {
                break worker.ended().await;
            }
        };
        // A kill works so fast that the stage of killing may pass unseen.
        if told < Stage::Killing && end.exit.is_some_and(Exit::killed) {
            narrate_stage(worker, Stage::Killing, grace);
        }
        let stopped = stopped(worker, end);
        if let Some(left) = end.left.sentence(pid) {
            n!(warn: "worker_gone", "{left}");
        } else {
            let how = match end.exit {
                Some(exit) => format!(" ({exit})"),
                None => " (how it ended is unknown: an earlier run of the hive had started it)".to_owned(),
            };
            n!("worker_gone", "Worker {pid} is gone{how} and has freed {}", text::bytes(stopped.freed_bytes));
        }
        stopped
    }

    /// Gives up the crashed workers of a model, so that none of them is started again. Returns
    /// their process ids.
    pub fn give_up(&self, model_id: &str) -> Vec<u32> {
        let crashed: Vec<_> = self.0.registry.all();
        crashed
            .iter()
            .filter(|worker| worker.model_id == model_id && worker.stage() == Stage::Crashed)
            .filter(|worker| {
                worker.given_up.cancel();
                let was_there = self.0.registry.take(worker);
                if was_there {
                    self.0.registry.removed(worker);
                }
                was_there
            })
            .map(|worker| worker.pid)
            .collect()
    }

    /// Takes no more workers and stops all there are, at the same time; leaves those that are ready
    /// running where the settings say so. For the end of the hive, which is no job: it is told to
    /// `tracing` alone.
    pub async fn stop_all(&self, grace: Duration) {
        self.0.closing.cancel();
        let workers = self.0.registry.close();
        let keep = self.0.settings.keep_on_shutdown && !self.0.settings.lifeline;
        let ends = workers.iter().filter(|worker| worker.status().lives()).map(|worker| async {
            if keep && worker.status().serves() {
                worker.control(Control::Release);
                worker.ended().await;
                tracing::info!(pid = worker.pid, "left a worker running for the next start of the hive");
                return;
            }
            worker.control(Control::Stop { grace, reason: Reason::Shutdown });
            let end = worker.ended().await;
            tracing::info!(pid = worker.pid, exit = ?end.exit, left = ?end.left, "stopped a worker");
        });
        join_all(ends).await;
    }

    /// News of workers from now on. A reader that is more than 256 behind gets an error from its
    /// receiver and lists the workers anew.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.registry.news()
    }

    /// The log of a worker, which [`Follower`](super::log_follow::Follower) reads as it grows.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound).
    pub fn log(&self, pid: u32) -> Result<PathBuf> {
        Ok(self.0.registry.find(pid)?.folder.log())
    }

    /// The secret of a worker, which its log must not show to readers.
    ///
    /// # Errors
    /// [`Code::WorkerNotFound`](crate::error::Code::WorkerNotFound).
    pub fn secret(&self, pid: u32) -> Result<Secret, Failure> {
        Ok(self.0.registry.find(pid)?.secret.clone())
    }
}

fn stopped(worker: &Handle, end: End) -> Stopped {
    let usage = worker.measures.lock().usage;
    Stopped {
        pid: worker.pid,
        exit_code: end.exit.and_then(|exit| exit.code),
        signal: end.exit.and_then(Exit::signal),
        freed_bytes: match end.left {
            Left::Nothing => usage.held_bytes(),
            Left::GpuMemory => usage.rss_bytes,
            Left::Processes => 0,
        },
        proven: end.proven(),
    }
}

fn narrate_stage(worker: &Handle, stage: Stage, grace: Duration) {
    let pid = worker.pid;
    match stage {
        Stage::Draining => {
            let count = worker.traffic.borrow().in_flight;
            if count > 0 {
                n!(
                    "worker_drain",
                    "Worker {pid} takes no more requests; waiting up to {} s for {count} in flight",
                    grace.as_secs_f64()
                );
            }
        }
        Stage::Terminating => n!("worker_stop", "Asked worker {pid} to end (SIGTERM)"),
        Stage::Killing => {
            n!(warn: "worker_stop", "Worker {pid} did not end in time and was killed (SIGKILL)");
        }
        Stage::Reclaiming => {
            n!("worker_gpu", "Worker {pid} has ended; waiting for the driver to take its GPU memory back");
        }
        _ => {}
    }
}
