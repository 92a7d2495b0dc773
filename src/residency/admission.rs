//! Admission: which request gets a worker now, which waits, and which is refused.
//!
//! A request for a model whose worker has a free slot gets it at once, unless others wait for that model. Else
//! it waits in the [queue](super::queue). Whoever frees a slot hands it to the next one ([`Slot`]). What else
//! makes slots free, such as a worker that becomes ready, wakes the owner, which
//! [dispatches](Admissions::dispatch).
//!
//! A failed load fails all that wait for it, and for a while, the cool-down, what comes after, so that a
//! model that cannot be loaded is not loaded again for each request. The cool-down doubles with each failure
//! in a row.
//!
//! Invariants:
//! - A request that waits gets an endpoint, or is told why not, or has left by itself. None is forgotten: what
//!   nobody would ever serve is refused ([`Admissions::dispatch`]).
//! - A slot that was handed to a request that is gone is free again: its endpoint counts as a request that has
//!   ended, which wakes the owner.
//! - The lock is held for a few microseconds, never across an await, and nothing under it takes it again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot, watch};
use tracing::Span;

use super::queue::{Place, Pushed, Queue, Ticket};
use super::refusal::{self, Refused};
use super::snapshot::Demand;
use crate::error::Failure;
use crate::narration::Progress;
use crate::time::{self, monotonic};
use crate::workers::{Endpoint, InFlight, Preference, Supervisor};

/// The longest cool-down after a failed load.
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(60);

/// The settings of admission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionRules {
    /// Whether a request loads its model.
    pub(crate) on_demand: bool,
    /// The most requests that wait.
    pub(crate) queue: usize,
    /// How long after a failed load the next one is tried; it doubles with each failure in a row.
    pub(crate) retry: Duration,
}

/// The admissions of one hive. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Admissions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    workers: Supervisor,
    rules: RwLock<AdmissionRules>,
    /// Wakes the owner.
    wake: Arc<Notify>,
    state: Mutex<State>,
    /// Tells those who show where they stand that something has changed.
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Entry>,
    /// What the load of each model that is being loaded does.
    loads: HashMap<Arc<str>, LoadNews>,
    cool_downs: HashMap<Arc<str>, CoolDown>,
    /// Whether the hive is stopping.
    is_closed: bool,
}

/// A request that waits.
#[derive(Debug)]
struct Entry {
    preference: Preference,
    /// Its wait, for traces.
    span: Span,
    since: time::Instant,
    /// The last job that it has waited for.
    job_id: Option<Arc<str>>,
    outcome: oneshot::Sender<Settled>,
}

/// A model whose load has failed.
#[derive(Debug)]
struct CoolDown {
    failure: Arc<Failure>,
    until: Instant,
    pause: Duration,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    /// The id of what is served.
    pub(crate) model: Arc<str>,
    pub(crate) caller: Arc<str>,
    pub(crate) preference: Preference,
}

/// What a load does, for those who wait for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoadNews {
    pub(crate) job_id: Arc<str>,
    /// What it does or waits for, in words: `loading 'x'`, `waiting for worker 7 to finish its answers`.
    pub(crate) doing: String,
    pub(crate) progress: Option<Progress>,
}

/// A request that may go on, now or later.
#[derive(Debug)]
pub(crate) enum Admission {
    Now(Endpoint),
    Waiting(Waiter),
}

/// The slot that a request has of its worker. Once it is dropped, the next request has it.
#[derive(Debug)]
#[must_use = "the request counts as ended when the slot is dropped"]
pub(crate) struct Slot {
    /// Unset while it is dropped.
    in_flight: Option<InFlight>,
    admissions: Admissions,
    model: Arc<str>,
}

/// The end of a wait.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) outcome: Result<Endpoint, Refused>,
    /// The load that it has waited for.
    pub(crate) job_id: Option<Arc<str>>,
}

