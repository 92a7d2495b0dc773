//! The transfers under way: one for each place, however many jobs wait for it.
//!
//! A transfer runs outside its jobs. It stops when the last of them has left, and ends by itself
//! whether or not anybody is there to see it.

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
use crate::models::Catalog;
use crate::models::transfer::Transfer;
use crate::models::transfer::remote::{Destination, RemoteFile, Whole};
use crate::models::transfer::report::{Note, Reporter};
use crate::{n, spawn};

/// The transfers under way, by the place that their file will have.
#[derive(Debug, Default)]
pub(crate) struct Transfers(Mutex<HashMap<PathBuf, Arc<Shared>>>);

/// A transfer under way, as listings see it.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) file: RemoteFile,
    pub(crate) destination: Destination,
    /// Bytes that are there.
    pub(crate) done: u64,
    pub(crate) since: SystemTime,
}

#[derive(Debug)]
struct Shared {
    transfer: Arc<Transfer>,
    since: SystemTime,
    /// Jobs that wait for it. Changed under the lock of [`Transfers`].
    waiters: Mutex<usize>,
    outcome: watch::Sender<Option<Arc<Result<Whole>>>>,
}

/// A job's place among those that wait. Dropping it gives the place up.
struct Waiter<'a> {
    transfers: &'a Transfers,
    shared: Arc<Shared>,
    has_left: bool,
}

impl Transfers {
    /// What is under way.
    pub(crate) fn under_way(&self) -> Vec<UnderWay> {
        let shared: Vec<_> = self.0.lock().values().cloned().collect();
        let view = |shared: Arc<Shared>| UnderWay {
            file: shared.transfer.file.clone(),
            destination: shared.transfer.destination.clone(),
            done: shared.transfer.done.load(std::sync::atomic::Ordering::Relaxed),
            since: shared.since,
        };
        shared.into_iter().map(view).collect()
    }

    /// Whether a transfer to that place is under way.
    pub(crate) fn is_under_way(&self, target: &Path) -> bool {
        self.0.lock().contains_key(target)
    }
}

impl Waiter<'_> {
    /// Gives the place up. Answers how many jobs are left.
    fn leave(&mut self) -> usize {
        let _transfers = self.transfers.0.lock();
        let mut waiters = self.shared.waiters.lock();
        if !self.has_left {
            self.has_left = true;
            *waiters -= 1;
            if *waiters == 0 {
                self.shared.transfer.stop.cancel();
            }
        }
        *waiters
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Catalog {
    /// Brings one file to its place, or joins the transfer that does so already.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once `stop` is cancelled: the transfer goes on where another job waits for
    /// it, and else keeps what is there. Otherwise those of [`Transfer::run`].
    pub(crate) async fn transfer(
        &self,
        file: &RemoteFile,
        destination: &Destination,
        stop: &CancellationToken,
    ) -> Result<Whole> {
        loop {
            let (mut waiter, mut notes, is_new) = self.join(file, destination);
            let is_same = is_same(&waiter.shared.transfer.file, file);
            let name = &file.name;
            if !is_new && !is_same {
                n!("model_download_joined", "Another job is bringing another {name}: waiting for it");
            } else if !is_new {
                n!("model_download_joined", "Another job is downloading {name} already: joined it");
            }
            let mut outcome = waiter.shared.outcome.subscribe();
            let mut is_leaving = waiter.shared.transfer.stop.is_cancelled();
            let ended =
                async { outcome.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone()) };
            tokio::pin!(ended);
            let ended = loop {
                tokio::select! {
                    biased;
                    note = notes.recv() => match note {
                        Ok(note) if is_same => note.narrate(),
                        Ok(_) => {}
                        Err(RecvError::Lagged(count)) => {
                            n!(debug: "model_download_progress", "{count} notes of the transfer were missed");
                        }
                        // The reporter lives as long as the waiter holds the transfer.
                        Err(RecvError::Closed) => std::future::pending().await,
                    },
                    () = stop.cancelled(), if !is_leaving => {
                        is_leaving = true;
                        let others = waiter.leave();
                        if others > 0 {
                            n!("model_download_left", "Left the download of {name}: {others} other job(s) go on with it");
                            return Err(cancelled());
                        }
                    }
                    ended = &mut ended => break ended,
                }
            };
            drain(&mut notes, is_same);
            let Some(ended) = ended else {
                return Err(Failure::internal("a transfer ended without an outcome"));
            };
            match &*ended {
                _ if stop.is_cancelled() && ended.is_err() => return Err(cancelled()),
                Ok(whole) if is_same => return Ok(whole.clone()),
                Ok(_) => return Err(crate::models::catalog::import::exists(name, true)),
                // It was stopping when this job came, or it was another file: begin anew.
                Err(failure) if failure.code == Code::Cancelled || !is_same => {}
                Err(failure) => return Err(copy(failure)),
            }
        }
    }

    fn join(&self, file: &RemoteFile, destination: &Destination) -> (Waiter<'_>, Receiver<Note>, bool) {
        let transfers = &self.0.transfers;
        let mut under_way = transfers.0.lock();
        if let Some(shared) = under_way.get(&destination.target) {
            let shared = Arc::clone(shared);
            *shared.waiters.lock() += 1;
            let notes = shared.transfer.reporter.follow();
            return (Waiter { transfers, shared, has_left: false }, notes, false);
        }
        let reporter = Reporter::default();
        let notes = reporter.follow();
        let stop = CancellationToken::new();
        let transfer =
            Transfer::new(Arc::clone(&self.0.shop), file.clone(), destination.clone(), reporter, stop);
        let shared = Arc::new(Shared {
            transfer: Arc::new(transfer),
            since: SystemTime::now(),
            waiters: Mutex::new(1),
            outcome: watch::Sender::new(None),
        });
        under_way.insert(destination.target.clone(), Arc::clone(&shared));
        spawn::detached(run(self.clone(), Arc::clone(&shared)));
        (Waiter { transfers, shared, has_left: false }, notes, true)
    }
}

