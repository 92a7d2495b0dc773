//! `TokenList`: who has a token.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::callers::TokenView;
use crate::config::{NamedToken, Role};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::{n, spawn};

/// Asks for the tokens, without what would let somebody in.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenList {}

impl Operation for TokenList {
    const NAME: &'static str = "TokenList";
    const VERB: &'static str = "token list";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;
    const ROLE: Role = Role::Manage;

    type Output = Vec<TokenView>;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("token_list", "🔑 Listing the tokens of hive '{}'", cx.hive_id);
        let tokens = cx.app.callers.tokens();
        let usage = cx.app.usage.clone();
        let uses = spawn::blocking(move || usage.of_tokens()).await?;
        let view = |(name, token): (&String, &NamedToken)| TokenView::of(name, token).used(uses.get(name));
        let list: Vec<_> = tokens.tokens.iter().map(view).collect();
        n!("token_list", "Found {} token(s)", list.len());
        Ok(list)
    }
}
