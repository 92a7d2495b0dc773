//! OpenAI's API. Engines speak it too, so requests and answers pass untouched, but those of the Responses API.

mod routes;
pub(crate) mod responses;
mod request;
mod card;

pub(crate) use routes::{chat_completions, completions, embeddings, model, models, rerank};
