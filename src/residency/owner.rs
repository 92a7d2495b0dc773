//! The owner: the one task that carries decisions out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::admission::Admissions;
use super::decide::decide;
use super::forecast::{Forecast, forecast};
use super::lease::LeaseTicket;
use super::leases::{Gone, LeaseRequest, others_on};
use super::ledger::{DrainEntry, Told};
use super::measure::look;
use super::news::News;
use super::parts::{Evictions, Parts};
use super::room::{Denied, Ticket};
use super::snapshot::{
    Action, Beneficiary, Drain, LoadKey, LoadReason, Origin, Placement, Snapshot, StopReason, Waiting,
    WorkerKey,
};
use super::view::ResidencyView;
use crate::config::{Config, KeepAlive};
use crate::error::{Code, Failure, Result};
use crate::events::Hub;
use crate::jobs::job::StopReason as JobStop;
use crate::jobs::{Job, JobState};
use crate::settings::Settings;
use crate::spawn;
use crate::workers::{Asked, StartRequest, Supervisor};

/// The shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(1);
/// The same while something asks for memory, because each measures it.
const MEASURE_PAUSE: Duration = Duration::from_millis(5);
/// How often memory is measured that ended workers are to give back.
const MEASURE_AGAIN: Duration = Duration::from_millis(50);
/// The wait before a job that could not be submitted is submitted again.
const SUBMIT_AGAIN: Duration = Duration::from_secs(1);

/// Submits an operation. It is passed in from above, because operations stand above the owner.
pub(crate) type Submit = Box<dyn Fn(&Value) -> Result<Arc<Job>> + Send + Sync>;

/// The residency of one hive. Clones share it.
#[derive(Clone)]
pub(crate) struct Residency(Arc<Parts>);

impl Residency {
    /// The residency of a hive whose owner does not run yet.
    pub(crate) fn new(config: &Config, workers: Supervisor, models: Settings) -> Self {
        Self(Arc::new(Parts::new(config, workers, models)))
    }

    /// Takes over settings.
    pub(crate) fn reload(&self, settings: &crate::config::Residency) {
        self.0.reload(settings);
    }

    /// Where requests wait for workers.
    pub(crate) fn admissions(&self) -> &Admissions {
        &self.0.admissions
    }

    /// How long a worker of the model that requests load stays without one.
    pub(crate) fn idle(&self, model: &str) -> KeepAlive {
        self.0.idle(model)
    }

    /// The load of a model begins. Hold the ticket until it has ended.
    pub(crate) fn load(&self, job: &Arc<Job>, model: &str) -> Ticket {
        let Parts { ledger, admissions, .. } = &*self.0;
        let entered = ledger.begin(job, model);
        if entered.by_a_person {
            admissions.reset(model);
        }
        Ticket::new(Arc::clone(ledger), entered.key)
    }

    /// Whether a job loads the model, or waits for room for it.
    pub(crate) fn is_loading(&self, model: &str) -> bool {
        self.0.ledger.is_loading(model)
    }

    /// The models that jobs load, or wait for room for.
    pub(crate) fn loading(&self) -> Vec<Arc<str>> {
        self.0.ledger.loading()
    }

    /// What a load would have to wait for, and who would go for it.
    pub(crate) async fn forecast(
        &self,
        model: &str,
        placements: Vec<Placement>,
        replaces: Option<WorkerKey>,
    ) -> Forecast {
        forecast(&self.0, model, placements, replaces).await
    }

    /// What is in memory, who waits, and why.
    pub(crate) async fn view(&self) -> ResidencyView {
        ResidencyView::of(&self.0, &look(&self.0, true).await)
    }

    /// The workers that were ended since the hive started.
    pub(crate) fn evictions(&self) -> Evictions {
        self.0.evictions()
    }

    /// Asks for memory for another program, and waits until it is free.
    pub(crate) async fn lease(
        &self,
        request: LeaseRequest,
        stop: &CancellationToken,
    ) -> Result<GivenLease, Denied> {
        let Parts { ledger, leases, .. } = &*self.0;
        let device = request.device;
        let (key, told) = leases.ask(request, ledger.now());
        let ticket = LeaseTicket::new(Arc::clone(&self.0), key);
        ledger.wake();
        let lease = ticket.given(told, stop).await?;
        let now = look(&self.0, true).await.now;
        let memory = now.devices.iter().find(|memory| memory.device == device);
        let lasts = lease.held.map_or(lease.request.lasts, |held| held.expires_at.saturating_sub(now.now));
        Ok(GivenLease {
            id: lease.id,
            lasts,
            gone: lease.gone,
            free: memory.and_then(|memory| memory.free).unwrap_or(0),
        })
    }

