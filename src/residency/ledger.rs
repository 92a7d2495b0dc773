//! The books of the owner: the loads from their submission to their end, the workers that it drained, and those
//! that a job of its ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::snapshot::{Drain, Load, LoadKey, LoadPhase, Origin, Placement, Refusal, Waiting, WorkerKey};
use crate::error::Result;
use crate::jobs::Job;
use crate::time::monotonic;

/// The books. Everything that changes them wakes the owner.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Held for short work in memory alone.
    books: Mutex<Books>,
    next_load: AtomicU64,
    started: Instant,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Books {
    loads: Vec<LoadEntry>,
    /// By the ids of the workers, which are never used twice.
    drains: HashMap<String, DrainEntry>,
    /// The jobs that end workers, by the ids of the workers.
    stops: HashMap<String, Arc<Job>>,
    /// The model whose load the owner is submitting.
    submitting: Option<Arc<str>>,
}

/// A load that its job has entered.
pub(super) struct Entered {
    pub(super) key: LoadKey,
    /// Whether it was not the owner who submitted it.
    pub(super) by_a_person: bool,
}

/// A load that has not ended.
#[derive(Clone, Debug)]
pub(super) struct LoadEntry {
    pub(super) key: LoadKey,
    pub(super) job: Arc<Job>,
    pub(super) model: Arc<str>,
    pub(super) by: Origin,
    pub(super) since: Duration,
    /// Why it is loaded, in a sentence.
    pub(super) because: String,
    pub(super) phase: LoadPhase,
    /// What it waits for.
    pub(super) waits_for: Option<Waiting>,
    /// Whether the owner submitted the job. The load then lasts until the end of the job.
    is_submitted: bool,
    /// Whether the owner has cancelled it because nobody needs it any more.
    pub(super) is_needless: bool,
    /// Whether its job runs and holds a ticket.
    has_ticket: bool,
    told: Option<mpsc::UnboundedSender<Told>>,
}

/// What a load is told that asks for room.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Something was done for it.
    News(String),
    /// It waits for this.
    Waits(String),
    /// It may start its worker, at this one of its placements.
    Granted(usize),
    Refused(Refusal),
}

/// A worker that was drained.
#[derive(Clone, Debug)]
pub(super) struct DrainEntry {
    pub(super) drain: Drain,
    /// For whom and why, in a sentence.
    pub(super) because: String,
}

