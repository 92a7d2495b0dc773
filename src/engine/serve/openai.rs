//! The bodies of `POST /v1/chat/completions`: requests, responses and errors.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. Fields that OpenAI's servers do
//! not know are ignored, as their servers do. Fields that they know and this worker does not support
//! are refused by name, because ignoring them would answer a different request. Every number is
//! checked against its range while the request is parsed.

mod request;
mod fields;
mod error;
mod response;

pub(super) use error::ApiError;
pub(super) use request::ChatRequest;
pub(super) use response::ChatResponse;