    /// Ends a lease. Returns what comes back.
    ///
    /// # Errors
    /// [`Code::LeaseNotFound`].
    pub(crate) fn release(&self, id: &str) -> Result<Vec<Gone>> {
        let released = self.0.leases.release(id)?;
        self.0.ledger.wake();
        Ok(released.gone)
    }

    /// Decides and carries out until `stop` is cancelled.
    pub(crate) async fn run(self, submit: Submit, hub: Arc<Hub>, stop: CancellationToken) {
        let preloaded = self.0.preloaded().into_iter().map(|(model, keep_alive)| Wanted {
            operation: model_load(&model, keep_alive, "it is preloaded"),
            model,
            by: Origin::Preload,
            because: "it is preloaded",
        });
        let wanted = preloaded.collect();
        let mut changes = self.0.models.changes();
        let mut owner = Owner { parts: self.0, submit, news: News::new(hub), wanted };
        let activity = owner.parts.workers.activity();
        loop {
            let pause = owner.load_what_is_wanted();
            let pause = sooner(pause, owner.round().await);
            tokio::select! {
                biased;
                () = stop.cancelled() => return owner.parts.admissions.close(),
                () = activity.notified() => {}
                Ok(()) = changes.changed() => owner.parts.admissions.reset_all(),
                () = after(pause) => {}
            }
        }
    }
}

impl fmt::Debug for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Residency").field(&self.0.ledger).finish()
    }
}

/// What the task holds.
struct Owner {
    parts: Arc<Parts>,
    submit: Submit,
    news: News,
    /// The loads that are still to be submitted.
    wanted: Vec<Wanted>,
}

/// A load that the owner is to submit.
struct Wanted {
    model: String,
    by: Origin,
    because: &'static str,
    operation: Value,
}

/// A lease that was given.
#[derive(Debug)]
pub(crate) struct GivenLease {
    pub(crate) id: String,
    /// For how long from now.
    pub(crate) lasts: Duration,
    /// What went for it.
    pub(crate) gone: Vec<Gone>,
    /// What is free on its device.
    pub(crate) free: u64,
}

impl Owner {
    /// Submits the loads of the start, and of what went for leases that have ended. Returns after how long to try
    /// again what could not be submitted.
    fn load_what_is_wanted(&mut self) -> Option<Duration> {
        let because = "the memory that it made room for is free again";
        let gone = self.parts.leases.take_to_restore().into_iter();
        self.wanted.extend(gone.map(|gone| Wanted {
            model: gone.model,
            by: Origin::Restore,
            because,
            operation: gone.restore,
        }));
        let wanted = std::mem::take(&mut self.wanted);
        let is_left =
            |load: &Wanted| self.load(&load.model, load.by, load.because, &load.operation).is_some();
        self.wanted = wanted.into_iter().filter(is_left).collect();
        (!self.wanted.is_empty()).then_some(SUBMIT_AGAIN)
    }

    /// Decides once and carries the decision out. Returns after how long the next look is due.
    async fn round(&mut self) -> Option<Duration> {
        self.parts.admissions.dispatch();
        let look = look(&self.parts, false).await;
        let decision = decide(&look.now);
        let mut pause = decision.wake_at.map(|at| at.saturating_sub(look.now.now));
        for action in decision.actions {
            pause = sooner(pause, self.carry_out(&look.now, action));
        }
        pause = sooner(pause, self.news.tell(&self.parts, &look));
        // After it has acted: a lone request is not held up, and many do not cause a round each.
        tokio::time::sleep(if look.now.devices.is_empty() { PAUSE } else { MEASURE_PAUSE }).await;
        pause
    }

