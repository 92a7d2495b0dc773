//! `HubLogin`: keeps a token of the Hugging Face Hub, for models that the Hub gives only to some accounts.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::models::LoggedIn;
use crate::n;

/// What is recorded in a token's place.
const HIDDEN: &str = "(hidden)";

/// Keeps a token.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HubLogin {
    /// The token. The serialised request is recorded with its job, so it does not have it.
    #[schema(value_type = String)]
    token: Hidden,
}

/// Text that is shown and recorded nowhere.
#[derive(Deserialize)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl Operation for HubLogin {
    const NAME: &'static str = "HubLogin";
    const VERB: &'static str = "login";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = LoggedIn;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("hub_login", "🔑 Keeping a token of the Hugging Face Hub on hive '{}'", cx.hive_id);
        if self.token.0 == HIDDEN {
            let message = format!("token: {HIDDEN} stands for a token that was not recorded with its job");
            return Err(Failure::new(Code::InvalidField, message).hint("give the token itself"));
        }
        tokio::select! {
            biased;
            () = cx.stop.cancelled() => Err(Failure::new(Code::Cancelled, "stopped before the token was kept")),
            kept = cx.app.catalog.log_in(&self.token.0) => kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_neither_recorded_nor_shown() {
        let request: HubLogin = serde_json::from_str(r#"{"token":"hf_secret"}"#).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"token":"(hidden)"}"#);
        assert!(!format!("{request:?}").contains("secret"));
    }
}
