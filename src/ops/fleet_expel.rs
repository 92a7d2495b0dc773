//! `FleetExpel`: takes a hive's access to the fleet that this machine runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::fleet::Expelled;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Expels a hive. Nobody but an invitation brings it back.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FleetExpel {
    /// The name with which it was let in.
    name: String,
}

impl Operation for FleetExpel {
    const NAME: &'static str = "FleetExpel";
    const VERB: &'static str = "fleet expel";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Expelled;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let shown = crate::text::excerpt(&self.name);
        n!("fleet_expel", "🚪 Expelling hive '{shown}' from the fleet of hive '{}'", cx.hive_id);
        let expelled = cx.app.fleet_setup.expel(&self.name).await?;
        cx.app.fleet.forget(&self.name).await;
        n!("fleet_expel", "Hive '{shown}' is out: the fleet's server takes nothing from it any more");
        Ok(expelled)
    }
}
