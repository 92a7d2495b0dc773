//! `WorkerProcessGet`: one of the hive's worker processes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::workers::Worker;

/// Asks for one worker process.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerProcessGet {
    /// The process id of one of this hive's workers.
    pid: u32,
}

impl Operation for WorkerProcessGet {
    const NAME: &'static str = "WorkerProcessGet";
    const VERB: &'static str = "ps";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Worker;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("worker_process_get", "🔎 Looking up worker {} on hive '{}'", self.pid, cx.hive_id);
        cx.app.workers.refresh().await;
        let worker = cx.app.workers.get(self.pid)?;
        n!("worker_process_get", "Worker {} serves '{}' on {}", worker.pid, worker.model, worker.device);
        Ok(worker)
    }
}
