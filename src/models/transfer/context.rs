//! What all transfers of a hive share, and what the parts of one transfer share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Downloads};
use crate::models::needs::Judge;
use crate::models::transfer::disk::Disk;
use crate::models::transfer::fetch::{FetchConfig, Fetcher};
use crate::models::transfer::limiter::Limiter;
use crate::models::transfer::neighbours::Neighbours;
use crate::models::transfer::purpose::{Purpose, Step};
use crate::models::transfer::remote::{Destination, RemoteFile};
use crate::models::transfer::shelf::Shelf;
use crate::narration::{self, Level, Progress, WaitGuard};

/// How many notes a job may be behind before it misses some.
const MAX_BEHIND: usize = 1024;

/// The settings, the speed limit and the disk that all transfers of a hive share.
#[derive(Debug)]
pub(crate) struct TransferContext {
    downloads: RwLock<Arc<Downloads>>,
    pub(crate) fetch: FetchConfig,
    pub(crate) limiter: Limiter,
    pub(crate) disk: Arc<dyn Disk>,
    /// Says which engines can run what is transferred.
    pub(crate) judge: Arc<Judge>,
    /// Bytes that all transfers together have received.
    pub(crate) received: AtomicU64,
    /// Other hives that may have what is transferred.
    pub(crate) neighbours: OnceLock<Arc<dyn Neighbours>>,
}

/// One transfer. Nothing in it changes but what was received and what is stored.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) context: Arc<TransferContext>,
    pub(crate) file: RemoteFile,
    pub(crate) destination: Destination,
    /// A transfer belongs to no job, so it does not narrate: every waiting job narrates the notes.
    pub(crate) notes: broadcast::Sender<Note>,
    pub(crate) stop: CancellationToken,
    pub(crate) fetcher: Fetcher,
    /// Bytes of the file that were received, for progress and listings.
    pub(crate) received: AtomicU64,
    /// How many of them came from other hives.
    pub(crate) from_neighbours: AtomicU64,
    /// What is stored of the file, for those who read it meanwhile.
    pub(crate) shelf: Shelf,
}

/// A message of a transfer.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    level: Level,
    action: &'static str,
    message: String,
    progress: Option<Progress>,
    /// What the transfer waits for from now until its next note.
    wait: Option<String>,
}

impl Note {
    /// Narrates it in the job of the caller. Returns the wait that it announces.
    pub(crate) fn narrate(self) -> Option<WaitGuard> {
        narration::narrate(self.level, self.action, self.message, self.progress);
        self.wait.map(narration::waiting_for)
    }
}

impl TransferContext {
    pub(crate) fn new(config: &Config, disk: Arc<dyn Disk>, judge: Arc<Judge>) -> Self {
        Self {
            downloads: RwLock::new(Arc::new(config.downloads.clone())),
            fetch: FetchConfig::of(config),
            limiter: Limiter::new(config.downloads.bytes_per_second),
            disk,
            judge,
            received: AtomicU64::new(0),
            neighbours: OnceLock::new(),
        }
    }

    /// How downloads run now.
    pub(crate) fn downloads(&self) -> Arc<Downloads> {
        Arc::clone(&self.downloads.read())
    }

    /// Takes over settings. Whom downloads may reach stays.
    pub(crate) fn reload(&self, downloads: &Downloads) {
        self.limiter.set_rate(downloads.bytes_per_second);
        *self.downloads.write() = Arc::new(downloads.clone());
    }
}

impl Transfer {
    pub(crate) fn new(context: Arc<TransferContext>, file: RemoteFile, destination: Destination) -> Self {
        let fetcher = Fetcher::new(&context.fetch, &file.trust, &file.url);
        Self {
            context,
            file,
            destination,
            notes: broadcast::Sender::new(MAX_BEHIND),
            stop: CancellationToken::new(),
            fetcher,
            received: AtomicU64::new(0),
            from_neighbours: AtomicU64::new(0),
            shelf: Shelf::default(),
        }
    }

    /// The other hives to ask for the file, where it can be told from every other by its hash.
    pub(crate) fn neighbours(&self) -> Option<(Arc<dyn Neighbours>, String)> {
        let neighbours = self.context.neighbours.get().filter(|_| self.file.purpose == Purpose::Model)?;
        Some((Arc::clone(neighbours), self.file.sha256.clone()?))
    }

    pub(crate) fn say(&self, level: Level, step: Step, message: String) {
        let action = self.file.purpose.action(step);
        // No job listens while the last one is leaving.
        let _ = self.notes.send(Note { level, action, message, progress: None, wait: None });
    }

    /// Says that the transfer waits, and for what.
    pub(crate) fn say_wait(&self, step: Step, message: String, wait: String) {
        let (level, action) = (Level::Warn, self.file.purpose.action(step));
        let _ = self.notes.send(Note { level, action, message, progress: None, wait: Some(wait) });
    }

    pub(crate) fn say_progress(&self, progress: Progress, message: String) {
        let (level, progress) = (Level::Info, Some(progress));
        let action = self.file.purpose.action(Step::Progress);
        let _ = self.notes.send(Note { level, action, message, progress, wait: None });
    }

    /// Bytes of the file that were received.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
