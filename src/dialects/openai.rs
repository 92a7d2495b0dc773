//! OpenAI's chat completions (<https://platform.openai.com/docs/api-reference/chat>), read into a [`Chat`].
//!
//! Engines speak this dialect, so a request passes untouched: what is read here says what the request needs. The
//! engine judges what is wrong with it, and answers for the fields that it does not know.

mod chat;
mod messages;

pub(crate) use chat::read;

#[cfg(test)]
mod tests;
