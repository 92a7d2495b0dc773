//! The owner: the one task that carries decisions out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::admission::{AdmissionRules, Admissions, LoadNews};
use super::decide::decide;
use super::ledger::{DrainEntry, Ledger};
use super::measure;
use super::room::Ticket;
use super::snapshot::{
    Action, Beneficiary, Drain, LoadKey, Origin, Rules, Snapshot, StopReason, Waiting, WorkerKey,
};
use crate::config::{Config, KeepAlive, ModelSettings};
use crate::error::{Code, Failure, Result};
use crate::jobs::job::StopReason as JobStop;
use crate::jobs::{Job, JobId, JobState};
use crate::workers::Supervisor;
use crate::{config, spawn};

/// The shortest time between two looks while something asks for memory, because each measures it.
const MEASURE_PAUSE: Duration = Duration::from_millis(5);
/// How often memory is measured that ended workers are to give back.
const MEASURE_AGAIN: Duration = Duration::from_millis(50);
/// The wait before a job that could not be submitted is submitted again.
const SUBMIT_AGAIN: Duration = Duration::from_secs(1);

/// Submits an operation. It is passed in from above, because operations stand above the owner.
pub(crate) type Submit = Box<dyn Fn(&Value) -> Result<Arc<Job>> + Send + Sync>;

/// The residency of one hive. Clones share it.
#[derive(Clone)]
pub(crate) struct Residency(Arc<Inner>);

struct Inner {
    workers: Supervisor,
    ledger: Arc<Ledger>,
    admissions: Admissions,
    rules: Rules,
    settings: config::Residency,
    models: BTreeMap<String, ModelSettings>,
}

impl Residency {
    /// The residency of a hive whose owner does not run yet.
    pub(crate) fn new(config: &Config, workers: Supervisor) -> Self {
        let settings = config.residency.clone();
        let rules = Rules {
            on_demand: settings.on_demand,
            min_stay: *settings.min_stay,
            linger: *settings.linger,
            drain_limit: *settings.drain,
            concurrent_loads: config.jobs.concurrent_loads,
        };
        let ledger = Arc::new(Ledger::new(workers.activity()));
        let admission = AdmissionRules {
            on_demand: settings.on_demand,
            queue: settings.queue.get(),
            retry: *settings.retry,
        };
        let admissions = Admissions::new(workers.clone(), admission, workers.activity());
        Self(Arc::new(Inner { workers, ledger, admissions, rules, settings, models: config.models.clone() }))
    }

    /// Where requests wait for workers.
    pub(crate) fn admissions(&self) -> &Admissions {
        &self.0.admissions
    }

    /// The load of a model begins. Hold the ticket until it has ended.
    pub(crate) fn load(&self, job_id: &JobId, model: &str) -> Ticket {
        let ledger = &self.0.ledger;
        Ticket::new(Arc::clone(ledger), ledger.enter(job_id, model, None))
    }

