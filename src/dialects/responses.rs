//! OpenAI's Responses API (<https://platform.openai.com/docs/api-reference/responses>).
//!
//! A conversation is a list of items: messages, calls of functions, their outputs, and reasoning. [`read`] makes a
//! chat of a request and of the items of the conversation that it goes on with; [`ResponsesWriter`] writes an
//! answer as the response's object or as its events. Both give each item an id that tells whose it is ([`Ids`]).
//!
//! The hive has no tools of its own, no files and no stored prompts: what asks for them is refused by its name, or told
//! where the request can do without ([`tools`]).

mod writer;
mod request;
mod items;
mod input;
mod known;
mod output;
mod tools;
mod ids;
mod shape;

pub(crate) use ids::Ids;
pub(crate) use request::read;
pub(crate) use shape::{ItemList, ResponseAnswer, ResponseEvent, ResponseRequest};
pub(crate) use writer::ResponsesWriter;

#[cfg(test)]
mod tests;
