//! How often a transfer may fail before it gives up: one budget for all of its connections.
//!
//! Connections fail together (a server restarts, a cable is pulled), so the failures of one moment
//! count once: an attempt spends the budget only if none that began after it has. Progress fills the
//! budget up again.

use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::Instant;

use crate::models::transfer::trouble::TroubleKind;

/// So many bytes since the last failure are progress.
const PROGRESS: u64 = 64 << 10;
/// The longest wait between two attempts that the server did not ask for.
const LONGEST: Duration = Duration::from_secs(30);

/// The budget of one transfer.
#[derive(Debug)]
pub(crate) struct Budget {
    retries: u32,
    /// The wait before the first retry; it doubles with each further one.
    first: Duration,
    /// The longest wait that a server may ask for.
    most: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failures: u32,
    epoch: u64,
    bytes: u64,
    not_before: Instant,
}

/// When an attempt began, in failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt(u64);

/// What is to be done after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after so long; this is the failure's number.
    Retry {
        /// From 1.
        failure: u32,
        /// How long all connections wait.
        wait: Duration,
    },
    /// Try again; the failure was counted with another's.
    Again,
    /// Give up.
    Exhausted,
}

impl Budget {
    /// A budget of that many failures in a row.
    pub(crate) fn new(retries: u32, first: Duration, most: Duration) -> Self {
        let state = State { failures: 0, epoch: 0, bytes: 0, not_before: Instant::now() };
        Self { retries, first, most, state: Mutex::new(state) }
    }

    /// How many failures in a row are forgiven.
    pub(crate) const fn retries(&self) -> u32 {
        self.retries
    }

    /// Begins an attempt. The answer's instant is when it may ask the server.
    pub(crate) fn attempt(&self) -> (Attempt, Instant) {
        let state = self.state.lock();
        (Attempt(state.epoch), state.not_before)
    }

    /// Counts the failure of an attempt.
    pub(crate) fn failed(&self, attempt: Attempt, kind: TroubleKind) -> Next {
        let mut state = self.state.lock();
        if attempt.0 != state.epoch {
            return Next::Again;
        }
        state.epoch += 1;
        state.failures += 1;
        state.bytes = 0;
        if state.failures > self.retries {
            return Next::Exhausted;
        }
        let wait = match kind {
            TroubleKind::Later(asked) => asked.min(self.most),
            // Enough has been waited; and an address that expired is just asked for again.
            TroubleKind::Stalled | TroubleKind::Expired => Duration::ZERO,
            _ => {
                let doubled = self.first.saturating_mul(1 << (state.failures - 1).min(16)).min(LONGEST);
                doubled.mul_f64(rand::rng().random_range(0.5..1.0))
            }
        };
        state.not_before = Instant::now() + wait;
        Next::Retry { failure: state.failures, wait }
    }

    /// Counts bytes that arrived.
    pub(crate) fn received(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.bytes += bytes;
        if state.bytes >= PROGRESS {
            state.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_moment_count_once_and_progress_forgives_them() {
        let budget = Budget::new(2, Duration::from_millis(10), Duration::from_secs(1));
        let (one, _) = budget.attempt();
        let (two, _) = budget.attempt();
        assert!(matches!(budget.failed(one, TroubleKind::Passing), Next::Retry { failure: 1, .. }));
        assert_eq!(budget.failed(two, TroubleKind::Passing), Next::Again);
        let later = TroubleKind::Later(Duration::from_secs(9_999_999));
        let next = budget.failed(budget.attempt().0, later);
        assert_eq!(next, Next::Retry { failure: 2, wait: Duration::from_secs(1) }, "absurd waits are cut");
        assert!(budget.attempt().1 > Instant::now());
        budget.received(PROGRESS);
        for failure in 1..=2 {
            let next = budget.failed(budget.attempt().0, TroubleKind::Stalled);
            assert_eq!(next, Next::Retry { failure, wait: Duration::ZERO });
        }
        assert_eq!(budget.failed(budget.attempt().0, TroubleKind::Passing), Next::Exhausted);
    }
}
