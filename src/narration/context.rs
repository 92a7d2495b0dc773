//! The task-local context: the job to which a narration belongs.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::entry::Entry;
use crate::time::monotonic;

tokio::task_local! {
    static CONTEXT: NarrationContext;
}

/// Narrations by work that outlived its job's terminal event.
static LATE: AtomicU64 = AtomicU64::new(0);

/// Where the narrations of one job go. Cheap to clone.
#[derive(Clone)]
pub struct NarrationContext(Arc<Inner>);

struct Inner {
    /// Empty for work of the hive itself.
    job_id: String,
    operation: &'static str,
    /// `None` for work of the hive itself.
    entries: Option<mpsc::UnboundedSender<Entry>>,
    /// When the context was made, and when it last narrated, in milliseconds since then.
    made: std::time::Instant,
    narrated_ms: AtomicU64,
    waits: Mutex<Vec<Wait>>,
    next_wait: AtomicU64,
}

struct Wait {
    id: u64,
    what: String,
    since: std::time::Instant,
}

impl NarrationContext {
    /// A context whose narrations go to `entries`.
    #[must_use]
    pub fn new(job_id: String, operation: &'static str, entries: mpsc::UnboundedSender<Entry>) -> Self {
        Self::to(job_id, operation, Some(entries))
    }

    fn to(job_id: String, operation: &'static str, entries: Option<mpsc::UnboundedSender<Entry>>) -> Self {
        Self(Arc::new(Inner {
            job_id,
            operation,
            entries,
            made: monotonic(),
            narrated_ms: AtomicU64::new(0),
            waits: Mutex::default(),
            next_wait: AtomicU64::new(0),
        }))
    }

    /// The id of the job; empty for work of the hive itself.
    pub(super) fn job_id(&self) -> &str {
        &self.0.job_id
    }

    /// The operation that the job runs, in `snake_case`.
    pub(super) fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// For how long the job has narrated nothing at a level that every reader sees; before the first such
    /// narration, since the context was made. A debug narration does not count: a plain stream does not
    /// carry it.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        self.lived().saturating_sub(Duration::from_millis(self.0.narrated_ms.load(Ordering::Relaxed)))
    }

    /// Notes that the job narrates now.
    pub(super) fn narrated(&self) {
        let lived = u64::try_from(self.lived().as_millis()).unwrap_or(u64::MAX);
        self.0.narrated_ms.store(lived, Ordering::Relaxed);
    }

    fn lived(&self) -> Duration {
        monotonic().saturating_duration_since(self.0.made)
    }

    /// What the job waits for, and since when: the innermost of its waits.
    #[must_use]
    pub fn waiting_for(&self) -> Option<(String, std::time::Instant)> {
        self.0.waits.lock().last().map(|wait| (wait.what.clone(), wait.since))
    }

    /// Runs `f` with this context, on the calling thread.
    pub(crate) fn enter<R>(self, f: impl FnOnce() -> R) -> R {
        CONTEXT.sync_scope(self, f)
    }

    /// Sends an entry to the job's log.
    pub(super) fn send(&self, entry: Entry) {
        if let Some(entries) = &self.0.entries
            && entries.send(entry).is_err()
        {
            LATE.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for NarrationContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NarrationContext")
            .field("job_id", &self.0.job_id)
            .field("operation", &self.0.operation)
            .finish_non_exhaustive()
    }
}

/// Runs a future with `context`: [`n!`](crate::n) in the future, and in everything that it starts
/// through [`crate::spawn`], reaches that context's job.
pub async fn with_narration_context<F: Future>(context: NarrationContext, future: F) -> F::Output {
    CONTEXT.scope(context, future).await
}

/// Runs work that the hive does by itself and that belongs to no job: what it narrates reaches the hive's
/// log alone, under the name of `operation`.
pub(crate) async fn by_itself<F: Future>(operation: &'static str, work: F) -> F::Output {
    CONTEXT.scope(NarrationContext::to(String::new(), operation, None), work).await
}

/// The id of the job that the calling task or thread works for, if it works for one.
pub(crate) fn current_job() -> Option<String> {
    current().map(|context| context.0.job_id.clone()).filter(|job| !job.is_empty())
}

/// The context of the calling task or thread, if it runs inside a job.
pub(crate) fn current() -> Option<NarrationContext> {
    CONTEXT.try_with(Clone::clone).ok()
}

/// Calls `f` with the context of the calling task or thread. Returns whether there is one.
pub(super) fn with_current(f: impl FnOnce(&NarrationContext)) -> bool {
    // It borrows the context: a clone costs two atomic operations on a counter that every thread of
    // the job would write to.
    CONTEXT.try_with(f).is_ok()
}

/// The number of narrations by work that outlived its job's terminal event. They reached `tracing`
/// alone.
#[must_use]
pub fn late() -> u64 {
    LATE.load(Ordering::Relaxed)
}

/// Records what the job waits for, until the guard is dropped. A job that narrates nothing for
/// `timers.silence` narrates its wait. Outside a job this does nothing.
pub fn waiting_for(what: impl Into<String>) -> WaitGuard {
    WaitGuard(current().map(|context| {
        let id = context.0.next_wait.fetch_add(1, Ordering::Relaxed);
        context.0.waits.lock().push(Wait { id, what: what.into(), since: monotonic() });
        (context, id)
    }))
}

/// Ends a wait of [`waiting_for`] when dropped.
#[must_use = "the wait ends when the guard is dropped"]
pub struct WaitGuard(Option<(NarrationContext, u64)>);

impl Drop for WaitGuard {
    fn drop(&mut self) {
        if let Some((context, id)) = &self.0 {
            context.0.waits.lock().retain(|wait| wait.id != *id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::n;

    fn context() -> (NarrationContext, mpsc::UnboundedReceiver<Entry>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (NarrationContext::new("job-1".into(), "test", sender), receiver)
    }

    #[tokio::test]
    async fn the_innermost_wait_is_reported_until_its_guard_is_dropped() {
        let (context, _entries) = context();
        with_narration_context(context.clone(), async {
            let outer = waiting_for("outer");
            let inner = waiting_for("inner");
            assert_eq!(context.waiting_for().unwrap().0, "inner");
            drop(outer);
            assert_eq!(context.waiting_for().unwrap().0, "inner");
            drop(inner);
            assert!(context.waiting_for().is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn a_debug_narration_does_not_end_the_silence() {
        let (context, _entries) = context();
        let narrated = || context.0.narrated_ms.load(Ordering::Relaxed);
        context.0.narrated_ms.store(u64::MAX, Ordering::Relaxed);
        with_narration_context(context.clone(), async {
            n!(debug: "a", "a detail");
            assert_eq!(narrated(), u64::MAX);
            n!("a", "for every reader");
            assert!(narrated() < u64::MAX);
        })
        .await;
    }
}
