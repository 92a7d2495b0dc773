//! Ollama's chats, generations and embeddings (<https://docs.ollama.com/api>).
//!
//! A request becomes an [`Asked`]: a chat, or a prompt that no template is put around, or nothing but the wish
//! that the model be in memory or not. Answers are NDJSON, one JSON object a line ([`OllamaWriter`]).

mod read;
mod options;
mod image;
mod writer;
mod embed;
mod asked;
mod shape;

pub(crate) use asked::{Asked, Work};
pub(crate) use embed::Embed;
pub(crate) use read::{chat, generate};
pub(crate) use shape::{
    ChatLine, ChatRequest, EmbedAnswer, EmbedRequest, EmbeddingsAnswer, EmbeddingsRequest, GenerateLine,
    GenerateRequest,
};
pub(crate) use writer::{Form, OllamaWriter, idle_answer};

#[cfg(test)]
mod tests;