    /// Decides and carries out until `stop` is cancelled.
    pub(crate) async fn run(self, submit: Submit, stop: CancellationToken) {
        let preloaded = self.0.models.iter().filter(|(_, settings)| settings.preload == Some(true));
        for (model, settings) in preloaded {
            let keep_alive = settings.idle.unwrap_or(KeepAlive::Forever);
            self.submit_load(&submit, model, keep_alive, Origin::Preload, "it is preloaded".to_owned());
        }
        let activity = self.0.workers.activity();
        loop {
            let pause = self.round(&submit).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.0.admissions.close(),
                () = activity.notified() => {}
                () = after(pause) => {}
            }
        }
    }

    /// Decides once and carries the decision out. Returns after how long the next look is due.
    async fn round(&self, submit: &Submit) -> Option<Duration> {
        let Inner { workers, ledger, admissions, rules, .. } = &*self.0;
        admissions.dispatch();
        let demand = || admissions.demand(ledger.epoch());
        let now = measure::snapshot(workers, ledger, rules, |model| self.is_pinned(model), demand).await;
        let decision = decide(&now);
        let mut pause = decision.wake_at.map(|at| at.saturating_sub(now.now));
        for action in decision.actions {
            if let Some(again) = self.carry_out(&now, action, submit) {
                pause = Some(pause.map_or(again, |pause| pause.min(again)));
            }
        }
        if !now.devices.is_empty() {
            tokio::time::sleep(MEASURE_PAUSE).await;
        }
        pause
    }

    /// Carries one action out. Returns after how long to look again, where nothing that happens may tell.
    fn carry_out(&self, now: &Snapshot, action: Action, submit: &Submit) -> Option<Duration> {
        let ledger = &self.0.ledger;
        match action {
            Action::Load { model, because } => {
                let because = because.to_string();
                return self.submit_load(submit, &model, self.idle(&model), Origin::Requests, because);
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
                    tracing::info!(job_id = %job.id(), "cancelling a load: nobody waits for it any more");
                    job.stop(JobStop::Cancel);
                }
            }
            Action::Wait { load, why } => {
                let polls = matches!(why, Waiting::Memory { .. }).then_some(MEASURE_AGAIN);
                if ledger.tell_wait(load, why) {
                    self.tell_those_who_wait(load);
                }
                return polls;
            }
            Action::Drain { worker, by, because } => self.drain(now, worker, by, &because),
            Action::Stop { worker, because } => return self.stop(worker, &because, submit),
            Action::Reopen { worker } => self.reopen(worker),
            // No operation asks for a lease yet.
            Action::GrantLease { .. }
            | Action::RefuseLease { .. }
            | Action::WaitLease { .. }
            | Action::EndLease { .. } => {}
        }
        None
    }

    /// Tells the requests that wait for a model what its load waits for.
    fn tell_those_who_wait(&self, load: LoadKey) {
        let Some(entry) = self.0.ledger.loads().into_iter().find(|entry| entry.key == load) else { return };
        let doing = match &entry.waits_for {
            Some(why) => format!("waiting for {why}"),
            None => format!("loading '{}'", entry.model),
        };
        let job_id = entry.job_id.as_str().into();
        self.0.admissions.tell(&entry.model, Some(LoadNews { job_id, doing, progress: None }));
    }

    fn submit_load(
        &self,
        submit: &Submit,
        model: &str,
        keep_alive: KeepAlive,
        by: Origin,
        because: String,
    ) -> Option<Duration> {
        let load = json!({ "ModelLoad": { "id": model, "keep_alive": keep_alive, "reason": because } });
        match submit(&load) {
            Ok(job) => {
                tracing::info!(model, job_id = %job.id(), "loading a model: {because}");
                let key = self.0.ledger.enter(job.id(), model, Some((by, because, Arc::clone(&job))));
                self.tell_those_who_wait(key);
                let (residency, model) = (self.clone(), model.into());
                spawn::detached(async move {
                    job.ended().await;
                    residency.load_ended(key, &model, &job);
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
                self.0.admissions.fail(&model.into(), Arc::new(failure));
                None
            }
        }
    }

    /// A load that the owner submitted has ended. Whoever waits for its model is told first, so that nobody is
    /// left waiting for a load that is not there.
    fn load_ended(&self, key: LoadKey, model: &Arc<str>, job: &Job) {
        let Inner { ledger, admissions, .. } = &*self.0;
        let summary = job.summary();
        match summary.state {
            JobState::Succeeded => admissions.reset(model),
            JobState::Failed => {
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
        admissions.tell(model, None);
        ledger.job_ended(key);
    }

    fn drain(&self, now: &Snapshot, worker: WorkerKey, by: Beneficiary, because: &StopReason) {
        let Inner { workers, ledger, .. } = &*self.0;
        let Some(resident) = now.workers.iter().find(|resident| resident.key == worker) else { return };
        let Some(worker_id) = workers.drain(worker) else { return };
        let goes = format!("worker {worker} of '{}' goes: {because}", resident.model);
        tracing::info!(pid = worker, model = %resident.model, in_flight = resident.in_flight, "{goes}");
        let drain = Drain { by, since: now.now };
        ledger.drained(&worker_id, DrainEntry { drain, because: because.to_string() });
        if let Beneficiary::Load(load) = by {
            ledger.tell_news(load, goes);
        }
        ledger.wake();
    }

    fn reopen(&self, worker: WorkerKey) {
        let Inner { workers, ledger, .. } = &*self.0;
        if let Some(worker_id) = workers.reopen(worker) {
            ledger.reopened(&worker_id);
            tracing::info!(pid = worker, "a worker that was to go stays");
        }
    }

    /// Ends a worker that is drained and answers no request.
    fn stop(&self, worker: WorkerKey, because: &StopReason, submit: &Submit) -> Option<Duration> {
        let Inner { workers, ledger, .. } = &*self.0;
        let worker_id = workers.drained(worker)?;
        let reason = because.to_string();
        let delete = json!({ "WorkerProcessDelete": { "pid": worker, "reason": reason } });
        match submit(&delete) {
            Ok(job) => {
                tracing::info!(pid = worker, job_id = %job.id(), "ending a worker: {reason}");
                ledger.stopping(&worker_id, Arc::clone(&job));
                let ledger = Arc::clone(ledger);
                spawn::detached(async move {
                    job.ended().await;
                    ledger.stop_ended(&worker_id);
                });
                None
            }
            Err(failure) => {
                tracing::warn!(pid = worker, %failure, "the end of a worker could not be submitted; trying again");
                Some(SUBMIT_AGAIN)
            }
        }
    }

    fn is_pinned(&self, model: &str) -> bool {
        self.0.models.get(model).is_some_and(|settings| settings.pinned == Some(true))
    }

    /// How long a worker of the model that requests loaded stays without one.
    fn idle(&self, model: &str) -> KeepAlive {
        self.0.models.get(model).and_then(|settings| settings.idle).unwrap_or(self.0.settings.idle)
    }
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Residency").field(&self.0.ledger).finish()
    }
}
