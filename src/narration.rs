//! Narration: the messages with which a job reports, live, what it does.
//!
//! [`n!`](crate::n) is the only way to narrate. Inside a job it reaches the job's stream, because
//! `ops::route_operation` has put the job's [`NarrationContext`] around every handler, and
//! [`crate::spawn`] carries that context into tasks, threads and the readers of child processes.
//! Outside a job it reaches `tracing` alone, and is counted ([`outside_jobs`]).
//!
//! Invariants:
//! - `n!` never blocks and never drops: it sends into an unbounded channel that one task drains.
//! - Every narration also reaches `tracing`, under the target `rbee_hive::narration`.
//! - The context is set in one place; nothing here depends on the operation that it belongs to.

mod lines;
mod emit;
mod context;
#[cfg(test)]
mod escape;
mod entry;

pub use context::{NarrationContext, WaitGuard, late, waiting_for, with_narration_context};
pub use emit::{narrate, narrate_result, outside_jobs};
pub use entry::{Entry, JobStep, Level, Narration, Progress};
pub use lines::{LineNarrator, LineSplitter};

pub(crate) use context::{by_itself, current, current_job};
pub(crate) use emit::narrate_step;

/// Narrates to the stream of the current job, and to `tracing`.
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
    use tokio::sync::mpsc;

    use super::*;

    fn message(entry: Entry) -> String {
        match entry {
            Entry::Narration(narration) | Entry::Step { narration, .. } => narration.message,
            Entry::Result { data, .. } => data.get().to_owned(),
        }
    }

    #[tokio::test]
    async fn every_form_of_n_arrives_in_order() {
        let (sender, mut entries) = mpsc::unbounded_channel();
        with_narration_context(NarrationContext::new("job-1".into(), "test", sender), async {
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

    #[test]
    fn a_narration_outside_any_job_is_counted() {
        let before = outside_jobs();
        n!("stray", "no job receives this");
        assert!(outside_jobs() > before);
    }
}
