//! `WorkerCatalogList`: the engines that could be had for this machine.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::engines::Offer;
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Asks for every engine that could be installed here.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerCatalogList {
    /// Whether the releases are asked even if they were asked a moment ago.
    #[serde(default)]
    refresh: bool,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkerCatalogListResult)]
pub(super) struct Catalog {
    workers: Vec<Offer>,
}

impl Operation for WorkerCatalogList {
    const NAME: &'static str = "WorkerCatalogList";
    const VERB: &'static str = "engines list";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Catalog;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("worker_catalog_list", "📋 Looking which engines there are for hive '{}'", cx.hive_id);
        let workers = cx.app.engines.offers(self.refresh).await?;
        n!("worker_catalog_list", "Found {} engine(s) for this machine", workers.len());
        Ok(Catalog { workers })
    }
}
