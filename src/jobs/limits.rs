//! How many jobs of a class run at once, and how many may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::job::Class;
use crate::config::Jobs;
use crate::error::{Code, Failure, Result};

/// The places of every class.
#[derive(Debug)]
pub(super) struct Limits {
    reads: Places,
    downloads: Places,
    loads: Places,
    acts: Places,
}

#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    total: usize,
    waiting: Arc<AtomicUsize>,
    queue: usize,
}

/// A job's claim on a place: taken when the job is submitted, so that a full queue refuses there.
#[derive(Debug)]
pub(super) enum Claim {
    /// There was a free place.
    Place(OwnedSemaphorePermit),
    /// It must wait.
    Wait(Waiting),
}

/// A place in the queue; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    free: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// Jobs of the class that may run at once.
    pub(super) total: usize,
    /// Jobs of the class that waited already.
    pub(super) ahead: usize,
}

impl Limits {
    pub(super) fn new(config: &Jobs) -> Self {
        let places = |total| Places {
            free: Arc::new(Semaphore::new(total)),
            total,
            waiting: Arc::default(),
            queue: config.queue,
        };
        Self {
            reads: places(config.concurrent_reads),
            downloads: places(config.concurrent_downloads),
            loads: places(config.concurrent_loads),
            acts: places(config.concurrent_acts),
        }
    }

    /// Claims a place of `class`.
    pub(super) fn claim(&self, class: Class) -> Result<Claim> {
        let (places, name) = match class {
            Class::Reads => (&self.reads, "reads"),
            Class::Downloads => (&self.downloads, "downloads"),
            Class::Loads => (&self.loads, "loads"),
            Class::Acts => (&self.acts, "acts"),
        };
        if let Ok(permit) = Arc::clone(&places.free).try_acquire_owned() {
            return Ok(Claim::Place(permit));
        }
        let ahead = places
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < places.queue).then_some(waiting + 1)
            })
            .map_err(|waiting| {
                Failure::new(
                    Code::QueueFull,
                    format!("{} {name} are running and {waiting} are waiting", places.total),
                )
                .hint("try again when some have ended; GET /v1/jobs?state=queued lists them")
            })?;
        Ok(Claim::Wait(Waiting {
            free: Arc::clone(&places.free),
            waiting: Arc::clone(&places.waiting),
            total: places.total,
            ahead,
        }))
    }
}

impl Waiting {
    /// Waits for its turn. Places are given in the order in which jobs began to wait.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.free).acquire_owned().await {
            Ok(permit) => permit,
            // Nothing closes these semaphores.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
