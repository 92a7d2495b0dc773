//! What is summed up of some requests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The sums of some requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = UsageSums)]
pub(crate) struct Sums {
    pub(crate) requests: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) client_gone: u64,
    /// Tokens of the prompts, cached ones included.
    pub(crate) prompt_tokens: u64,
    /// Those of them that workers had computed for earlier requests.
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    /// The waits for workers and loads, in milliseconds.
    pub(crate) queue_ms: u64,
    /// The whole times, in milliseconds.
    pub(crate) total_ms: u64,
}

impl Sums {
    pub(crate) fn merge(&mut self, other: &Self) {
        let add = |one: &mut u64, other: u64| *one = one.saturating_add(other);
        add(&mut self.requests, other.requests);
        add(&mut self.completed, other.completed);
        add(&mut self.failed, other.failed);
        add(&mut self.refused, other.refused);
        add(&mut self.client_gone, other.client_gone);
        add(&mut self.prompt_tokens, other.prompt_tokens);
        add(&mut self.cached_tokens, other.cached_tokens);
        add(&mut self.completion_tokens, other.completion_tokens);
        add(&mut self.queue_ms, other.queue_ms);
        add(&mut self.total_ms, other.total_ms);
    }
}
