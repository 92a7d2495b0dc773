//! `FleetLeave`: leaves the fleet that this hive joined, or stops the one that it made.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::fleet::Left;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Leaves a fleet.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FleetLeave {
    /// Stop the fleet's server too, where this machine runs it.
    #[serde(default)]
    force: bool,
    /// Where this machine runs the fleet's server, remove its keys, its list of hives and its streams for good. What
    /// joining wrote is always removed.
    #[serde(default)]
    forget: bool,
}

impl Operation for FleetLeave {
    const NAME: &'static str = "FleetLeave";
    const VERB: &'static str = "fleet leave";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Left;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("fleet_leave", "🛰️ Leaving the fleet with hive '{}'", cx.hive_id);
        let setup = &cx.app.fleet_setup;
        setup.check_leave(self.force).await?;
        cx.app.fleet.leave().await;
        let left = setup.leave(self.forget).await?;
        n!("fleet_leave", "This hive is out of the fleet '{}'", left.fleet);
        if left.stopped_server {
            n!(warn: "fleet_leave", "The server of the fleet '{}' is stopped: its hives are on their own", left.fleet);
        }
        Ok(left)
    }
}
