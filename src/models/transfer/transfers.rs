//! The ongoing transfers: one for each target path, however many jobs wait for it.
//!
//! A transfer runs in a task of its own, outside the jobs. It is stopped when the last waiting job
//! leaves, and it publishes its outcome whether or not a job still waits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Failure, Result};
use crate::models::transfer::context::{Transfer, TransferContext};
use crate::models::transfer::remote::{Destination, RemoteFile, StoredFile};
use crate::models::transfer::report::Note;
use crate::models::transfer::run;
use crate::turns::Turns;
use crate::{n, spawn};

/// The ongoing transfers, by the target path of their file.
#[derive(Debug)]
pub(crate) struct Transfers {
    context: Arc<TransferContext>,
    /// Held by each writer of a target, also by those that are no transfers.
    turns: Arc<Turns<PathBuf>>,
    ongoing: Arc<Mutex<HashMap<PathBuf, Entry>>>,
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

/// What a job gets for the file that it wants.
#[derive(Debug)]
pub(crate) enum Fetched {
    Stored(StoredFile),
    /// Another job has stored another file at the same target meanwhile.
    OtherFile,
}

#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    /// How many jobs wait for it.
    waiters: usize,
}

/// What a transfer shares with the jobs that wait for it.
#[derive(Debug)]
struct Shared {
    transfer: Arc<Transfer>,
    since: SystemTime,
    outcome: watch::Sender<Option<Arc<Result<StoredFile>>>>,
}

/// One waiting job. Dropping it leaves the transfer.
struct Waiter<'a> {
    transfers: &'a Transfers,
    shared: Arc<Shared>,
    has_left: bool,
}

/// The notes that a job narrates; `None` where they are of a file that it does not want.
struct Notes(Option<Receiver<Note>>);

impl Transfers {
    pub(crate) fn new(context: TransferContext, turns: Arc<Turns<PathBuf>>) -> Self {
        Self { context: Arc::new(context), turns, ongoing: Arc::default() }
    }

    /// Every ongoing transfer.
    pub(crate) fn ongoing(&self) -> Vec<OngoingTransfer> {
        let shared: Vec<_> = self.ongoing.lock().values().map(|entry| Arc::clone(&entry.shared)).collect();
        let view = |shared: Arc<Shared>| OngoingTransfer {
            file: shared.transfer.file.clone(),
            destination: shared.transfer.destination.clone(),
            done: shared.transfer.received.bytes(),
            since: shared.since,
        };
        shared.into_iter().map(view).collect()
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
        loop {
            let (mut waiter, notes, is_new) = self.join(file, destination);
            let transfer = Arc::clone(&waiter.shared.transfer);
            let is_same = is_same_file(&transfer.file, file);
            let name = &file.name;
            if !is_new && !is_same {
                n!("model_download_joined", "Another job is downloading another {name}: waiting for it");
            } else if !is_new {
                n!("model_download_joined", "Another job is downloading {name} already: joined it");
            }
            let outcome = waiter.outcome(Notes(is_same.then_some(notes)), stop).await?;
            match &*outcome {
                Err(_) if stop.is_cancelled() => return Err(cancelled()),
                Ok(stored) if is_same => return Ok(Fetched::Stored(stored.clone())),
                Ok(_) => return Ok(Fetched::OtherFile),
                // It was stopping when this job joined, or it was for another file: start anew.
                Err(_) if transfer.stop.is_cancelled() || !is_same => {}
                Err(failure) => return Err(failure.clone()),
            }
        }
    }