/// A place in the queue. Await it for the end of the wait; dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiter {
    outcome: oneshot::Receiver<Settled>,
    watch: Watch,
}

/// Shows where a request stands that waits.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    admissions: Admissions,
    ticket: Ticket,
    changes: watch::Receiver<()>,
}

/// Where a request stands that waits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wait {
    pub(crate) place: Place,
    /// What the load of its model does, if one is under way.
    pub(crate) load: Option<LoadNews>,
}

/// The requests that wait for one model.
#[derive(Clone, Debug)]
pub(crate) struct WaitingLine {
    pub(crate) model: Arc<str>,
    pub(crate) waiting: usize,
    pub(crate) oldest_since: time::Instant,
    /// The load that they wait for.
    pub(crate) job_id: Option<Arc<str>>,
    /// The callers and how many of their requests wait; the next one first.
    pub(crate) callers: Vec<(Arc<str>, usize)>,
}

impl Admissions {
    /// Admissions to these workers. `wake` wakes whoever calls [`dispatch`](Self::dispatch).
    pub(crate) fn new(workers: Supervisor, rules: AdmissionRules, wake: Arc<Notify>) -> Self {
        let state = State {
            queue: Queue::new(rules.queue),
            loads: HashMap::new(),
            cool_downs: HashMap::new(),
            is_closed: false,
        };
        let (state, changes) = (Mutex::new(state), watch::Sender::new(()));
        Self(Arc::new(Inner { workers, rules: RwLock::new(rules), wake, state, changes }))
    }

    /// Takes over other rules, for the requests to come. The length of the queue stays.
    pub(crate) fn reload(&self, rules: AdmissionRules) {
        *self.0.rules.write() = rules;
    }

    fn rules(&self) -> AdmissionRules {
        *self.0.rules.read()
    }

    /// Admits a request for a model of the catalog.
    ///
    /// # Errors
    /// The queue is full, or nobody would serve it.
    pub(crate) fn admit(&self, asking: &Asking) -> Result<Admission, Refused> {
        let Inner { workers, wake, changes, .. } = &*self.0;
        let mut state = self.0.state.lock();
        let Asking { model, caller, preference } = asking;
        if state.queue.has_none(model)
            && let Some(endpoint) = workers.endpoint(model, preference)
        {
            return Ok(Admission::Now(endpoint));
        }
        if let Some(refused) = self.refusal(&state, model) {
            return Err(refused);
        }
        let (sender, outcome) = oneshot::channel();
        let entry = Entry {
            preference: preference.clone(),
            span: Span::current(),
            since: time::Instant::now(),
            job_id: state.loads.get(model).map(|news| Arc::clone(&news.job_id)),
            outcome: sender,
        };
        let full = || Refused::from(refusal::queue_full(self.rules().queue));
        let ticket = match state.queue.push(model, caller, entry) {
            Pushed::Waits { ticket, displaced } => {
                if let Some(displaced) = displaced {
                    displaced.settle(Err(full()));
                }
                ticket
            }
            Pushed::Full(_) => return Err(full()),
        };
        drop(state);
        wake.notify_one();
        changes.send_replace(());
        let watch = Watch { admissions: self.clone(), ticket, changes: changes.subscribe() };
        Ok(Admission::Waiting(Waiter { outcome, watch }))
    }

    /// Hands free slots to those whose turn it is, and refuses those whom nobody would serve.
    pub(crate) fn dispatch(&self) {
        let mut state = self.0.state.lock();
        let models: Vec<_> = state.queue.models().cloned().collect();
        let mut has_changed = false;
        for model in models {
            has_changed |= self.serve_line(&mut state, &model);
        }
        drop(state);
        if has_changed {
            self.0.changes.send_replace(());
        }
    }

    /// The slot of a request that was admitted.
    pub(crate) fn slot(&self, model: &Arc<str>, in_flight: InFlight) -> Slot {
        Slot { in_flight: Some(in_flight), admissions: self.clone(), model: Arc::clone(model) }
    }

