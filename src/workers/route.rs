//! What a worker can be asked, by the path of its engine.

use serde::{Deserialize, Serialize};

use crate::config::Capability;

/// A question to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// The next message of a conversation.
    Chat,
    /// The text that follows a text.
    Completions,
    /// Vectors for texts.
    Embeddings,
    /// How well documents answer a question.
    Rerank,
    /// The prompt that a conversation becomes, as llama.cpp's server tells it.
    ApplyTemplate,
    /// The tokens of a text, as llama.cpp's server tells them.
    Tokenize,
}

impl Route {
    /// What the model and its engine must be able to do.
    #[must_use]
    pub(crate) const fn capability(self) -> Option<Capability> {
        match self {
            Self::Chat => Some(Capability::Chat),
            Self::Completions => Some(Capability::Completions),
            Self::Embeddings => Some(Capability::Embeddings),
            Self::Rerank => Some(Capability::Rerank),
            Self::ApplyTemplate | Self::Tokenize => None,
        }
    }

    /// The path in OpenAI's API, or in that of llama.cpp's server where OpenAI's has no such thing.
    pub(super) const fn usual_path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
            Self::ApplyTemplate => "/apply-template",
            Self::Tokenize => "/tokenize",
        }
    }
}
