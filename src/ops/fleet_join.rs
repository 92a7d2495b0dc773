//! `FleetJoin`: joins the fleet of another machine, which has invited this one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::hidden::Hidden;
use super::into_fleet::{come_in, data_id, stoppable};
use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::n;

/// Joins a fleet.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FleetJoin {
    /// Where the machine of the fleet is: `HOST:PORT`, as its invitation says.
    address: String,
    /// The code of the invitation. The serialised request is recorded with its job, so it does not have it.
    #[schema(value_type = String)]
    code: Hidden,
}

/// A fleet that was joined.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FleetJoined {
    /// The name of the fleet.
    fleet: String,
    /// The name of this hive in it.
    hive: String,
    /// The addresses of its servers.
    nats: Vec<String>,
    /// Whether this hive is in already; else it comes in once it reaches the servers.
    is_in: bool,
}

impl Operation for FleetJoin {
    const NAME: &'static str = "FleetJoin";
    const VERB: &'static str = "fleet join";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = FleetJoined;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let shown = crate::text::excerpt(&self.address);
        n!("fleet_join", "🛰️ Joining the fleet of the machine at '{shown}' with hive '{}'", cx.hive_id);
        let code = self.code.given("code")?;
        let (hive, id) = (cx.app.fleet_name()?, data_id(&cx.app).await?);
        let tell = |text: String| n!("fleet_join", "{text}");
        let join = cx.app.fleet_setup.join(&self.address, code, &hive, id, &tell);
        let settings = stoppable(&cx, join).await?;
        let (fleet, nats) = (settings.name.clone(), settings.servers().map(str::to_owned).collect());
        come_in(&cx, "fleet_join", settings).await?;
        let is_in = cx.app.fleet.status().is_in;
        Ok(FleetJoined { fleet, hive: hive.to_string(), nats, is_in })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_neither_recorded_nor_shown() {
        let request: FleetJoin = serde_json::from_str(r#"{"address":"a:1","code":"s3cret"}"#).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"address":"a:1","code":"(hidden)"}"#);
        assert!(!format!("{request:?}").contains("s3cret"));
    }
}
