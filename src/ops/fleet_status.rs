//! `FleetStatus`: who is in the fleet, and how this hive stands in it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::fleet::{Presence, Status};
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Asks how this hive stands in its fleet.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FleetStatus {}

impl Operation for FleetStatus {
    const NAME: &'static str = "FleetStatus";
    const VERB: &'static str = "fleet status";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Status;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("fleet_status", "🛰️ Looking at the fleet of hive '{}'", cx.hive_id);
        let mut status = cx.app.fleet.status();
        if status.is_in {
            match cx.app.fleet.places().await {
                Ok(places) => status.places = places,
                Err(failure) => n!(warn: "fleet_status", "Where models are kept is not known: {failure}"),
            }
        }
        match (&status.fleet, &status.trouble) {
            (None, _) => n!("fleet_status", "This hive stands alone: it is in no fleet"),
            (Some(fleet), Some(trouble)) => {
                n!(warn: "fleet_status", "This hive is not in its fleet '{fleet}' now: {trouble}");
            }
            (Some(fleet), None) => {
                let silent =
                    status.hives.iter().filter(|hive| hive.presence == Presence::Unreachable).count();
                let reachable = status.hives.len() - silent;
                n!(
                    "fleet_status",
                    "{reachable} hive(s) of the fleet '{fleet}' can be reached, {silent} cannot"
                );
            }
        }
        Ok(status)
    }
}
