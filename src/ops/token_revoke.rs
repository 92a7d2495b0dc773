//! `TokenRevoke`: lets a caller in no more.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::{n, spawn, text};

/// Takes a token back.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRevoke {
    /// The token.
    name: String,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Revoked {
    name: String,
}

impl Operation for TokenRevoke {
    const NAME: &'static str = "TokenRevoke";
    const VERB: &'static str = "token revoke";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;
    const FREES: bool = true;

    type Output = Revoked;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let name = self.name;
        let shown = text::excerpt(&name);
        n!("token_revoke", "🔑 Revoking the token '{shown}' on hive '{}'", cx.hive_id);
        let callers = cx.app.callers.clone();
        let (after, revoked) = (callers.clone(), name.clone());
        spawn::blocking(move || callers.revoke(&revoked)).await??;
        n!(
            "token_revoke",
            "It lets nobody in any more, and the streams that were followed with it have ended"
        );
        if !after.ask_for_a_token() {
            n!(warn: "token_revoke", "It was the last one: from now on the hive asks nobody for a token");
        }
        Ok(Revoked { name })
    }
}
