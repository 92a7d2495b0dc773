//! What a job says: narrations, progress and the result.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::time::Instant;

/// The level of a narration. The plain stream carries `Info` and above, the typed stream all levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Details for finding a fault.
    Debug,
    /// For every reader.
    Info,
    /// Something is wrong, and the work continues.
    Warn,
    /// Something failed.
    Error,
}

/// How much of a piece of work is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, if known.
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
    /// Open connections, for a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Units that are stored, so that the same request goes on from there if the hive is killed now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

/// One message of a job.
#[derive(Clone, Debug)]
pub struct Narration {
    /// When it was made.
    pub at: Instant,
    /// Its level.
    pub level: Level,
    /// What the job was doing, in `snake_case`: stable, for programs.
    pub action: &'static str,
    /// The text for people. May have several lines.
    pub message: String,
    /// The progress, for a progress narration.
    pub progress: Option<Progress>,
}

/// A step in a job's life between its submission and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStep {
    /// It waits in the queue of its class.
    Queued,
    /// It left the queue and runs.
    Started,
}

impl JobStep {
    /// The name in a journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Started => "started",
        }
    }
}

/// What [`n!`](crate::n) sends to the job's log.
#[derive(Debug)]
pub enum Entry {
    /// A narration.
    Narration(Narration),
    /// A step of the job, with the narration that reports it. The hive acts on the step; the
    /// narration's action is for readers.
    Step {
        /// The step.
        step: JobStep,
        /// The narration.
        narration: Narration,
    },
    /// The operation's result, as one line of JSON.
    Result {
        /// When it was made.
        at: Instant,
        /// The result.
        data: Box<RawValue>,
    },
}
