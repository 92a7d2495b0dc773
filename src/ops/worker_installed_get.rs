//! `WorkerInstalledGet`: one engine that the hive installed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::engines::InstalledEngine;
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Asks for one installed engine.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerInstalledGet {
    /// The engine's id, such as `llama-server-cpu`.
    worker_id: String,
}

impl Operation for WorkerInstalledGet {
    const NAME: &'static str = "WorkerInstalledGet";
    const VERB: &'static str = "engines show";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = InstalledEngine;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("worker_installed_get", "Looking for engine '{}' on hive '{}'", self.worker_id, cx.hive_id);
        cx.app.engines.get(&self.worker_id).await
    }
}
