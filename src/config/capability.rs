//! What a model or an engine can do, by the names of the wire.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that a request may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Answers the messages of a conversation.
    Chat,
    /// Continues a prompt.
    Completions,
    /// Makes vectors of texts.
    Embeddings,
    /// Ranks documents for a query.
    Rerank,
    /// Takes images in messages.
    Images,
    /// Takes tools, and calls them.
    Tools,
    /// Holds its answer to JSON, or to a JSON Schema.
    JsonOutput,
    /// Thinks before it answers, and tells that apart from the answer.
    Reasoning,
}

/// What something can do, in the order of the wire.
pub type Capabilities = BTreeSet<Capability>;

impl Capability {
    /// Every capability.
    pub const ALL: &'static [Self] = &[
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Rerank,
        Self::Images,
        Self::Tools,
        Self::JsonOutput,
        Self::Reasoning,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Images => "images",
            Self::Tools => "tools",
            Self::JsonOutput => "json_output",
            Self::Reasoning => "reasoning",
        }
    }

    /// What is said where it is missing: "the model … does not support tools". Programs that speak Ollama's API
    /// look for these words, and ask again without tools.
    #[must_use]
    pub const fn lacking(self) -> &'static str {
        match self {
            Self::Chat => "does not support chat",
            Self::Completions => "does not support completions",
            Self::Embeddings => "does not support embeddings",
            Self::Rerank => "does not support reranking",
            Self::Images => "does not support images",
            Self::Tools => "does not support tools",
            Self::JsonOutput => "does not support JSON output",
            Self::Reasoning => "does not support thinking",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_wire_in_order() {
        let all: Capabilities = Capability::ALL.iter().copied().collect();
        let names: Vec<_> = Capability::ALL.iter().map(|capability| capability.name()).collect();
        assert_eq!(serde_json::to_value(all).unwrap(), serde_json::json!(names));
    }
}
