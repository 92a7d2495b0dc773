//! OpenAI's API. Engines speak it too, so requests and answers pass untouched.

mod routes;
mod request;
mod card;

pub(crate) use routes::{chat_completions, model, models};
