//! `FleetInvite`: lets one more machine join the fleet that this one runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::config::PositiveDuration;
use crate::error::Result;
use crate::fleet::Invitation;
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::secret_hash::SecretHash;
use crate::time::Instant;

/// Makes an invitation for one hive. The caller has made the secret, and keeps it: the hive gets its hash alone, so that
/// nothing that it records or publishes has it.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FleetInvite {
    /// The SHA-256 of the secret, as hexadecimal digits.
    #[schema(
        value_type = String,
        pattern = "^[0-9a-fA-F]{64}$",
        examples("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    )]
    sha256: SecretHash,
    /// How long it can be used.
    #[serde(default = "an_hour")]
    expires_in: PositiveDuration,
}

/// How long an invitation can be used, if nobody says otherwise.
pub(super) fn an_hour() -> PositiveDuration {
    std::time::Duration::from_secs(3600).into()
}

impl Operation for FleetInvite {
    const NAME: &'static str = "FleetInvite";
    const VERB: &'static str = "fleet invite";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Invitation;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("fleet_invite", "✉️ Inviting one machine into the fleet of hive '{}'", cx.hive_id);
        let invitation =
            cx.app.fleet_setup.invite(self.sha256, Instant::now().after(*self.expires_in)).await?;
        n!("fleet_invite", "The invitation can be used once, until {}", invitation.expires_at);
        Ok(invitation)
    }
}
