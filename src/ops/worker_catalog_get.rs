//! `WorkerCatalogGet`: one engine that could be had for this machine.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::engines::Offer;
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Asks for one engine that could be installed here.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerCatalogGet {
    /// The engine's id, such as `llama-server-cpu`.
    worker_id: String,
}

impl Operation for WorkerCatalogGet {
    const NAME: &'static str = "WorkerCatalogGet";
    const VERB: &'static str = "engines show";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Offer;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("worker_catalog_get", "Looking for engine '{}' for hive '{}'", self.worker_id, cx.hive_id);
        cx.app.engines.offer_of(&self.worker_id).await
    }
}
