//! The list of workers, and the news of it.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

use super::handle::{Handle, Stage};
use super::worker::Worker;
use crate::error::{Code, Failure, Result};

/// Crashed workers that are kept in the list, the newest.
const KEEP_CRASHED: usize = 16;
/// News that a slow reader may be behind before it must list the workers anew.
const NEWS: usize = 256;

/// News of one worker. Whether a ready one is busy is no news: telemetry tells.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Whether it is still in the list.
    pub change: ChangeKind,
    /// The worker as it is now.
    pub worker: Worker,
    /// What brought this about, where it is not the ordinary course of a start or a stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The same in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a worker is in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new, or its status changed.
    Updated,
    /// It left the list.
    Removed,
}

/// What became of a worker, and why. These never blur: a crash is of one that served, a failed load
/// of one that never did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It had served, and ended without being asked to.
    Crash,
    /// It never came to serve.
    FailedLoad,
    /// Somebody asked for its end.
    UserStop,
    /// The hive stopped.
    Shutdown,
    /// The hive took it over from an earlier run of itself.
    Adopted,
    /// It crashed, and is about to be started again.
    Restart,
    /// It crashed, and is not started again.
    GivenUp,
}

/// Every worker from its start until it is gone; crashed ones until they are deleted, replaced or
/// displaced by newer ones. In the order of their starts.
#[derive(Debug)]
pub(super) struct Registry {
    list: Mutex<List>,
    news: broadcast::Sender<Change>,
}

#[derive(Debug, Default)]
struct List {
    workers: Vec<Arc<Handle>>,
    closed: bool,
}

impl Default for Registry {
    fn default() -> Self {
        Self { list: Mutex::default(), news: broadcast::Sender::new(NEWS) }
    }
}

impl Registry {
    pub(super) fn all(&self) -> Vec<Arc<Handle>> {
        self.list.lock().workers.clone()
    }

    /// The worker with that process id. A live one goes before a crashed one whose id it got.
    pub(super) fn find(&self, pid: u32) -> Result<Arc<Handle>> {
        let list = self.list.lock();
        let mut fitting = list.workers.iter().filter(|worker| worker.pid == pid);
        fitting
            .clone()
            .find(|worker| worker.status().lives())
            .or_else(|| fitting.next_back())
            .cloned()
            .ok_or_else(|| {
                Failure::new(Code::WorkerNotFound, format!("process {pid} is not a worker of this hive"))
                    .hint("WorkerProcessList lists this hive's workers with their process ids")
            })
    }

    /// Adds a worker that was just started.
    pub(super) fn insert(&self, worker: &Arc<Handle>) -> Result<()> {
        {
            let mut list = self.list.lock();
            if list.closed {
                return Err(closed());
            }
            list.workers.push(Arc::clone(worker));
        }
        self.updated(worker);
        Ok(())
    }

    /// Takes a worker out of the list; tells whether it was there. [`Registry::removed`] spreads
    /// the news.
    pub(super) fn take(&self, worker: &Handle) -> bool {
        let mut list = self.list.lock();
        let before = list.workers.len();
        list.workers.retain(|other| other.worker_id != worker.worker_id);
        list.workers.len() < before
    }

    /// Takes out crashed workers that a new, ready one replaces.
    pub(super) fn replace_crashed(&self, by: &Handle) {
        self.drop_crashed(|crashed| crashed.model_id == by.model_id && crashed.device == by.device);
    }

    /// Takes out all but the newest crashed workers.
    pub(super) fn bound_crashed(&self) {
        let mut surplus = {
            let list = self.list.lock();
            list.workers.iter().filter(|worker| worker.stage() == Stage::Crashed).count()
        }
        .saturating_sub(KEEP_CRASHED);
        self.drop_crashed(|_| {
            let drop = surplus > 0;
            surplus = surplus.saturating_sub(1);
            drop
        });
    }

    fn drop_crashed(&self, mut which: impl FnMut(&Handle) -> bool) {
        let dropped: Vec<_> = self
            .list
            .lock()
            .workers
            .extract_if(.., |worker| worker.stage() == Stage::Crashed && which(worker))
            .collect();
        for worker in dropped {
            self.removed(&worker);
        }
    }

    /// Takes no more workers. Returns those that are there.
    pub(super) fn close(&self) -> Vec<Arc<Handle>> {
        let mut list = self.list.lock();
        list.closed = true;
        list.workers.clone()
    }

    /// Whether workers may still be started.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.list.lock().closed { Err(closed()) } else { Ok(()) }
    }

    pub(super) fn updated(&self, worker: &Handle) {
        self.spread(ChangeKind::Updated, worker, None, None);
    }

    pub(super) fn updated_because(&self, worker: &Handle, cause: Cause, message: String) {
        self.spread(ChangeKind::Updated, worker, Some(cause), Some(message));
    }

    pub(super) fn removed(&self, worker: &Handle) {
        self.spread(ChangeKind::Removed, worker, None, None);
    }

    pub(super) fn removed_because(&self, worker: &Handle, cause: Cause) {
        self.spread(ChangeKind::Removed, worker, Some(cause), None);
    }

    fn spread(&self, change: ChangeKind, worker: &Handle, cause: Option<Cause>, message: Option<String>) {
        // An error says that nobody reads the news.
        let _nobody = self.news.send(Change { change, worker: worker.worker(), cause, message });
    }

    /// Whether the worker is in the list.
    pub(super) fn has(&self, worker: &Handle) -> bool {
        self.list.lock().workers.iter().any(|other| other.worker_id == worker.worker_id)
    }

    pub(super) fn news(&self) -> broadcast::Receiver<Change> {
        self.news.subscribe()
    }
}

fn closed() -> Failure {
    Failure::new(Code::ShuttingDown, "the hive is stopping and starts no more workers")
        .hint("start the hive again, then repeat the request")
        .stage("start")
}
