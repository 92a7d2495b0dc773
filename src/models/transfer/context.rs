//! What all transfers of a hive share, and what the parts of one transfer share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use crate::config::{Config, Downloads, Timers};
use crate::models::transfer::disk::Disk;
use crate::models::transfer::fetch::{FetchConfig, Fetcher};
use crate::models::transfer::limiter::Limiter;
use crate::models::transfer::remote::{Destination, RemoteFile};
use crate::models::transfer::report::Reporter;
use crate::narration::Level;

/// The settings, the speed limit and the disk that all transfers of a hive share.
#[derive(Debug)]
pub(crate) struct TransferContext {
    pub(crate) downloads: Downloads,
    pub(crate) timers: Timers,
    pub(crate) fetch: FetchConfig,
    pub(crate) limiter: Limiter,
    pub(crate) disk: Arc<dyn Disk>,
}

/// One transfer. Nothing in it changes but `received`.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) context: Arc<TransferContext>,
    pub(crate) file: RemoteFile,
    pub(crate) destination: Destination,
    pub(crate) reporter: Reporter,
    pub(crate) stop: CancellationToken,
    pub(crate) fetcher: Fetcher,
    /// Bytes of the file that were received, for progress and listings.
    pub(crate) received: AtomicU64,
}

impl TransferContext {
    pub(crate) fn new(config: &Config, disk: Arc<dyn Disk>) -> Self {
        Self {
            downloads: config.downloads.clone(),
            timers: config.timers.clone(),
            fetch: FetchConfig::of(config),
            limiter: Limiter::new(config.downloads.bytes_per_second),
            disk,
        }
    }
}

impl Transfer {
    pub(crate) fn new(context: Arc<TransferContext>, file: RemoteFile, destination: Destination) -> Self {
        let fetcher = Fetcher::new(&context.fetch, &file.trust, &file.url);
        Self {
            context,
            file,
            destination,
            reporter: Reporter::default(),
            stop: CancellationToken::new(),
            fetcher,
            received: AtomicU64::new(0),
        }
    }

    pub(crate) fn say(&self, level: Level, action: &'static str, message: String) {
        self.reporter.say(level, action, message);
    }

    /// Bytes of the file that were received.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
