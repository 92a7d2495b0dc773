//! `WorkerProcessList`: the hive's worker processes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::text::each_member;
use crate::workers::Worker;

/// Asks for every worker process of this hive.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerProcessList {}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(as = WorkerProcessListResult)]
pub(super) struct Workers(#[serde(serialize_with = "each_member")] Vec<Worker>);

impl Operation for WorkerProcessList {
    const NAME: &'static str = "WorkerProcessList";
    const VERB: &'static str = "ps";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Workers;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("worker_process_list", "📋 Listing workers on hive '{}'", cx.hive_id);
        cx.app.workers.refresh().await;
        let workers = cx.app.workers.list();
        n!("worker_process_list", "Found {} worker(s)", workers.len());
        Ok(Workers(workers))
    }
}
