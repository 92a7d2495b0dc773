//! A token as those see it who manage the hive: without its hash.

use serde::Serialize;
use utoipa::ToSchema;

use crate::config::{NamedToken, Role};
use crate::time::Instant;

/// A token.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = NamedToken)]
pub(crate) struct TokenView {
    name: String,
    role: Role,
    created_at: Option<Instant>,
    expires_at: Option<Instant>,
    /// Whether it lets nobody in any more.
    expired: bool,
    requests_per_minute: Option<u32>,
    concurrent: Option<u32>,
    models: Option<Vec<String>>,
    /// The requests with it that are remembered: those of the last 400 days.
    uses: u64,
    last_used_at: Option<Instant>,
}

impl TokenView {
    /// The token of that name.
    pub(crate) fn of(name: &str, token: &NamedToken) -> Self {
        Self {
            name: name.to_owned(),
            role: token.role,
            created_at: token.created_at,
            expires_at: token.expires_at,
            expired: token.expires_at.is_some_and(Instant::is_past),
            requests_per_minute: token.requests_per_minute.map(Into::into),
            concurrent: token.concurrent.map(Into::into),
            models: token.models.clone(),
            uses: 0,
            last_used_at: None,
        }
    }

    /// The same, with how it was used. An earlier token of its name was another one.
    pub(crate) fn used(self, uses: Option<&(u64, Instant)>) -> Self {
        match uses {
            Some((uses, last)) if self.created_at.is_none_or(|created| *last >= created) => {
                Self { uses: *uses, last_used_at: Some(*last), ..self }
            }
            _ => self,
        }
    }
}
