//! `HubLogout`: removes the token of the Hugging Face Hub that the hive keeps.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::models::LoggedOut;
use crate::n;

/// Removes the token.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HubLogout {}

impl Operation for HubLogout {
    const NAME: &'static str = "HubLogout";
    const VERB: &'static str = "logout";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;
    const FREES: bool = true;

    type Output = LoggedOut;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("hub_logout", "🔑 Forgetting the token of the Hugging Face Hub on hive '{}'", cx.hive_id);
        cx.app.catalog.log_out().await
    }
}