impl Ledger {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self { books: Mutex::default(), next_load: AtomicU64::new(1), started: monotonic(), wake }
    }

    /// The moment from which decisions count time.
    pub(super) const fn epoch(&self) -> Instant {
        self.started
    }

    /// The moment, as decisions count time.
    pub(super) fn at(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }

    pub(super) fn now(&self) -> Duration {
        self.at(monotonic())
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Submits a load of the owner's and enters it.
    ///
    /// # Errors
    /// Those of `submit`.
    pub(super) fn submit(
        &self,
        model: &str,
        by: Origin,
        because: &str,
        submit: impl FnOnce() -> Result<Arc<Job>>,
    ) -> Result<(LoadKey, Arc<Job>)> {
        // The job may begin before it is known here which one it is.
        self.books.lock().submitting = Some(model.into());
        let submitted = submit();
        let mut books = self.books.lock();
        books.submitting = None;
        let job = submitted?;
        let load = self.entry(&mut books, &job, model);
        (load.by, load.because, load.is_submitted) = (by, because.to_owned(), true);
        let key = load.key;
        drop(books);
        self.wake();
        Ok((key, job))
    }

    /// The job of a load begins.
    pub(super) fn begin(&self, job: &Arc<Job>, model: &str) -> Entered {
        let mut books = self.books.lock();
        let is_being_submitted = books.submitting.as_deref() == Some(model);
        let load = self.entry(&mut books, job, model);
        load.has_ticket = true;
        let entered = Entered { key: load.key, by_a_person: !load.is_submitted && !is_being_submitted };
        drop(books);
        self.wake();
        entered
    }

    /// The entry of that job, which is made where it is not there.
    fn entry<'a>(&self, books: &'a mut Books, job: &Arc<Job>, model: &str) -> &'a mut LoadEntry {
        let entered = books.loads.iter().position(|load| load.job.id() == job.id());
        let place = entered.unwrap_or_else(|| {
            books.loads.push(LoadEntry {
                key: self.next_load.fetch_add(1, Ordering::Relaxed),
                job: Arc::clone(job),
                model: model.into(),
                by: Origin::Person,
                since: self.now(),
                because: "an operation asked for it".to_owned(),
                phase: LoadPhase::Submitted,
                waits_for: None,
                is_submitted: false,
                is_needless: false,
                has_ticket: false,
                told: None,
            });
            books.loads.len() - 1
        });
        &mut books.loads[place]
    }

    /// The load asks for room. Returns what it is told from now on.
    pub(super) fn ask(
        &self,
        key: LoadKey,
        placements: Vec<Placement>,
        replaces: Option<WorkerKey>,
    ) -> mpsc::UnboundedReceiver<Told> {
        let (told, receiver) = mpsc::unbounded_channel();
        self.change(key, |load| {
            load.phase = LoadPhase::Asking { placements, replaces };
            load.told = Some(told);
        });
        self.wake();
        receiver
    }

    /// Takes back what the load asked for or was granted.
    pub(super) fn withdraw(&self, key: LoadKey) {
        self.change(key, LoadEntry::withdraw);
        self.wake();
    }

    /// The job of the load gives its ticket back.
    pub(super) fn close(&self, key: LoadKey) {
        self.change(key, |load| {
            load.has_ticket = false;
            load.withdraw();
        });
        self.forget_ended();
    }

    /// The job of the load has ended.
    pub(super) fn job_ended(&self, key: LoadKey) {
        self.change(key, |load| load.is_submitted = false);
        self.forget_ended();
    }

    /// Whether the owner has cancelled the load because nobody needs it any more.
    pub(super) fn is_needless(&self, key: LoadKey) -> bool {
        self.change(key, |load| load.is_needless).unwrap_or(false)
    }

    fn forget_ended(&self) {
        self.books.lock().loads.retain(|load| load.has_ticket || load.is_submitted);
        self.wake();
    }

    fn change<R>(&self, key: LoadKey, change: impl FnOnce(&mut LoadEntry) -> R) -> Option<R> {
        self.books.lock().loads.iter_mut().find(|load| load.key == key).map(change)
    }

    /// Grants the load one of its placements. Returns whether it asked.
    pub(super) fn grant(&self, key: LoadKey, placement: usize) -> bool {
        let granted = self.change(key, |load| {
            let LoadPhase::Asking { placements, .. } = &load.phase else { return false };
            let Some(granted) = placements.get(placement) else { return false };
            load.phase = LoadPhase::Granted { needs: granted.needs.clone() };
            load.waits_for = None;
            load.tell(Told::Granted(placement));
            true
        });
        granted.unwrap_or(false)
    }

    /// Refuses the load. Returns whether it asked.
    pub(super) fn refuse(&self, key: LoadKey, why: Refusal) -> bool {
        let refused = self.change(key, |load| {
            let asked = matches!(load.phase, LoadPhase::Asking { .. });
            if asked {
                load.tell(Told::Refused(why));
                load.withdraw();
            }
            asked
        });
        refused.unwrap_or(false)
    }

    /// Tells a load that asks what it waits for, unless it was told that already.
    pub(super) fn tell_wait(&self, key: LoadKey, why: Waiting) {
        self.change(key, |load| {
            let is_new = !load.waits_for.as_ref().is_some_and(|waiting| waiting.is_like(&why));
            if is_new && matches!(load.phase, LoadPhase::Asking { .. }) {
                load.tell(Told::Waits(why.to_string()));
                load.waits_for = Some(why);
            }
        });
    }

    /// Tells a load that something was done for it.
    pub(super) fn tell_news(&self, key: LoadKey, news: String) {
        self.change(key, |load| load.tell(Told::News(news)));
    }

    pub(super) fn loads(&self) -> Vec<LoadEntry> {
        self.books.lock().loads.clone()
    }

    pub(super) fn is_loading(&self, model: &str) -> bool {
        self.books.lock().loads.iter().any(|load| &*load.model == model)
    }

    pub(super) fn loading(&self) -> Vec<Arc<str>> {
        self.books.lock().loads.iter().map(|load| Arc::clone(&load.model)).collect()
    }

    /// Notes that nobody needs the load any more. Returns its job.
    pub(super) fn needless(&self, key: LoadKey) -> Option<Arc<Job>> {
        self.change(key, |load| {
            load.is_needless = true;
            Arc::clone(&load.job)
        })
    }

    pub(super) fn drained(&self, worker_id: &str, entry: DrainEntry) {
        self.books.lock().drains.insert(worker_id.to_owned(), entry);
    }

    pub(super) fn reopened(&self, worker_id: &str) {
        self.books.lock().drains.remove(worker_id);
    }

    /// For whom the worker was drained, and whether a job ends it.
    pub(super) fn end_of(&self, worker_id: &str) -> (Option<DrainEntry>, bool) {
        let books = self.books.lock();
        (books.drains.get(worker_id).cloned(), books.stops.contains_key(worker_id))
    }

    pub(super) fn stopping(&self, worker_id: &str, job: Arc<Job>) {
        self.books.lock().stops.insert(worker_id.to_owned(), job);
    }

    pub(super) fn stop_ended(&self, worker_id: &str) {
        self.books.lock().stops.remove(worker_id);
        self.wake();
    }

    /// Forgets drained workers that have ended.
    pub(super) fn keep_drains(&self, mut lives: impl FnMut(&str) -> bool) {
        self.books.lock().drains.retain(|worker_id, _| lives(worker_id));
    }
}

impl LoadEntry {
    /// The load as a decision sees it.
    pub(super) fn load(&self) -> Load {
        Load {
            key: self.key,
            model: Arc::clone(&self.model),
            by: self.by,
            since: self.since,
            phase: self.phase.clone(),
        }
    }

    fn withdraw(&mut self) {
        (self.phase, self.told, self.waits_for) = (LoadPhase::Submitted, None, None);
    }

    fn tell(&self, what: Told) {
        // Whoever asked and hears it no more has been stopped.
        let _heard = self.told.as_ref().is_some_and(|told| told.send(what).is_ok());
    }
}
