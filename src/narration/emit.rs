//! The functions that [`n!`](crate::n) expands to.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::value::RawValue;

use super::context::{current, with_current};
use super::entry::{Entry, JobStep, Level, Narration, Progress};
use crate::time::Instant;

/// Narrations made outside any job since the process started.
static OUTSIDE_JOBS: AtomicU64 = AtomicU64::new(0);

/// The number of narrations made outside any job since the process started. They reached `tracing`
/// alone. If the number grows while jobs run, some work has lost its context.
#[must_use]
pub fn outside_jobs() -> u64 {
    OUTSIDE_JOBS.load(Ordering::Relaxed)
}

/// Narrates. Use [`n!`](crate::n).
#[doc(hidden)]
pub fn narrate(level: Level, action: &'static str, message: String, progress: Option<Progress>) {
    narrate_as(Entry::Narration, level, action, message, progress);
}

/// Narrates a step of the job.
pub(crate) fn narrate_step(step: JobStep, level: Level, action: &'static str, message: String) {
    narrate_as(|narration| Entry::Step { step, narration }, level, action, message, None);
}

fn narrate_as(
    entry: impl FnOnce(Narration) -> Entry,
    level: Level,
    action: &'static str,
    mut message: String,
    progress: Option<Progress>,
) {
    let is_in_job = with_current(|context| {
        trace(level, context.job_id(), context.operation(), action, &message);
        let at = Instant::now();
        let message = std::mem::take(&mut message);
        if level > Level::Debug {
            context.narrated();
        }
        context.send(entry(Narration { at, level, action, message, progress }));
    });
    if !is_in_job {
        OUTSIDE_JOBS.fetch_add(1, Ordering::Relaxed);
        trace(level, "", "", action, &message);
    }
}

/// Sends the operation's result. Use [`n!(result: ..)`](crate::n).
#[doc(hidden)]
pub fn narrate_result(data: Box<RawValue>) {
    match current() {
        Some(context) => {
            trace(Level::Debug, context.job_id(), context.operation(), "result", data.get());
            let at = Instant::now();
            context.send(Entry::Result { at, data });
        }
        None => {
            OUTSIDE_JOBS.fetch_add(1, Ordering::Relaxed);
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
