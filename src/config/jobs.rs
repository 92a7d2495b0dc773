//! `[jobs]`: how many jobs run at once, and how long ended ones are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration::BoundedDuration;

/// Limits of jobs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// Downloads that run at once.
    pub concurrent_downloads: usize,
    /// Loads and spawns that run at once, with those that wait for room.
    pub concurrent_loads: usize,
    /// Other acts that run at once.
    pub concurrent_acts: usize,
    /// Reads that run at once.
    pub concurrent_reads: usize,
    /// Jobs of one class that may wait; the next one is refused.
    pub queue: usize,
    /// How many ended acts are kept; the newest stay.
    pub keep_acts: usize,
    /// How long ended acts are kept.
    pub keep_acts_for: BoundedDuration,
    /// Bytes of ended acts' logs held in memory; the rest is read back from the journals.
    pub acts_memory_bytes: usize,
    /// How long ended reads are kept.
    pub keep_reads_for: BoundedDuration,
    /// Bytes of ended reads' logs that are kept.
    pub reads_memory_bytes: usize,
    /// Events of one job that are kept before progress is elided.
    pub log_events: usize,
    /// Bytes of one job's events that are kept before progress is elided.
    pub log_bytes: usize,
    /// Past events of the hive from which a reader of `/v1/events` can resume.
    pub event_ring: usize,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            concurrent_downloads: 2,
            concurrent_loads: 16,
            concurrent_acts: 8,
            concurrent_reads: 64,
            queue: 256,
            keep_acts: 1000,
            keep_acts_for: Duration::from_secs(7 * 24 * 3600).into(),
            acts_memory_bytes: 64 << 20,
            keep_reads_for: Duration::from_secs(600).into(),
            reads_memory_bytes: 32 << 20,
            log_events: 10_000,
            log_bytes: 8 << 20,
            event_ring: 10_000,
        }
    }
}

impl Jobs {
    /// Whether every class can run at least one job.
    pub(super) fn can_run(&self) -> bool {
        [self.concurrent_downloads, self.concurrent_loads, self.concurrent_acts, self.concurrent_reads]
            .iter()
            .all(|limit| *limit > 0)
    }
}
