//! The list of workers, and the changes to it that readers follow.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tokio::sync::{Notify, broadcast};
use utoipa::ToSchema;

use super::engines::Engine;
use super::handle::Handle;
use super::start_error::StartError;
use super::state::LifeStage;
use super::worker::Worker;
use crate::error::{Code, Failure, Result};

/// How many crashed workers stay in the list: the newest.
const KEEP_CRASHED: usize = 16;
/// How many changes a reader may fall behind before it must list the workers again.
const CHANGES_BUFFERED: usize = 256;

/// A change of one worker. That a ready worker is busy or not is no change: telemetry shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = WorkerChangeEvent)]
pub struct WorkerChange {
    /// Whether it is still in the list.
    pub change: ChangeKind,
    /// The worker after the change.
    pub worker: Worker,
    /// Why it changed, where that is not an ordinary step of a start or a stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The cause in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a worker is in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WorkerChangeKind)]
pub enum ChangeKind {
    /// It is new, or its status changed.
    Updated,
    /// It left the list.
    Removed,
}

/// Why a worker changed. A crash is the end of a worker that had served; the end of one that had not
/// is a failed load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(as = WorkerCause, rename_all = "snake_case")]
pub enum Cause {
    /// It had served, and ended without being asked to.
    Crash,
    /// It ended before it served.
    FailedLoad,
    /// A user stopped it.
    UserStop,
    /// The hive stopped.
    Shutdown,
    /// The hive adopted it from an earlier run.
    Adopted,
    /// It gives no sign of life.
    Unresponsive,
    /// It was unresponsive, and answers again.
    Responds,
    /// It crashed, and is about to be restarted.
    Restart,
    /// It crashed, and is not restarted.
    GivenUp,
}

impl Cause {
    /// All of them, in the order of their declaration.
    pub(crate) const ALL: [Self; 9] = [
        Self::Crash,
        Self::FailedLoad,
        Self::UserStop,
        Self::Shutdown,
        Self::Adopted,
        Self::Unresponsive,
        Self::Responds,
        Self::Restart,
        Self::GivenUp,
    ];

    /// The name on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::FailedLoad => "failed_load",
            Self::UserStop => "user_stop",
            Self::Shutdown => "shutdown",
            Self::Adopted => "adopted",
            Self::Unresponsive => "unresponsive",
            Self::Responds => "responds",
            Self::Restart => "restart",
            Self::GivenUp => "given_up",
        }
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Every worker from its start until it is gone, in the order of their starts. A crashed worker stays
/// until it is deleted, until a ready worker replaces it, or until too many newer ones have crashed.
#[derive(Debug)]
pub(super) struct Registry {
    list: Mutex<List>,
    changes: broadcast::Sender<WorkerChange>,
    /// How many changes had each cause.
    caused: [AtomicU64; Cause::ALL.len()],
    /// Told when a worker changes, and when a request to one ends.
    pub(super) activity: Arc<Notify>,
}

#[derive(Debug, Default)]
struct List {
    workers: Vec<Arc<Handle>>,
    /// Whether no more workers are accepted.
    closed: bool,
    /// The folders of engines that are being removed: no worker is accepted that runs from there.
    leaving: Vec<PathBuf>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            list: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES_BUFFERED),
            caused: Default::default(),
            activity: Arc::default(),
        }
    }
}

impl Registry {
    pub(super) fn all(&self) -> Vec<Arc<Handle>> {
        self.list.lock().workers.clone()
    }

    /// The worker with that process id: a live one, rather than a crashed one that had the id before.
    pub(super) fn find(&self, pid: u32) -> Result<Arc<Handle>> {
        let list = self.list.lock();
        let mut matching = list.workers.iter().filter(|worker| worker.pid == pid);
        matching
            .clone()
            .find(|worker| worker.status().lives())
            .or_else(|| matching.next_back())
            .cloned()
            .ok_or_else(|| {
                Failure::new(Code::WorkerNotFound, format!("process {pid} is not a worker of this hive"))
                    .hint("WorkerProcessList lists this hive's workers with their process ids")
            })
    }

    /// Adds a worker that was just started or adopted.
    ///
    /// # Errors
    /// [`Code::ShuttingDown`] once the list is closed; [`Code::EngineUnavailable`] while its engine is being removed.
    pub(super) fn insert(&self, worker: &Arc<Handle>) -> Result<(), StartError> {
        {
            let mut list = self.list.lock();
            if list.closed {
                return Err(closed().into());
            }
            if list.leaving.iter().any(|folder| worker.engine.program.starts_with(folder)) {
                return Err(removed(&worker.engine));
            }
            list.workers.push(Arc::clone(worker));
        }
        self.updated(worker);
        Ok(())
    }

