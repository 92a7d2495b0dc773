//! `HubLogin`: keeps a token of the Hugging Face Hub, for models that the Hub gives only to some accounts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::hidden::Hidden;
use super::operation::{Context, Deadline, Operation};
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::models::LoggedIn;
use crate::n;

/// Keeps a token.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HubLogin {
    /// The token. The serialised request is recorded with its job, so it does not have it.
    #[schema(value_type = String)]
    token: Hidden,
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
        let token = self.token.given("token")?;
        tokio::select! {
            biased;
            () = cx.stop.cancelled() => Err(Failure::new(Code::Cancelled, "stopped before the token was kept")),
            kept = cx.app.catalog.log_in(token) => kept,
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
