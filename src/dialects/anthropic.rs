//! Anthropic's dialect: the Messages API (<https://platform.claude.com/docs/en/api/messages>).
//!
//! Invariants:
//! - What clients send by default is never refused: cache marks, beta fields, thinking, metadata. What only
//!   Anthropic's own service can do, such as a web search, is refused by its name.
//! - Turns of one author that follow each other are one message, as in Anthropic's API: many chat templates take
//!   nothing else. For the same reason only the first message has the role of the system.
//! - A stream has one open block at a time, in the order of the answer, however an engine mixes its pieces.

mod request;
mod tools;
mod messages;
mod blocks;
mod known;
mod writer;
mod shape;

pub(crate) use request::read;
pub(crate) use shape::{MessagesAnswer, MessagesEvent, MessagesRequest};
pub(crate) use writer::MessageWriter;

#[cfg(test)]
mod tests;
