//! `TokenCreate`: lets a caller in, by a token of its own.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::callers::TokenView;
use crate::config::{NamedToken, PositiveDuration, Role};
use crate::error::Result;
use crate::jobs::{JobClass, OperationKind};
use crate::secret_hash::SecretHash;
use crate::time::Instant;
use crate::{n, spawn};

/// Makes a token. The caller has made the secret, and keeps it: the hive gets its hash alone.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenCreate {
    /// Whose token it is: a letter, then letters, digits and `._-`, 64 at most.
    name: String,
    /// The SHA-256 of the secret, as hexadecimal digits.
    #[schema(
        value_type = String,
        pattern = "^[0-9a-fA-F]{64}$",
        examples("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    )]
    sha256: SecretHash,
    /// What its holder may do.
    #[serde(default)]
    role: Role,
    /// After how long it expires, such as `"30d"`; null means never.
    #[serde(default)]
    expires_in: Option<PositiveDuration>,
    /// The most requests to models and submissions of jobs in a minute; null means no limit.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1)]
    requests_per_minute: Option<NonZeroU32>,
    /// The most requests to models that are answered at once; null means no limit.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1)]
    concurrent: Option<NonZeroU32>,
    /// The models that it may use: ids, aliases, or beginnings of these with `*` at the end; null means every model.
    #[serde(default)]
    models: Option<Vec<String>>,
}

impl Operation for TokenCreate {
    const NAME: &'static str = "TokenCreate";
    const VERB: &'static str = "token create";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = TokenView;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let Self { name, role, .. } = &self;
        let shown = crate::text::excerpt(name);
        n!("token_create", "🔑 Making a token '{shown}' with the role `{role}` on hive '{}'", cx.hive_id);
        let now = Instant::now();
        let expires_at = self.expires_in.map(|lasts| now.after(*lasts));
        let token = NamedToken {
            created_at: Some(now),
            expires_at,
            requests_per_minute: self.requests_per_minute,
            concurrent: self.concurrent,
            models: self.models,
            ..NamedToken::new(self.sha256, self.role)
        };
        let view = TokenView::of(&self.name, &token);
        let (callers, name) = (cx.app.callers.clone(), self.name);
        let asked_before = callers.ask_for_a_token();
        spawn::blocking(move || callers.create(&name, token)).await??;
        let until = expires_at.map_or_else(String::new, |at| format!(", until {at}"));
        n!("token_create", "The token '{shown}' is valid from now on{until}");
        if !asked_before {
            n!(warn: "token_create", "It is the first one: from now on the hive asks every caller for a token");
        }
        Ok(view)
    }
}
