//! The ongoing transfers: one for each target path, however many jobs wait for it.
//!
//! A transfer runs in a task of its own, outside the jobs. It is stopped when the last waiting job
//! leaves, and it publishes its outcome whether or not a job still waits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Downloads;
use crate::error::{Code, Failure, Result};
use crate::models::transfer::context::{Note, Transfer, TransferContext};
use crate::models::transfer::neighbours::Neighbours;
use crate::models::transfer::purpose::{Purpose, Step};
use crate::models::transfer::remote::{Destination, RemoteFile, StoredFile};
use crate::models::transfer::run;
use crate::models::transfer::shelf::Shelved;
use crate::narration::WaitGuard;
use crate::turns::Turns;
use crate::{n, spawn};

/// The ongoing transfers, by the target path of their file.
#[derive(Debug)]
pub(crate) struct Transfers {
    context: Arc<TransferContext>,
    /// Held by each writer of a target, also by those that are no transfers.
    turns: Arc<Turns<PathBuf>>,
    ongoing: Arc<Mutex<HashMap<PathBuf, Arc<Shared>>>>,
}

/// An ongoing transfer, as listings show it.
#[derive(Debug)]
pub(crate) struct OngoingTransfer {
    pub(crate) file: RemoteFile,
    pub(crate) destination: Destination,
    /// Bytes received.
    pub(crate) done: u64,
    pub(crate) since: SystemTime,
}

impl OngoingTransfer {
    /// The path that the model's file has or will have. The transfer may be of a companion.
    pub(crate) fn model_path(&self) -> PathBuf {
        let target = &self.destination.target;
        let companion_of = self.file.companion_of.as_ref();
        companion_of.map_or_else(|| target.clone(), |model| model.beside(target))
    }
}

/// What a job gets for the file that it wants.
#[derive(Debug)]
pub(crate) enum Fetched {
    Stored(StoredFile),
    /// Another job has stored another file at the same target meanwhile.
    OtherFile,
}

/// What a transfer shares with the jobs that wait for it.
#[derive(Debug)]
struct Shared {
    transfer: Arc<Transfer>,
    since: SystemTime,
    /// Held by every waiting job: the transfer is stopped when the last one drops it.
    interest: Weak<DropGuard>,
    outcome: watch::Sender<Option<Arc<Result<StoredFile>>>>,
}

impl Transfers {
    /// Takes over settings. Whom downloads may reach stays.
    pub(crate) fn reload(&self, downloads: &Downloads) {
        self.context.reload(downloads);
    }

    pub(crate) fn new(context: TransferContext, turns: Arc<Turns<PathBuf>>) -> Self {
        Self { context: Arc::new(context), turns, ongoing: Arc::default() }
    }

    /// Every ongoing transfer of a model or of a companion of one.
    pub(crate) fn of_models(&self) -> Vec<OngoingTransfer> {
        let view = |shared: &Arc<Shared>| OngoingTransfer {
            file: shared.transfer.file.clone(),
            destination: shared.transfer.destination.clone(),
            done: shared.transfer.received(),
            since: shared.since,
        };
        let is_of_model = |shared: &&Arc<Shared>| shared.transfer.file.purpose == Purpose::Model;
        self.ongoing.lock().values().filter(is_of_model).map(view).collect()
    }

    /// How many transfers are ongoing.
    pub(crate) fn ongoing(&self) -> usize {
        self.ongoing.lock().len()
    }

    /// The bytes that all transfers have received since the hive started.
    pub(crate) fn received(&self) -> u64 {
        self.context.received.load(Ordering::Relaxed)
    }

    /// Asks these for what is to be transferred, before its source. They stay.
    pub(crate) fn ask(&self, neighbours: Arc<dyn Neighbours>) {
        // There is one fleet.
        let _ = self.context.neighbours.set(neighbours);
    }

    /// The partial file of the model's file with that SHA-256, and what is stored of it.
    pub(crate) fn growing(&self, sha256: &str) -> Option<(PathBuf, watch::Receiver<Shelved>)> {
        let ongoing = self.ongoing.lock();
        let is_it =
            |file: &RemoteFile| file.purpose == Purpose::Model && file.sha256.as_deref() == Some(sha256);
        let transfer =
            ongoing.values().map(|shared| &shared.transfer).find(|transfer| is_it(&transfer.file))?;
        Some((transfer.destination.partial.clone(), transfer.shelf.subscribe()))
    }

    /// Whether a transfer to that target is ongoing.
    pub(crate) fn is_ongoing(&self, target: &Path) -> bool {
        self.ongoing.lock().contains_key(target)
    }