    fn join(&self, file: &RemoteFile, destination: &Destination) -> (Waiter<'_>, Receiver<Note>, bool) {
        let waiter = |shared| Waiter { transfers: self, shared, has_left: false };
        let mut ongoing = self.ongoing.lock();
        if let Some(entry) = ongoing.get_mut(&destination.target) {
            entry.waiters += 1;
            let notes = entry.shared.transfer.reporter.follow();
            return (waiter(Arc::clone(&entry.shared)), notes, false);
        }
        let transfer = Transfer::new(Arc::clone(&self.context), file.clone(), destination.clone());
        let notes = transfer.reporter.follow();
        let shared = Arc::new(Shared {
            transfer: Arc::new(transfer),
            since: SystemTime::now(),
            outcome: watch::Sender::new(None),
        });
        let entry = Entry { shared: Arc::clone(&shared), waiters: 1 };
        ongoing.insert(destination.target.clone(), entry);
        spawn::detached(run_shared(Arc::clone(&self.ongoing), Arc::clone(&self.turns), Arc::clone(&shared)));
        (waiter(shared), notes, true)
    }
}

impl Waiter<'_> {
    /// Narrates the transfer until it ends.
    ///
    /// # Errors
    /// [`Code::Cancelled`] where this job is cancelled and another one still waits.
    async fn outcome(
        &mut self,
        mut notes: Notes,
        stop: &CancellationToken,
    ) -> Result<Arc<Result<StoredFile>>> {
        let name = self.shared.transfer.file.name.clone();
        let mut published = self.shared.outcome.subscribe();
        let mut is_leaving = self.shared.transfer.stop.is_cancelled();
        let outcome = loop {
            let outcome = async { published.wait_for(Option::is_some).await.ok().and_then(|it| it.clone()) };
            tokio::select! {
                biased;
                () = notes.narrate_next() => {}
                () = stop.cancelled(), if !is_leaving => {
                    is_leaving = true;
                    let others = self.leave();
                    if others > 0 {
                        n!("model_download_left", "Left the download of {name}: {others} other job(s) go on with it");
                        return Err(cancelled());
                    }
                }
                outcome = outcome => break outcome,
            }
        };
        notes.narrate_rest();
        outcome.ok_or_else(|| Failure::internal("a transfer ended without an outcome"))
    }

    /// Leaves the transfer, and stops it where no other job waits. Returns how many jobs still wait.
    fn leave(&mut self) -> usize {
        let is_first = !std::mem::replace(&mut self.has_left, true);
        let mut ongoing = self.transfers.ongoing.lock();
        let entry = ongoing.get_mut(&self.shared.transfer.destination.target);
        // Once this transfer has ended, the entry may be of a later one.
        let Some(entry) = entry.filter(|entry| is_first && Arc::ptr_eq(&entry.shared, &self.shared)) else {
            return 0;
        };
        entry.waiters -= 1;
        if entry.waiters == 0 {
            self.shared.transfer.stop.cancel();
        }
        entry.waiters
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Notes {
    /// Waits for one note and narrates it.
    async fn narrate_next(&mut self) {
        let note = match &mut self.0 {
            Some(notes) => notes.recv().await,
            None => Err(RecvError::Closed),
        };
        match note {
            Ok(note) => note.narrate(),
            Err(RecvError::Lagged(count)) => {
                n!(debug: "model_download_progress", "{count} notes of the transfer were missed");
            }
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    fn narrate_rest(&mut self) {
        while let Some(Ok(note)) = self.0.as_mut().map(Receiver::try_recv) {
            note.narrate();
        }
    }
}

/// Runs a transfer to its end, and publishes its outcome.
async fn run_shared(
    ongoing: Arc<Mutex<HashMap<PathBuf, Entry>>>,
    turns: Arc<Turns<PathBuf>>,
    shared: Arc<Shared>,
) {
    let target = shared.transfer.destination.target.clone();
    // In a task of its own, so that a panic is an outcome, too.
    let outcome = spawn::detached({
        let (transfer, target) = (Arc::clone(&shared.transfer), target.clone());
        async move {
            let _turn = turns.take(&target).await;
            run(&transfer).await
        }
    });
    let outcome =
        outcome.await.unwrap_or_else(|error| Err(Failure::internal("a transfer panicked").detail(error)));
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

fn cancelled() -> Failure {
    Failure::new(Code::Cancelled, "the download was cancelled")
}
