//! `WorkerRemove`: removes an engine that the hive installed and that no worker runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::engine_store::EngineId;
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::{n, text};

/// Removes one engine, or one version of it.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerRemove {
    /// The engine's id, such as `llama-server-cpu`.
    worker_id: String,
    /// That version alone.
    #[serde(default)]
    version: Option<String>,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkerRemoveResult)]
pub(super) struct Removed {
    id: EngineId,
    freed_bytes: u64,
}

impl Operation for WorkerRemove {
    const NAME: &'static str = "WorkerRemove";
    const VERB: &'static str = "engines rm";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;
    const FREES: bool = true;

    type Output = Removed;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("worker_remove", "🗑️ Removing engine '{}' from hive '{}'", self.worker_id, cx.hive_id);
        let (id, freed_bytes) = cx.app.engines.remove(&self.worker_id, self.version).await?;
        n!("worker_remove", "Removed {id}; {} freed", text::bytes(freed_bytes));
        Ok(Removed { id, freed_bytes })
    }
}