    /// Fetches a file to its target, or joins the transfer that does so already.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once `stop` is cancelled: the transfer goes on where another job waits for
    /// it, and otherwise keeps what it can resume. Otherwise those of [`run`].
    pub(crate) async fn fetch(
        &self,
        file: &RemoteFile,
        destination: &Destination,
        stop: &CancellationToken,
    ) -> Result<Fetched> {
        let cancelled = || Failure::new(Code::Cancelled, "the download was cancelled");
        loop {
            let (shared, mut interest, mut notes, is_new) = self.join(file, destination);
            let (name, is_same) = (&file.name, is_same_file(&shared.transfer.file, file));
            let purpose = file.purpose;
            if !is_new && !is_same {
                n!(purpose.action(Step::Joined), "Another job is downloading another {name}: waiting for it");
            } else if !is_new {
                n!(purpose.action(Step::Joined), "Another job is downloading {name} already: joined it");
            }
            let mut published = shared.outcome.subscribe();
            let mut _waiting = None;
            let outcome = loop {
                let ended =
                    async { published.wait_for(Option::is_some).await.ok().and_then(|it| it.clone()) };
                tokio::select! {
                    biased;
                    wait = narrate_next(purpose, &mut notes), if is_same => _waiting = wait,
                    () = stop.cancelled(), if interest.is_some() => {
                        // For the last job this is what stops the transfer.
                        if interest.take().and_then(Arc::into_inner).is_none() {
                            let others = shared.interest.strong_count();
                            n!(purpose.action(Step::Left), "Left the download of {name}: {others} other job(s) go on with it");
                            return Err(cancelled());
                        }
                    }
                    ended = ended => break ended,
                }
            };
            while let Ok(note) = notes.try_recv()
                && is_same
            {
                drop(note.narrate());
            }
            match outcome.as_deref() {
                None => return Err(Failure::internal("a transfer ended without an outcome")),
                // It says what is kept, where this job was the last one.
                Some(Err(failure)) if stop.is_cancelled() && is_same => return Err(failure.clone()),
                Some(Err(_)) if stop.is_cancelled() => return Err(cancelled()),
                Some(Ok(stored)) if is_same => return Ok(Fetched::Stored(stored.clone())),
                Some(Ok(_)) => return Ok(Fetched::OtherFile),
                // It was stopping when this job joined, or it was for another file: start anew.
                Some(Err(_)) if shared.transfer.stop.is_cancelled() || !is_same => {}
                Some(Err(failure)) => return Err(failure.clone()),
            }
        }
    }

    /// Joins the transfer to a target, or starts one. The interest is `None` in a transfer that is
    /// stopping.
    fn join(
        &self,
        file: &RemoteFile,
        destination: &Destination,
    ) -> (Arc<Shared>, Option<Arc<DropGuard>>, Receiver<Note>, bool) {
        let mut ongoing = self.ongoing.lock();
        if let Some(shared) = ongoing.get(&destination.target) {
            let notes = shared.transfer.notes.subscribe();
            return (Arc::clone(shared), shared.interest.upgrade(), notes, false);
        }
        let transfer = Transfer::new(Arc::clone(&self.context), file.clone(), destination.clone());
        let notes = transfer.notes.subscribe();
        let interest = Arc::new(transfer.stop.clone().drop_guard());
        let shared = Arc::new(Shared {
            transfer: Arc::new(transfer),
            since: SystemTime::now(),
            interest: Arc::downgrade(&interest),
            outcome: watch::Sender::new(None),
        });
        ongoing.insert(destination.target.clone(), Arc::clone(&shared));
        spawn::detached(run_shared(Arc::clone(&self.ongoing), Arc::clone(&self.turns), Arc::clone(&shared)));
        (shared, Some(interest), notes, true)
    }
}

/// Waits for one note of a transfer and narrates it. Returns the wait that it announces.
async fn narrate_next(purpose: Purpose, notes: &mut Receiver<Note>) -> Option<WaitGuard> {
    match notes.recv().await {
        Ok(note) => note.narrate(),
        Err(RecvError::Lagged(count)) => {
            n!(debug: purpose.action(Step::Progress), "{count} notes of the transfer were missed");
            None
        }
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

/// Runs a transfer to its end, and publishes its outcome.
async fn run_shared(
    ongoing: Arc<Mutex<HashMap<PathBuf, Arc<Shared>>>>,
    turns: Arc<Turns<PathBuf>>,
    shared: Arc<Shared>,
) {
    let target = shared.transfer.destination.target.clone();
    // In a task of its own, so that a panic is an outcome, too.
    let outcome = spawn::detached({
        let (shared, target) = (Arc::clone(&shared), target.clone());
        async move {
            let _turn = turns.take(&target).await;
            run(&shared.transfer).await
        }
    });
    let panicked = |error| Err(Failure::internal("a transfer panicked").detail(error));
    let outcome = outcome.await.unwrap_or_else(panicked);
    if let Err(failure) = &outcome {
        tracing::info!(target = %target.display(), code = failure.code.name(), "a transfer ended: {failure}");
    }
    ongoing.lock().remove(&target);
    shared.outcome.send_replace(Some(Arc::new(outcome)));
}

/// Whether two jobs want the same file at the same target.
fn is_same_file(one: &RemoteFile, other: &RemoteFile) -> bool {
    match (&one.sha256, &other.sha256) {
        (Some(one), Some(other)) => one == other,
        _ => (&one.url, &one.version) == (&other.url, &other.version),
    }
}