    /// Carries one action out. Returns after how long to look again, where nothing that happens may tell.
    fn carry_out(&self, now: &Snapshot, action: Action) -> Option<Duration> {
        let Parts { ledger, leases, .. } = &*self.parts;
        match action {
            Action::Load { model, because } => {
                let (by, reason) = (because.origin(), because.to_string());
                let operation = match because {
                    LoadReason::SettingsChanged => self.load_again(now, &model, &reason)?,
                    LoadReason::Requests(_) => model_load(&model, self.parts.idle(&model), &reason),
                };
                // The load belongs to the trace of the request that has waited longest for it.
                let span = self.parts.admissions.span(&model);
                return span.in_scope(|| self.load(&model, by, &reason, &operation));
            }
            Action::Grant { load, placement } => {
                if ledger.grant(load, placement) {
                    tracing::debug!(load, placement, "granted room to a load");
                }
            }
            Action::Refuse { load, why } => {
                let because = why.to_string();
                if ledger.refuse(load, why) {
                    tracing::info!(load, "refused room to a load: {because}");
                }
            }
            Action::Cancel { load } => {
                if let Some(job) = ledger.needless(load) {
                    tracing::info!(job_id = %job.id(), "cancelling a load that nobody needs any more");
                    job.stop(JobStop::Cancel);
                }
            }
            Action::Wait { load, why } => {
                let is_for_memory = matches!(why, Waiting::Memory { .. });
                ledger.tell_wait(load, why);
                return is_for_memory.then_some(MEASURE_AGAIN);
            }
            Action::Drain { worker, by, because } => self.drain(now, worker, by, &because),
            Action::Stop { worker, because } => return self.stop(now, worker, &because),
            Action::Reopen { worker } => self.reopen(worker),
            Action::GrantLease { lease } => {
                let device = leases.get(lease).map(|lease| lease.request.device)?;
                leases.grant(lease, now.now, others_on(device, &now.devices, &now.workers).unwrap_or(0));
                // Its expiry is still to be waited for.
                ledger.wake();
            }
            Action::RefuseLease { lease, why } => leases.refuse(lease, why),
            Action::WaitLease { lease, why } => {
                let is_for_memory = matches!(why, Waiting::Memory { .. });
                leases.tell_wait(lease, why);
                return is_for_memory.then_some(MEASURE_AGAIN);
            }
            Action::EndLease { lease } => {
                if let Some(ended) = leases.end(|other| other.key == lease) {
                    tracing::info!(lease_id = ended.id, "a lease of memory has expired");
                    ledger.wake();
                }
            }
        }
        None
    }

    /// The operation that loads a model with its changed settings. What its worker was asked for stays, and how
    /// long it stays.
    fn load_again(&self, now: &Snapshot, model: &Arc<str>, because: &str) -> Option<Value> {
        let is_outdated =
            |key: WorkerKey| now.workers.iter().any(|worker| worker.key == key && worker.outdated);
        let workers = self.parts.workers.residents();
        let old = workers.into_iter().find(|worker| *worker.model == **model && is_outdated(worker.pid))?;
        Some(model_load_as(model, &old.request.asked, old.keep_alive, because))
    }

    /// Submits the load of a model that no operation asked for. Returns after how long to try it again.
    fn load(&self, model: &str, by: Origin, because: &str, operation: &Value) -> Option<Duration> {
        let Parts { ledger, admissions, .. } = &*self.parts;
        let settings = self.parts.settings_version();
        match ledger.submit(model, by, because, || (self.submit)(operation)) {
            Ok((key, job)) => {
                tracing::info!(model, job_id = %job.id(), "loading a model: {because}");
                let (parts, model) = (Arc::clone(&self.parts), model.into());
                spawn::detached(async move {
                    job.ended().await;
                    load_ended(&parts, key, &model, &job, settings);
                });
                None
            }
            // A full queue has room again, and a hive that stops answers its requests itself.
            Err(failure) if matches!(failure.code, Code::QueueFull | Code::ShuttingDown) => {
                tracing::debug!(model, %failure, "a load is submitted again later");
                Some(SUBMIT_AGAIN)
            }
            Err(failure) => {
                tracing::warn!(model, %failure, "a load could not be submitted");
                admissions.fail(&model.into(), Arc::new(failure));
                None
            }
        }
    }

    fn drain(&self, now: &Snapshot, worker: WorkerKey, by: Beneficiary, because: &StopReason) {
        let Parts { workers, ledger, leases, .. } = &*self.parts;
        let Some(resident) = now.workers.iter().find(|resident| resident.key == worker) else { return };
        let Some(worker_id) = workers.drain(worker) else { return };
        let goes = format!("worker {worker} of '{}' goes: {because}", resident.model);
        tracing::info!(pid = worker, model = %resident.model, in_flight = resident.in_flight, "{goes}");
        let drain = Drain { by, since: now.now };
        ledger.drained(&worker_id, DrainEntry { drain, because: because.to_string() });
        match by {
            Beneficiary::Load(load) => ledger.tell_news(load, goes),
            Beneficiary::Lease(lease) => leases.tell(lease, Told::News(goes)),
            Beneficiary::Idle => {}
        }
        ledger.wake();
    }

