//! How often a transfer may fail before it gives up: one budget for all of its connections.
//!
//! Connections fail together (a server restarts, a cable is pulled), so the failures of one moment
//! count once: an attempt's failure counts only if no failure was counted since the attempt began.
//! Progress refills the budget.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use crate::models::transfer::trouble::TroubleKind;

/// This many bytes since the last failure are progress.
const PROGRESS: u64 = 64 << 10;
/// The longest wait between two attempts that the server did not ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The budget of one transfer.
#[derive(Debug)]
pub(crate) struct Budget {
    /// How many failures in a row are forgiven.
    pub(crate) retries: u32,
    /// The wait before the first retry; it doubles with each further one.
    first_wait: Duration,
    /// The longest wait that a server may ask for.
    longest_asked: Duration,
    failures: u32,
    /// How many failures were counted, ever: an attempt notes it when it begins.
    pub(crate) epoch: u64,
    /// The most bytes of the file that there ever were, and how many of them at the last failure.
    /// Bytes that are received a second time, because they were lost, are no progress.
    most_bytes: u64,
    bytes_at_failure: u64,
    /// When the next attempt may begin.
    pub(crate) not_before: Instant,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after `wait`, with all connections; `failure` is the number of this failure, from 1.
    Retry {
        failure: u32,
        wait: Duration,
    },
    /// Try again: another failure of the same moment was counted.
    Again,
    GiveUp,
}

impl Budget {
    /// A budget of this many failures in a row.
    pub(crate) fn new(retries: u32, first_wait: Duration, longest_asked: Duration) -> Self {
        Self {
            retries,
            first_wait,
            longest_asked,
            failures: 0,
            epoch: 0,
            most_bytes: 0,
            bytes_at_failure: 0,
            not_before: Instant::now(),
        }
    }

    /// Notes that there are this many bytes of the file.
    pub(crate) fn note_bytes(&mut self, bytes: u64) {
        self.most_bytes = self.most_bytes.max(bytes);
    }

    /// Counts the failure of an attempt that began in `epoch`.
    pub(crate) fn failed(&mut self, epoch: u64, kind: TroubleKind) -> Next {
        if epoch != self.epoch {
            return Next::Again;
        }
        if self.most_bytes - self.bytes_at_failure >= PROGRESS {
            self.failures = 0;
        }
        self.bytes_at_failure = self.most_bytes;
        self.epoch += 1;
        self.failures += 1;
        if self.failures > self.retries {
            return Next::GiveUp;
        }
        let wait = match kind {
            TroubleKind::Later(asked) => asked.min(self.longest_asked),
            // A stall was a wait itself, and a URL that expired is asked for again at once.
            TroubleKind::Stalled | TroubleKind::Expired => Duration::ZERO,
            _ => {
                let doubled = self.first_wait.saturating_mul(1 << (self.failures - 1).min(16));
                doubled.min(LONGEST_WAIT).mul_f64(rand::rng().random_range(0.5..1.0))
            }
        };
        self.not_before = Instant::now() + wait;
        Next::Retry { failure: self.failures, wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_moment_count_once_and_progress_forgives_them() {
        let mut budget = Budget::new(2, Duration::from_millis(10), Duration::from_secs(1));
        let epoch = budget.epoch;
        assert!(matches!(budget.failed(epoch, TroubleKind::Passing), Next::Retry { failure: 1, .. }));
        assert_eq!(budget.failed(epoch, TroubleKind::Passing), Next::Again);
        let later = TroubleKind::Later(Duration::from_secs(9_999_999));
        let next = budget.failed(budget.epoch, later);
        assert_eq!(next, Next::Retry { failure: 2, wait: Duration::from_secs(1) }, "absurd waits are cut");
        assert!(budget.not_before > Instant::now());
        budget.note_bytes(PROGRESS);
        for failure in 1..=2 {
            // The same bytes a second time are no progress.
            budget.note_bytes(PROGRESS);
            let next = budget.failed(budget.epoch, TroubleKind::Stalled);
            assert_eq!(next, Next::Retry { failure, wait: Duration::ZERO });
        }
        assert_eq!(budget.failed(budget.epoch, TroubleKind::Passing), Next::GiveUp);
    }
}
