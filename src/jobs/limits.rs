//! How many jobs of a class run at once, and how many may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::job::JobClass;
use crate::config::Jobs;
use crate::error::{Code, Failure, Result};

/// The limits of every class.
#[derive(Debug)]
pub(super) struct Limits {
    reads: ClassLimit,
    downloads: ClassLimit,
    loads: ClassLimit,
    acts: ClassLimit,
}

#[derive(Debug)]
struct ClassLimit {
    permits: Arc<Semaphore>,
    /// Jobs that may run at once.
    total: usize,
    /// Jobs that wait now.
    waiting: Arc<AtomicUsize>,
    /// Jobs that may wait.
    queue: usize,
}

/// A job's claim on a permit. Made when the job is submitted, so that a full queue refuses it there.
#[derive(Debug)]
pub(super) enum Claim {
    /// A permit was free.
    Permit(OwnedSemaphorePermit),
    /// The job must wait for one.
    Wait(Waiting),
}

/// A position in the queue, given up when dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// Jobs of the class that may run at once.
    pub(super) total: usize,
    /// Jobs of the class that waited already.
    pub(super) ahead: usize,
}

impl Limits {
    pub(super) fn new(config: &Jobs) -> Self {
        let limit = |total| ClassLimit {
            permits: Arc::new(Semaphore::new(total)),
            total,
            waiting: Arc::default(),
            queue: config.queue,
        };
        Self {
            reads: limit(config.concurrent_reads),
            downloads: limit(config.concurrent_downloads),
            loads: limit(config.concurrent_loads),
            acts: limit(config.concurrent_acts),
        }
    }

    /// Claims a permit of `class`.
    ///
    /// # Errors
    /// [`Code::QueueFull`]
    pub(super) fn claim(&self, class: JobClass) -> Result<Claim> {
        let (limit, name) = match class {
            JobClass::Reads => (&self.reads, "reads"),
            JobClass::Downloads => (&self.downloads, "downloads"),
            JobClass::Loads => (&self.loads, "loads"),
            JobClass::Acts => (&self.acts, "acts"),
        };
        if let Ok(permit) = Arc::clone(&limit.permits).try_acquire_owned() {
            return Ok(Claim::Permit(permit));
        }
        let ahead = limit
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < limit.queue).then_some(waiting + 1)
            })
            .map_err(|waiting| {
                Failure::new(
                    Code::QueueFull,
                    format!("{} {name} are running and {waiting} are waiting", limit.total),
                )
                .hint("try again when some have ended; GET /v1/jobs?state=queued lists them")
            })?;
        Ok(Claim::Wait(Waiting {
            permits: Arc::clone(&limit.permits),
            waiting: Arc::clone(&limit.waiting),
            total: limit.total,
            ahead,
        }))
    }
}

impl Waiting {
    /// Waits for a permit. Permits go out in the order in which jobs began to wait.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.permits).acquire_owned().await {
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