    /// Hands a slot of the model on that is free.
    fn slot_is_free(&self, model: &Arc<str>) {
        let mut state = self.0.state.lock();
        let has_changed = self.serve_line(&mut state, model);
        drop(state);
        if has_changed {
            self.0.changes.send_replace(());
        }
    }

    /// Serves the line of one model as far as there are slots; returns whether anybody left it.
    fn serve_line(&self, state: &mut State, model: &Arc<str>) -> bool {
        let mut has_changed = false;
        while let Some(next) = state.queue.next(model) {
            let Some(endpoint) = self.0.workers.endpoint(model, &next.preference) else {
                let Some(refused) = self.refusal(state, model) else { break };
                for entry in state.queue.remove_line(model) {
                    entry.settle(Err(refused.clone()));
                }
                return true;
            };
            if let Some(entry) = state.queue.pop(model) {
                // If its request is gone, the endpoint is dropped here, and its slot is the next one's.
                entry.settle(Ok(endpoint));
            }
            has_changed = true;
        }
        has_changed
    }

    /// Why nobody would serve a request for the model that waits from now on.
    fn refusal(&self, state: &State, model: &Arc<str>) -> Option<Refused> {
        if state.is_closed {
            return Some(refusal::shutting_down().into());
        }
        let statuses = self.0.workers.statuses(model);
        if statuses.iter().any(|(_, status)| status.serves()) {
            return None;
        }
        let now = monotonic();
        if let Some(CoolDown { failure, until, .. }) = state.cool_downs.get(model)
            && now < *until
        {
            let failure = Arc::clone(failure);
            return Some(Refused::Load { failure, again_in: *until - now });
        }
        if state.loads.contains_key(model) {
            return None;
        }
        if let Some(pid) = refusal::hung(&statuses) {
            return Some(refusal::does_not_respond(model, pid).into());
        }
        let is_nobodys = !self.rules().on_demand && statuses.is_empty();
        is_nobodys.then(|| refusal::not_loaded(model, &self.0.workers.list()).into())
    }

    /// The models that requests wait for. Times count from `epoch`.
    pub(crate) fn demand(&self, epoch: Instant) -> Vec<Demand> {
        let state = self.0.state.lock();
        let demand = state.queue.lines().map(|line| Demand {
            model: Arc::clone(line.model),
            waiting: line.waiting,
            not_before: state
                .cool_downs
                .get(line.model)
                .map(|cool_down| cool_down.until.saturating_duration_since(epoch)),
        });
        demand.collect()
    }