/// Runs a transfer to its end, and tells it.
async fn run(catalog: Catalog, shared: Arc<Shared>) {
    let target = shared.transfer.destination.target.clone();
    let transfer = Arc::clone(&shared.transfer);
    // In a task of its own, so that a panic is an outcome, too.
    let outcome = spawn::detached(async move {
        let _turn = catalog.0.turns.take(&transfer.destination.target).await;
        let outcome = transfer.run().await;
        (catalog, outcome)
    });
    let (catalog, outcome) = match outcome.await {
        Ok((catalog, outcome)) => (Some(catalog), outcome),
        Err(error) => (None, Err(Failure::internal("a transfer broke off").detail(error))),
    };
    if let Err(failure) = &outcome {
        tracing::info!(target = %target.display(), code = failure.code.name(), "a transfer ended: {failure}");
    }
    if let Some(catalog) = catalog {
        catalog.0.transfers.0.lock().remove(&target);
    }
    shared.outcome.send_replace(Some(Arc::new(outcome)));
}

/// Whether two jobs mean the same file by the same place.
fn is_same(one: &RemoteFile, other: &RemoteFile) -> bool {
    match (&one.sha256, &other.sha256) {
        (Some(one), Some(other)) => one == other,
        _ => (&one.url, &one.version) == (&other.url, &other.version),
    }
}

fn drain(notes: &mut Receiver<Note>, is_same: bool) {
    while let Ok(note) = notes.try_recv() {
        if is_same {
            note.narrate();
        }
    }
}

fn cancelled() -> Failure {
    Failure::new(Code::Cancelled, "the download was cancelled")
}

/// One failure for each of the jobs that shared the transfer. What is for the log alone was logged
/// with the first.
fn copy(failure: &Failure) -> Failure {
    Failure {
        code: failure.code,
        message: failure.message.clone(),
        hint: failure.hint.clone(),
        stage: failure.stage.clone(),
        causes: failure.causes.clone(),
        exit_code: failure.exit_code,
        signal: failure.signal.clone(),
        log_tail: failure.log_tail.clone(),
        choices: failure.choices.clone(),
        detail: failure.detail.as_ref().map(|detail| anyhow::anyhow!("{detail:#}")),
    }
}
