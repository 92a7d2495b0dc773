//! The bodies of `POST /v1/chat/completions`: requests, responses and errors.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. [`known`] has a row for each field of
//! OpenAI's API and of the extensions of other engines: it is applied, or refused by name where ignoring
//! it would answer a different request, or harmless. A field without a row is ignored, and the answer
//! names it. Every number is checked against its range while the request is parsed.

mod request;
mod format;
mod messages;
mod known;
mod error;
mod response;

pub(super) use error::ApiError;
pub(super) use format::Wanted;
pub(super) use request::ChatRequest;
pub(super) use response::ChatResponse;
