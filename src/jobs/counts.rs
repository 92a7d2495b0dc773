//! What is counted of all jobs since the hive started.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::event::Terminal;
use crate::histogram::Histogram;
use crate::narration::Level;

/// The counts of one hive.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<JobCounts>);

/// What was counted at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobCounts {
    /// The jobs that have ended, by the operation in `snake_case`.
    pub(crate) ended: BTreeMap<String, Ended>,
    /// The narrations, by level.
    pub(crate) narrations: BTreeMap<Level, u64>,
}

/// The jobs of one operation that have ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    /// From the submission of each to its end.
    pub(crate) took: Histogram,
}

impl Counts {
    /// A job has ended, so long after it was submitted.
    pub(super) fn ended(&self, operation: &str, terminal: &Terminal, took: Duration) {
        let ended = &mut self.0.lock().ended;
        // Not by the entry, which would make a name for each look.
        if !ended.contains_key(operation) {
            ended.insert(operation.to_owned(), Ended::default());
        }
        let Some(ended) = ended.get_mut(operation) else { return };
        *match terminal {
            Terminal::Done => &mut ended.succeeded,
            Terminal::Failed(_) => &mut ended.failed,
            Terminal::Cancelled => &mut ended.cancelled,
        } += 1;
        ended.took.add(took);
    }

    /// Jobs have narrated at these levels.
    pub(super) fn narrated(&self, levels: impl Iterator<Item = Level>) {
        let narrations = &mut self.0.lock().narrations;
        levels.for_each(|level| *narrations.entry(level).or_default() += 1);
    }

    pub(super) fn now(&self) -> JobCounts {
        self.0.lock().clone()
    }
}
