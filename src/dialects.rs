//! The dialects in which clients speak of chats, and the one inner form between them. Pure translation: nothing
//! here knows HTTP, workers or the catalog.
//!
//! Each dialect is one file that reads its requests into a [`Chat`] and writes the pieces of an answer back
//! ([`Writer`]). Engines speak OpenAI's chat completions: [`engine`] writes a chat for them and reads their
//! answers. What a client says in the form that an engine speaks passes untouched, so OpenAI's chat completions
//! are read here only to see what they need. [`embeddings`] makes vectors as long as they were asked for.
//!
//! Invariants:
//! - A field that has no effect is named in [`Chat::ignored`], of which the client is told; one that asks for
//!   something that cannot be done is refused by its name. None is dropped silently.
//! - An answer that is not complete never looks complete in any dialect.

pub(crate) mod anthropic;
pub(crate) mod openai;
pub(crate) mod responses;
pub(crate) mod ollama;
pub(crate) mod embeddings;
pub(crate) mod engine;
pub(crate) mod writer;
mod sequence;
pub(crate) mod answer;
pub(crate) mod chat;
pub(crate) mod trouble;

#[cfg(test)]
mod tests;
