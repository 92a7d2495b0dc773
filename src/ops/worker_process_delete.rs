//! `WorkerProcessDelete`: stops one of the hive's worker processes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::because;
use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::text;
use crate::workers::Stopped;

/// Stops one worker process.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerProcessDelete {
    /// The process id of one of this hive's workers.
    pid: u32,
    /// How long its requests, and then the process, may take to end before it is killed, in seconds.
    #[serde(default = "default_grace")]
    grace_seconds: GraceSeconds,
    /// Why it is stopped, for people.
    #[serde(default)]
    reason: Option<String>,
}

/// A grace period of 0 to 240 seconds, within the deadline of an act.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(try_from = "u64")]
#[schema(maximum = 240)]
struct GraceSeconds(u64);

impl TryFrom<u64> for GraceSeconds {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        if seconds > 240 {
            return Err(format!("{seconds} is more than 240 seconds"));
        }
        Ok(Self(seconds))
    }
}

const fn default_grace() -> GraceSeconds {
    GraceSeconds(10)
}

impl Operation for WorkerProcessDelete {
    const NAME: &'static str = "WorkerProcessDelete";
    const VERB: &'static str = "stop";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;
    const FREES: bool = true;

    type Output = Stopped;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let because = because(self.reason.as_deref());
        n!("worker_process_delete", "🛑 Stopping worker {} on hive '{}'{because}", self.pid, cx.hive_id);
        let stopped = cx.app.workers.stop(self.pid, Duration::from_secs(self.grace_seconds.0)).await?;
        let freed = text::bytes(stopped.freed_bytes);
        if stopped.proven {
            n!("worker_process_delete", "Worker {} is gone; {freed} freed", self.pid);
        } else {
            n!(
                warn: "worker_process_delete",
                "Worker {} may not be gone completely; {freed} freed",
                self.pid
            );
        }
        Ok(stopped)
    }
}
