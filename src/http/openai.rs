//! OpenAI's API. Engines speak it too, so requests and answers pass untouched, but those of the Responses API.

pub(crate) mod routes;
pub(crate) mod responses;
mod request;
mod card;
mod shape;

pub(crate) use card::{Card, Cards};
pub(crate) use routes::{card, cards, chat_completions, completions, embeddings, rerank};