    /// Notes what brings a worker back that goes for a lease.
    fn note_cost(&self, now: &Snapshot, worker: WorkerKey) {
        let Some(resident) = now.workers.iter().find(|resident| resident.key == worker) else { return };
        let Some(Drain { by: Beneficiary::Lease(lease), .. }) = resident.draining else { return };
        let Some(start) = self.parts.workers.start_of(worker) else { return };
        let restore = start_again(&resident.model, &start);
        self.parts.leases.has_cost(lease, Gone { model: resident.model.to_string(), pid: worker, restore });
    }

    fn reopen(&self, worker: WorkerKey) {
        let Parts { workers, ledger, .. } = &*self.parts;
        if let Some(worker_id) = workers.reopen(worker) {
            ledger.reopened(&worker_id);
            tracing::info!(pid = worker, "a worker that was to go stays");
        }
    }

    /// Ends a worker, if it is drained and answers no request. Returns after how long to try it again.
    fn stop(&self, now: &Snapshot, worker: WorkerKey, because: &StopReason) -> Option<Duration> {
        let Parts { workers, ledger, .. } = &*self.parts;
        let worker_id = workers.drained(worker)?;
        let delete = json!({ "WorkerProcessDelete": { "pid": worker, "reason": because.to_string() } });
        match (self.submit)(&delete) {
            Ok(job) => {
                tracing::info!(pid = worker, job_id = %job.id(), "ending a worker: {because}");
                ledger.stopping(&worker_id, Arc::clone(&job));
                self.parts.evicted(because);
                self.note_cost(now, worker);
                let ledger = Arc::clone(ledger);
                spawn::detached(async move {
                    job.ended().await;
                    ledger.stop_ended(&worker_id);
                });
                None
            }
            Err(failure) => {
                tracing::warn!(pid = worker, %failure, "the end of a worker is submitted again later");
                Some(SUBMIT_AGAIN)
            }
        }
    }
}

/// A load that the owner submitted has ended. Whoever waits for its model is told first, so that nobody is left
/// waiting for a load that is not there. `settings` is the version of the settings that it was submitted with.
fn load_ended(parts: &Parts, key: LoadKey, model: &Arc<str>, job: &Job, settings: u64) {
    let Parts { ledger, admissions, .. } = parts;
    let summary = job.summary();
    match summary.state {
        JobState::Succeeded => admissions.reset(model),
        JobState::Failed => {
            parts.note_unloadable(model, settings);
            let lost = || Arc::new(Failure::internal("the load failed without a reason"));
            admissions.fail(model, summary.failure.unwrap_or_else(lost));
        }
        _ if ledger.is_needless(key) => {}
        _ => {
            let failure = Failure::new(Code::Cancelled, format!("the load of '{model}' was cancelled"))
                .hint("somebody cancelled its job: ask again to load the model");
            admissions.fail(model, Arc::new(failure));
        }
    }
    ledger.job_ended(key);
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// The operation that loads a model.
fn model_load(model: &str, keep_alive: KeepAlive, because: &str) -> Value {
    json!({ "ModelLoad": { "id": model, "keep_alive": keep_alive, "reason": because } })
}

/// The operation that loads a model as somebody has asked for it. What nobody named is the settings' to say.
fn model_load_as(model: &str, asked: &Asked, keep_alive: KeepAlive, because: &str) -> Value {
    let mut operation = model_load(model, keep_alive, because);
    let load = &mut operation["ModelLoad"];
    load["device"] = json!(asked.device.unwrap_or_default());
    load["context_length"] = json!(asked.context_length);
    load["slots"] = json!(asked.slots);
    operation
}

/// The operation that starts such a worker again.
fn start_again(model: &str, start: &StartRequest) -> Value {
    let Asked { engine, device, context_length, slots } = &start.asked;
    let Some(engine) = engine else {
        return model_load_as(model, &start.asked, start.keep_alive, "its room is free again");
    };
    let mut operation = json!({ "WorkerSpawn": { "model": model, "worker": engine,
                                                 "context_length": context_length, "slots": slots } });
    if let Some(device) = device {
        operation["WorkerSpawn"]["device"] = json!(device);
    }
    operation
}
