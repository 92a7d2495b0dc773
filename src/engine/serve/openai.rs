//! The bodies of `POST /v1/chat/completions`, `/v1/completions` and `/v1/embeddings`: requests and answers.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. [`known`] has a row for each field of
//! OpenAI's API and of the extensions of other engines: it is applied, or refused by name where ignoring
//! it would answer a different request, or harmless. A field without a row is ignored, and the answer
//! names it. Every number is checked against its range while the request is parsed.

mod chat_answer;
mod completion_answer;
mod request;
mod embedding;
mod completion;
mod common;
mod tools;
mod thinking;
mod format;
mod messages;
mod known;
mod head;
mod logprobs;
mod usage;

pub(super) use chat_answer::ChatAnswer;
pub(super) use completion::{CompletionRequest, Text};
pub(super) use completion_answer::CompletionAnswer;
pub(super) use embedding::EmbeddingRequest;
pub(super) use request::ChatRequest;
pub(super) use thinking::BUDGET;
