//! `WorkerListInstalled`: the engines that the hive installed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::engines::{FailedEngine, InstalledEngine};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Asks for every installed engine.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerListInstalled {}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkerListInstalledResult)]
pub(super) struct Installed {
    workers: Vec<InstalledEngine>,
    failed: Vec<FailedEngine>,
}

impl Operation for WorkerListInstalled {
    const NAME: &'static str = "WorkerListInstalled";
    const VERB: &'static str = "engines installed";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Installed;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("worker_list_installed", "📋 Listing the engines that hive '{}' installed", cx.hive_id);
        let (workers, failed) = (cx.app.engines.installed().await?, cx.app.engines.failed().await?);
        n!("worker_list_installed", "Found {} installed engine(s)", workers.len());
        Ok(Installed { workers, failed })
    }
}
