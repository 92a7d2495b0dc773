//! The answers of this hive to others, which may go on where it has left the fleet for a successor.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::task::TaskTracker;

/// The answers to other hives. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visits {
    under_way: TaskTracker,
    limit: Arc<OnceLock<Duration>>,
}

impl Visits {
    /// Follows what answers others to its end.
    pub(crate) fn track<F: Future>(&self, answering: F) -> impl Future<Output = F::Output> + use<F> {
        self.under_way.track_future(answering)
    }

    /// How long answers under way may take once this hive ends, as soon as that is known.
    pub(crate) fn limit(&self) -> Arc<OnceLock<Duration>> {
        Arc::clone(&self.limit)
    }

    /// Says how long. The first call counts.
    pub(crate) fn set_limit(&self, limit: Duration) {
        let _first = self.limit.set(limit);
    }

    /// Waits until all have ended. No more may begin.
    pub(crate) async fn end(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}
