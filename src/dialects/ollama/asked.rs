//! What a request of Ollama's asks for.

use serde_json::Value;

use crate::dialects::chat::Chat;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) work: Work,
    /// How long the model is to stay in memory, as the client wrote it.
    pub(crate) keep_alive: Option<Value>,
    /// The least context in tokens.
    pub(crate) context_length: Option<u64>,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    Chat(Box<Chat>),
    /// A text to continue as it is: the body of a completion as engines take it, and the fields without effect.
    Raw {
        model: String,
        body: Value,
        streams: bool,
        ignored: Vec<String>,
    },
    /// Nothing to answer: the model is loaded, or unloaded where `keep_alive` is 0.
    Nothing {
        model: String,
        streams: bool,
        ignored: Vec<String>,
    },
}
