//! `FleetUp`: makes a fleet on this machine, which other machines join.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fleet_invite::an_hour;
use super::into_fleet::{come_in, data_id, stoppable};
use super::operation::{Context, Deadline, Operation};
use crate::config::PositiveDuration;
use crate::error::Result;
use crate::fleet::{Hosted, Wanted};
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::secret_hash::SecretHash;
use crate::time::Instant;

/// Makes a fleet, and runs the nats-server that it needs. Where it was made, runs what does not run.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FleetUp {
    /// The name of the fleet: 1 to 32 of `a-z`, `0-9` and `-`.
    #[serde(default = "home")]
    name: String,
    /// Where nats-server listens; port 0 takes a free one, for good.
    #[serde(default = "listen")]
    #[schema(value_type = String)]
    listen: SocketAddr,
    /// Where other machines join; port 0 takes a free one, for good.
    #[serde(default = "join_listen")]
    #[schema(value_type = String)]
    join_listen: SocketAddr,
    /// The host name or address under which other machines reach this one; null means its host name.
    #[serde(default)]
    advertise: Option<String>,
    /// The SHA-256 of the secret of a first invitation, as hexadecimal digits; null makes none.
    #[serde(default)]
    #[schema(
        value_type = Option<String>,
        pattern = "^[0-9a-fA-F]{64}$",
        examples("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    )]
    sha256: Option<SecretHash>,
    /// How long the invitation can be used.
    #[serde(default = "an_hour")]
    expires_in: PositiveDuration,
}

fn home() -> String {
    "home".to_owned()
}

fn listen() -> SocketAddr {
    ([0, 0, 0, 0], 4222).into()
}

fn join_listen() -> SocketAddr {
    ([0, 0, 0, 0], 7836).into()
}

impl Operation for FleetUp {
    const NAME: &'static str = "FleetUp";
    const VERB: &'static str = "fleet up";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Hosted;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let Self { name, listen, join_listen, advertise, sha256, expires_in } = self;
        let shown = crate::text::excerpt(&name);
        n!("fleet_up", "🛰️ Bringing the fleet '{shown}' up on hive '{}'", cx.hive_id);
        let (hive, id) = (cx.app.fleet_name()?, data_id(&cx.app).await?);
        let wanted = Wanted { name, listen, join_listen, advertise };
        let tell = |text: String| n!("fleet_up", "{text}");
        let up = cx.app.fleet_setup.up(wanted, &hive, id, &tell);
        let (mut hosted, settings) = stoppable(&cx, up).await?;
        if !cx.app.fleet.is_on() {
            come_in(&cx, "fleet_up", settings).await?;
        }
        if let Some(sha256) = sha256 {
            hosted.invitation =
                Some(cx.app.fleet_setup.invite(sha256, Instant::now().after(*expires_in)).await?);
            n!(
                "fleet_up",
                "An invitation for one machine can be used for {}",
                crate::time::in_words(*expires_in)
            );
        }
        Ok(hosted)
    }
}
