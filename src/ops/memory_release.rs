//! `MemoryRelease`: gives leased memory back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::{n, text};

/// Ends a lease before it expires. What went for it comes back.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryRelease {
    /// The id that `MemoryLease` answered with.
    lease_id: String,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemoryReleaseResult)]
pub(super) struct Released {
    lease_id: String,
    /// The models that come back.
    restores: Vec<String>,
}

impl Operation for MemoryRelease {
    const NAME: &'static str = "MemoryRelease";
    const VERB: &'static str = "lease release";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;
    const FREES: bool = true;

    type Output = Released;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let lease_id = text::excerpt(&self.lease_id);
        n!("memory_release", "🧮 Ending lease {lease_id} on hive '{}'", cx.hive_id);
        let restores: Vec<String> =
            cx.app.residency.release(&self.lease_id)?.into_iter().map(|gone| gone.model).collect();
        match &restores[..] {
            [] => n!("memory_release", "The lease has ended; nothing had gone for it"),
            models => n!("memory_release", "The lease has ended; loading again: {}", models.join(", ")),
        }
        Ok(Released { lease_id: self.lease_id, restores })
    }
}
