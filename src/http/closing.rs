//! How the connection loop is told to end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The end of a connection loop, in two steps where a successor serves on the same sockets, else in one. Clones share
/// it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing {
    /// Cancelled when a successor accepts connections from now on. Those that are here end after one more answer, and
    /// at once where they have had one and wait for the next request. So a client that has connected is answered.
    pub(crate) finishing: CancellationToken,
    /// Cancelled when all answers are to end: those under way have a time for that.
    pub(crate) quiet: CancellationToken,
    /// The connections that have not sent a request yet.
    pub(crate) unasked: TaskTracker,
    limit: Arc<OnceLock<Duration>>,
}

impl Closing {
    /// The end that follows when `quiet` is cancelled.
    pub(crate) fn new(quiet: CancellationToken) -> Self {
        Self { quiet, ..Self::default() }
    }

    /// The end that follows when `quiet` is cancelled, with the limit that somebody else sets.
    pub(super) fn within(quiet: CancellationToken, limit: Arc<OnceLock<Duration>>) -> Self {
        Self { quiet, limit, ..Self::default() }
    }

    /// Sets how long the answers under way may take once all are to end. The first call counts.
    pub(crate) fn set_limit(&self, limit: Duration) {
        let _first = self.limit.set(limit);
    }

    /// That time; `otherwise` where none was set.
    pub(super) fn limit(&self, otherwise: Duration) -> Duration {
        self.limit.get().copied().unwrap_or(otherwise)
    }
}

impl From<CancellationToken> for Closing {
    fn from(quiet: CancellationToken) -> Self {
        Self::new(quiet)
    }
}
