//! Anthropic's API, in front of the gateway.

mod routes;
mod count;
mod models;

pub(crate) use models::{Info, page};
pub(crate) use routes::{count_tokens, messages};