    /// Removes a worker from the list; returns whether it was there. [`Registry::removed`] then
    /// publishes the change.
    pub(super) fn take(&self, worker: &Handle) -> bool {
        let mut list = self.list.lock();
        let before = list.workers.len();
        list.workers.retain(|other| other.worker_id != worker.worker_id);
        list.workers.len() < before
    }

    /// Removes the crashed workers that a ready one replaces.
    pub(super) fn replace_crashed(&self, by: &Handle) {
        self.drop_crashed(|crashed| crashed.model_id() == by.model_id() && crashed.device == by.device);
    }

    /// Removes all but the newest crashed workers.
    pub(super) fn bound_crashed(&self) {
        let mut surplus = {
            let list = self.list.lock();
            list.workers.iter().filter(|worker| worker.stage() == LifeStage::Crashed).count()
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
            .extract_if(.., |worker| worker.stage() == LifeStage::Crashed && which(worker))
            .collect();
        for worker in dropped {
            self.removed(&worker);
        }
    }

    /// Accepts no worker that runs from these folders, until [`Registry::has_left`].
    ///
    /// # Errors
    /// The process ids of the live workers that run from there.
    pub(super) fn leave(&self, folders: &[PathBuf]) -> Result<(), Vec<u32>> {
        let mut list = self.list.lock();
        let runs = |worker: &&Arc<Handle>| {
            worker.status().lives() && folders.iter().any(|folder| worker.engine.program.starts_with(folder))
        };
        let pids: Vec<_> = list.workers.iter().filter(runs).map(|worker| worker.pid).collect();
        if !pids.is_empty() {
            return Err(pids);
        }
        list.leaving.extend_from_slice(folders);
        Ok(())
    }

    /// Takes a [`Registry::leave`] back.
    pub(super) fn has_left(&self, folders: &[PathBuf]) {
        self.list.lock().leaving.retain(|folder| !folders.contains(folder));
    }

    /// Closes the list to new workers. Returns those that it has.
    pub(super) fn close(&self) -> Vec<Arc<Handle>> {
        let mut list = self.list.lock();
        list.closed = true;
        list.workers.clone()
    }

    /// Checks that workers may still be started.
    ///
    /// # Errors
    /// [`Code::ShuttingDown`] once the list is closed.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.list.lock().closed { Err(closed()) } else { Ok(()) }
    }

    /// Publishes that a worker was added or changed.
    pub(super) fn updated(&self, worker: &Handle) {
        self.publish(ChangeKind::Updated, worker, None, None);
    }

    /// The same, with the cause.
    pub(super) fn updated_because(&self, worker: &Handle, cause: Cause, message: String) {
        self.publish(ChangeKind::Updated, worker, Some(cause), Some(message));
    }

    /// Publishes that a worker left the list.
    pub(super) fn removed(&self, worker: &Handle) {
        self.publish(ChangeKind::Removed, worker, None, None);
    }

    /// The same, with the cause.
    pub(super) fn removed_because(&self, worker: &Handle, cause: Cause) {
        self.publish(ChangeKind::Removed, worker, Some(cause), None);
    }

    fn publish(&self, change: ChangeKind, worker: &Handle, cause: Option<Cause>, message: Option<String>) {
        if let Some(cause) = cause {
            self.caused[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
        // An error means that there are no readers.
        let _no_readers = self.changes.send(WorkerChange { change, worker: worker.worker(), cause, message });
        self.activity.notify_one();
    }

    /// Whether the worker is in the list.
    pub(super) fn has(&self, worker: &Handle) -> bool {
        self.list.lock().workers.iter().any(|other| other.worker_id == worker.worker_id)
    }

    /// How many changes had this cause.
    pub(super) fn caused(&self, cause: Cause) -> u64 {
        self.caused[cause as usize].load(Ordering::Relaxed)
    }

    /// The changes from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<WorkerChange> {
        self.changes.subscribe()
    }
}

/// The failure of a start whose engine has been removed since it was chosen. The next start chooses another one.
pub(super) fn removed(engine: &Engine) -> StartError {
    let message = format!("engine '{}' was removed while a worker of it was about to start", engine.name);
    StartError::temporary(
        Failure::new(Code::EngineUnavailable, message)
            .hint("repeat the request: the hive then chooses among the engines that are here")
            .stage("start"),
    )
}

fn closed() -> Failure {
    Failure::new(Code::ShuttingDown, "the hive is stopping and starts no more workers")
        .hint("start the hive again, then repeat the request")
        .stage("start")
}
