//! Anthropic's API, in front of the gateway.

pub(crate) mod routes;
mod count;
mod models;

pub(crate) use models::{Info, Page, page};
pub(crate) use routes::{count_tokens, messages};
