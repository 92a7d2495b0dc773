//! Narration: how the hive tells, live, what it is doing.
//!
//! [`n!`](crate::n) is the one way to narrate. Inside a job it reaches the job's stream, because
//! `ops::route_operation` has put the job's [`NarrationContext`] around every handler, and
//! [`crate::spawn`] carries that context into tasks, threads and the readers of child processes.
//! Outside a job it reaches `tracing` alone, and is counted ([`strays`]).
//!
//! Invariants:
//! - `n!` never blocks and never drops: it sends into an unbounded channel that one task drains.
//! - Every narration also reaches `tracing`, under the target `rbee_hive::narration`.
//! - The context is set in one place; nothing in here looks at which operation it belongs to.

#[cfg(test)]
mod escape;
mod lines;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::time::Instant;

pub use lines::{LineNarrator, LineSplitter};

tokio::task_local! {
    static CONTEXT: NarrationContext;
}

/// Narrations made outside any job since the process started.
static STRAYS: AtomicU64 = AtomicU64::new(0);
/// Narrations made by work that outlived its job's terminal event.
static LATE: AtomicU64 = AtomicU64::new(0);

/// How loud a narration is. The plain stream carries `Info` and above, the typed one everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For whoever looks for the cause of something.
    Debug,
    /// For everybody.
    Info,
    /// Something is not as it should be, and the work goes on.
    Warn,
    /// Something failed.
    Error,
}

/// How far something has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What is counted: `bytes`, `files`, `layers`, ...
    pub unit: String,
    /// Units a second over the last seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u64>,
    /// Seconds until the end at that rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Connections that are at work on it, for a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// One thing said.
#[derive(Clone, Debug)]
pub struct Narration {
    /// When.
    pub at: Instant,
    /// How loud.
    pub level: Level,
    /// What was being done, in `snake_case`: stable, for programs.
    pub action: &'static str,
    /// What a person reads. May have several lines.
    pub message: String,
    /// How far it has come, for a progress narration.
    pub progress: Option<Progress>,
}

/// What travels from `n!` to the job's log.
#[derive(Debug)]
pub enum Entry {
    /// Something said.
    Narration(Narration),
    /// The operation's result, as one line of JSON.
    Result {
        /// When.
        at: Instant,
        /// The result.
        data: Box<RawValue>,
    },
}

/// Where the narrations of one job go. Cheap to clone.
#[derive(Clone)]
pub struct NarrationContext(Arc<Inner>);

struct Inner {
    job_id: String,
    operation: &'static str,
    entries: mpsc::UnboundedSender<Entry>,
    last_at_ms: AtomicI64,
    waiting: Mutex<Vec<Wait>>,
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
        Self(Arc::new(Inner {
            job_id,
            operation,
            entries,
            last_at_ms: AtomicI64::new(Instant::now().0),
            waiting: Mutex::default(),
            next_wait: AtomicU64::new(0),
        }))
    }

    /// The id of the job.
    pub(crate) fn job_id(&self) -> &str {
        &self.0.job_id
    }

    /// When the job last narrated something that every reader sees, or was made if it never did. A
    /// debug narration does not break the silence of a plain stream.
    #[must_use]
    pub fn last_at(&self) -> Instant {
        Instant(self.0.last_at_ms.load(Ordering::Relaxed))
    }

    /// The innermost thing that the job is known to wait for, and since when.
    #[must_use]
    pub fn waiting_for(&self) -> Option<(String, std::time::Instant)> {
        self.0.waiting.lock().last().map(|wait| (wait.what.clone(), wait.since))
    }

    /// Runs `f` with this context, on the calling thread.
    pub(crate) fn enter<R>(self, f: impl FnOnce() -> R) -> R {
        CONTEXT.sync_scope(self, f)
    }

    fn send(&self, entry: Entry) {
        if self.0.entries.send(entry).is_err() {
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

/// Runs a future with `context`, so that `n!` in it, and in whatever [`crate::spawn`] starts from
/// it, reaches that context's job.
pub async fn with_narration_context<F: Future>(context: NarrationContext, future: F) -> F::Output {
    CONTEXT.scope(context, future).await
}

/// The context of the calling task or thread, inside a job.
pub(crate) fn current() -> Option<NarrationContext> {
    CONTEXT.try_with(Clone::clone).ok()
}

/// How many narrations were made outside any job since the process started. They reached `tracing`
/// alone; a number that grows while jobs run means that some work lost its context.
#[must_use]
pub fn strays() -> u64 {
    STRAYS.load(Ordering::Relaxed)
}

/// How many narrations came from work that outlived its job's terminal event. They reached
/// `tracing` alone.
#[must_use]
pub fn late() -> u64 {
    LATE.load(Ordering::Relaxed)
}

/// Says, until the guard is dropped, what the job is waiting for: a job that is silent for long
/// narrates it. Outside a job it does nothing.
pub fn waiting_for(what: impl Into<String>) -> WaitGuard {
    WaitGuard(current().map(|context| {
        let id = context.0.next_wait.fetch_add(1, Ordering::Relaxed);
        context.0.waiting.lock().push(Wait { id, what: what.into(), since: std::time::Instant::now() });
        (context, id)
    }))
}

/// Ends a [`waiting_for`] when dropped.
#[must_use = "the wait ends when the guard is dropped"]
pub struct WaitGuard(Option<(NarrationContext, u64)>);

impl Drop for WaitGuard {
    fn drop(&mut self) {
        if let Some((context, id)) = &self.0 {
            context.0.waiting.lock().retain(|wait| wait.id != *id);
        }
    }
}

/// What `n!` expands to. Use the macro.
#[doc(hidden)]
pub fn narrate(level: Level, action: &'static str, mut message: String, progress: Option<Progress>) {
    // Borrows the context where it stands: a clone is two atomic operations a call, on a counter
    // that every thread of the job would write to.
    let told = CONTEXT.try_with(|context| {
        trace(level, &context.0.job_id, context.0.operation, action, &message);
        let at = Instant::now();
        let message = std::mem::take(&mut message);
        if level > Level::Debug {
            context.0.last_at_ms.store(at.0, Ordering::Relaxed);
        }
        context.send(Entry::Narration(Narration { at, level, action, message, progress }));
    });
    if told.is_err() {
        STRAYS.fetch_add(1, Ordering::Relaxed);
        trace(level, "", "", action, &message);
    }
}

/// What `n!(result: ..)` expands to. Use the macro.
#[doc(hidden)]
pub fn narrate_result(data: Box<RawValue>) {
    match current() {
        Some(context) => {
            trace(Level::Debug, &context.0.job_id, context.0.operation, "result", data.get());
            let at = Instant::now();
            context.send(Entry::Result { at, data });
        }
        None => {
            STRAYS.fetch_add(1, Ordering::Relaxed);
            trace(Level::Debug, "", "", "result", data.get());
        }
    }
}

fn trace(level: Level, job_id: &str, operation: &str, action: &str, message: &str) {
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: "rbee_hive::narration",
                tracing::Level::$level,
                job_id,
                operation,
                action,
                "{message}"
            )
        };
    }
    match level {
        Level::Debug => event!(DEBUG),
        Level::Info => event!(INFO),
        Level::Warn => event!(WARN),
        Level::Error => event!(ERROR),
    }
}

