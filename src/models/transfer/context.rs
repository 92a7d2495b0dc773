//! What all transfers of a hive share.

use std::sync::Arc;

use crate::config::{Config, Downloads, Timers};
use crate::models::transfer::disk::Disk;
use crate::models::transfer::fetch::FetchConfig;
use crate::models::transfer::limiter::Limiter;

/// The settings, the speed limit and the disk that all transfers of a hive share.
#[derive(Debug)]
pub(crate) struct TransferContext {
    pub(crate) downloads: Downloads,
    pub(crate) timers: Timers,
    pub(crate) fetch: FetchConfig,
    pub(crate) limiter: Limiter,
    pub(crate) disk: Arc<dyn Disk>,
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
