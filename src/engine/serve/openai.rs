//! `POST /v1/chat/completions` on the wire: what is accepted, and what is answered.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. Fields that OpenAI's servers do
//! not know are ignored, as they do; fields that they know and this worker cannot honour are
//! refused by name, because to ignore them is to answer another question. Every number is checked
//! against its range before anything else sees it.

mod error;
mod fields;
mod request;
mod response;

pub(super) use error::ApiError;
pub(super) use request::ChatRequest;
pub(super) use response::Reply;