/// Narrates: to the stream of the job around it, and to `tracing`.
///
/// ```
/// use rbee_hive::n;
/// use rbee_hive::narration::Progress;
///
/// n!("model_load", "Loading {}", "tiny");
/// n!(debug: "model_load", "{} tensors", 12);
/// n!(warn: "model_load", "The file has {} bytes after its last tensor", 3);
/// n!(progress: Progress { done: 1, total: Some(4), unit: "bytes".into(), ..Progress::default() },
///    "model_load", "25 %");
/// ```
#[macro_export]
macro_rules! n {
    (result: $value:expr) => {
        $crate::narration::narrate_result($value)
    };
    (progress: $progress:expr, $action:expr, $($text:tt)+) => {
        $crate::narration::narrate(
            $crate::narration::Level::Info, $action, ::std::format!($($text)+), ::std::option::Option::Some($progress))
    };
    (debug: $action:expr, $($text:tt)+) => {
        $crate::narration::narrate(
            $crate::narration::Level::Debug, $action, ::std::format!($($text)+), ::std::option::Option::None)
    };
    (info: $action:expr, $($text:tt)+) => { $crate::n!($action, $($text)+) };
    (warn: $action:expr, $($text:tt)+) => {
        $crate::narration::narrate(
            $crate::narration::Level::Warn, $action, ::std::format!($($text)+), ::std::option::Option::None)
    };
    (error: $action:expr, $($text:tt)+) => {
        $crate::narration::narrate(
            $crate::narration::Level::Error, $action, ::std::format!($($text)+), ::std::option::Option::None)
    };
    ($action:expr, $($text:tt)+) => {
        $crate::narration::narrate(
            $crate::narration::Level::Info, $action, ::std::format!($($text)+), ::std::option::Option::None)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> (NarrationContext, mpsc::UnboundedReceiver<Entry>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (NarrationContext::new("job-1".into(), "test", sender), receiver)
    }

    fn message(entry: Entry) -> String {
        match entry {
            Entry::Narration(narration) => narration.message,
            Entry::Result { data, .. } => data.get().to_owned(),
        }
    }

    #[tokio::test]
    async fn every_form_arrives_in_order() {
        let (context, mut entries) = context();
        with_narration_context(context, async {
            n!("a", "one {}", 1);
            n!(debug: "b", "two");
            n!(warn: "c", "three");
            n!(error: "d", "four");
            n!(progress: Progress { done: 5, unit: "bytes".into(), ..Progress::default() }, "e", "five");
            n!(result: serde_json::value::to_raw_value(&[6]).unwrap());
        })
        .await;
        let mut all = Vec::new();
        while let Some(entry) = entries.recv().await {
            all.push(message(entry));
        }
        assert_eq!(all, ["one 1", "two", "three", "four", "five", "[6]"]);
    }

    #[tokio::test]
    async fn what_the_job_waits_for_nests_and_ends_with_its_guard() {
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
    async fn what_only_some_readers_see_does_not_break_the_silence() {
        let (context, _entries) = context();
        context.0.last_at_ms.store(0, Ordering::Relaxed);
        with_narration_context(context.clone(), async {
            n!(debug: "a", "aside");
            assert_eq!(context.last_at(), Instant(0));
            n!("a", "aloud");
            assert!(context.last_at() > Instant(0));
        })
        .await;
    }

    #[test]
    fn outside_a_job_a_narration_is_counted() {
        let before = strays();
        n!("stray", "nobody listens");
        assert!(strays() > before);
    }
}