    /// The requests that wait, by model.
    pub(crate) fn lines(&self) -> Vec<WaitingLine> {
        let state = self.0.state.lock();
        let lines = state.queue.lines().map(|line| WaitingLine {
            model: Arc::clone(line.model),
            waiting: line.waiting,
            oldest_since: line.oldest.since,
            job_id: state.loads.get(line.model).map(|news| Arc::clone(&news.job_id)),
            callers: line.callers.into_iter().map(|(caller, held)| (Arc::clone(caller), held)).collect(),
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort_by(|a, b| a.model.cmp(&b.model));
        lines
    }

    /// The wait of the first request for a model, for traces.
    pub(crate) fn span(&self, model: &str) -> Span {
        let state = self.0.state.lock();
        let mut lines = state.queue.lines();
        lines.find(|line| **line.model == *model).map_or_else(Span::none, |line| line.oldest.span.clone())
    }

    /// The most requests that wait.
    pub(crate) fn limit(&self) -> usize {
        self.rules().queue
    }

    /// Tells those who wait for a model what its load does; `None` once it has ended.
    pub(crate) fn tell(&self, model: &Arc<str>, news: Option<LoadNews>) {
        let mut state = self.0.state.lock();
        let before = match &news {
            Some(news) => state.loads.insert(Arc::clone(model), news.clone()),
            None => state.loads.remove(model),
        };
        if let Some(LoadNews { job_id, .. }) = &news
            && before.as_ref().is_none_or(|before| before.job_id != *job_id)
        {
            for entry in state.queue.all_of(model) {
                entry.job_id = Some(Arc::clone(job_id));
            }
        }
        drop(state);
        if before != news {
            self.0.changes.send_replace(());
        }
    }

    /// A load of the model has failed: those who wait for it are told, and so is who comes during the
    /// cool-down. Where a worker serves the model all the same, they go on waiting for that one.
    pub(crate) fn fail(&self, model: &Arc<str>, failure: Arc<Failure>) {
        let mut state = self.0.state.lock();
        let pause = state.cool_downs.get(model).map_or(self.rules().retry, |before| {
            before.pause.saturating_mul(2).min(LONGEST_COOL_DOWN.max(self.rules().retry))
        });
        let cool_down = CoolDown { failure, until: monotonic() + pause, pause };
        state.cool_downs.insert(Arc::clone(model), cool_down);
        let has_changed = self.serve_line(&mut state, model);
        drop(state);
        if has_changed {
            self.0.changes.send_replace(());
        }
    }

    /// Every model may be loaded again at once: settings have changed.
    pub(crate) fn reset_all(&self) {
        self.0.state.lock().cool_downs.clear();
        self.0.wake.notify_one();
    }

    /// The model may be loaded again at once: a load has succeeded, or somebody asks for one, or its settings
    /// have changed.
    pub(crate) fn reset(&self, model: &str) {
        self.0.state.lock().cool_downs.remove(model);
        self.0.wake.notify_one();
    }

    /// The hive is stopping: nothing waits any more.
    pub(crate) fn close(&self) {
        let mut state = self.0.state.lock();
        state.is_closed = true;
        let models: Vec<_> = state.queue.models().cloned().collect();
        for entry in models.iter().flat_map(|model| state.queue.remove_line(model)) {
            entry.settle(Err(refusal::shutting_down().into()));
        }
        drop(state);
        self.0.changes.send_replace(());
    }

    /// Takes a request out that is gone.
    fn leave(&self, ticket: &Ticket) {
        let entry = self.0.state.lock().queue.remove(ticket);
        if entry.is_some() {
            self.0.wake.notify_one();
            self.0.changes.send_replace(());
        }
    }

    fn wait(&self, ticket: &Ticket) -> Option<Wait> {
        let state = self.0.state.lock();
        let place = state.queue.place(ticket)?;
        Some(Wait { place, load: state.loads.get(ticket.model()).cloned() })
    }
}

impl Entry {
    fn settle(self, outcome: Result<Endpoint, Refused>) {
        let _gone = self.outcome.send(Settled { outcome, job_id: self.job_id });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.in_flight.take());
        self.admissions.slot_is_free(&self.model);
    }
}

impl Waiter {
    /// Shows where it stands.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

impl Future for Waiter {
    type Output = Settled;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Settled> {
        Pin::new(&mut self.outcome).poll(cx).map(|settled| {
            // Impossible: an entry that leaves the queue is settled.
            let lost = || Failure::internal("a request was lost in the queue").into();
            settled.unwrap_or_else(|_| Settled { outcome: Err(lost()), job_id: None })
        })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.watch.admissions.leave(&self.watch.ticket);
    }
}

impl Watch {
    /// Where the request stands; `None` once it does not wait any more.
    pub(crate) fn wait(&self) -> Option<Wait> {
        self.admissions.wait(&self.ticket)
    }

    /// The same; what follows is a [change](Self::changed).
    pub(crate) fn look(&mut self) -> Option<Wait> {
        self.changes.borrow_and_update();
        self.wait()
    }

    /// Waits until something has changed since the last look, which may concern others only.
    pub(crate) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // Impossible: it holds the sender.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
