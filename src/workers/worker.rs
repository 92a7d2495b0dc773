//! A worker as clients see it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::requests::Averages;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WorkerStatus)]
pub enum Status {
    /// Its process runs and does not listen yet.
    Starting,
    /// It listens and loads its model.
    Loading,
    /// It is ready and answers no request.
    Ready,
    /// It is ready and answers at least one request.
    Busy,
    /// It has been ready, and gives no sign of life: it neither answers nor computes.
    Unresponsive,
    /// It accepts no more requests and is about to end.
    Stopping,
    /// It ended without being asked to.
    Crashed,
    /// It ended because it was asked to.
    Stopped,
}

impl Status {
    /// All of them, with their names on the wire.
    pub(crate) const ALL: [(Self, &str); 8] = [
        (Self::Starting, "starting"),
        (Self::Loading, "loading"),
        (Self::Ready, "ready"),
        (Self::Busy, "busy"),
        (Self::Unresponsive, "unresponsive"),
        (Self::Stopping, "stopping"),
        (Self::Crashed, "crashed"),
        (Self::Stopped, "stopped"),
    ];

    /// Whether the worker answers requests.
    #[must_use]
    pub const fn serves(self) -> bool {
        matches!(self, Self::Ready | Self::Busy)
    }

    /// Whether its process runs.
    #[must_use]
    pub const fn lives(self) -> bool {
        !matches!(self, Self::Crashed | Self::Stopped)
    }
}

/// One worker. Its fields have the order of the wire.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Worker {
    /// Unique for ever, unlike the process id. The worker's folder is named after it.
    pub worker_id: String,
    /// The process id, which is also the id of its process group.
    pub pid: u32,
    /// The id of the model that it serves.
    pub model: String,
    /// The device that it computes on: `cpu`, `cuda:0`, ...
    pub device: String,
    /// The TCP port on loopback, once it listens.
    pub port: Option<u16>,
    /// The base URL, once it listens.
    pub url: Option<String>,
    /// The name of its engine.
    pub engine: String,
    /// What it is doing.
    pub status: Status,
    /// When the process was started: RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// Seconds since then; of a crashed worker, the seconds that it lived.
    pub uptime_seconds: u64,
    /// Processor time of the group, in percent of one core, over the time since the last sample.
    pub cpu_percent: f32,
    /// Resident memory of the group.
    pub rss_bytes: u64,
    /// Memory of the group on GPUs; unset where it is unknown.
    pub vram_bytes: Option<u64>,
    /// Tokens of context of each slot; unset where neither the hive nor its engine tells.
    pub context_length: Option<u64>,
    /// Requests that it can answer at once; 0 until it is ready.
    pub slots: u32,
    /// Requests that it has received since it started.
    pub requests: u64,
    /// Tokens that it has generated since it started.
    pub tokens_generated: u64,
    /// How it ended, in words, if it crashed.
    pub last_exit: Option<String>,
    /// Averages over its last answers.
    #[serde(flatten)]
    pub recent: Averages,
    /// Whether it tries its engine: no request reaches it, and it ends with its try.
    pub trial: bool,
}
