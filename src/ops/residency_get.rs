//! `ResidencyGet`: which models are in memory, who waits, and why.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::residency::ResidencyView;

/// Asks what is in memory.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResidencyGet {}

impl Operation for ResidencyGet {
    const NAME: &'static str = "ResidencyGet";
    const VERB: &'static str = "memory";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = ResidencyView;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("residency_get", "🧠 Looking at what is in memory on hive '{}'", cx.hive_id);
        Ok(cx.app.residency.view().await)
    }
}
