//! How the gateway has an answer written in a dialect.

use bytes::Bytes;
use serde_json::Value;

use super::answer::{Answer, Piece};
use super::trouble::{Dialect, Trouble};

/// Writes one answer in the form of a dialect: as a stream (`begin`, `pieces` many times, `end` or `fail`) or as
/// a whole (`whole`). It keeps what it needs from one piece to the next.
pub(crate) trait Writer: Send + 'static {
    /// The dialect, which is the form of an error that comes in the place of an answer.
    fn dialect(&self) -> Dialect;

    /// The content type of a stream.
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// What keeps a silent stream open, if its form has such a thing; `text` says what it waits for. It may come
    /// before `begin`.
    fn waiting(&self, text: &str) -> Option<Bytes> {
        Some(Bytes::from(comment(text) + "\n"))
    }

    /// What a stream begins with, once the engine answers.
    fn begin(&mut self) -> Bytes {
        Bytes::new()
    }

    /// The next pieces of the answer.
    fn pieces(&mut self, pieces: Vec<Piece>) -> Bytes;

    /// The end of a stream whose answer is complete.
    fn end(&mut self) -> Bytes;

    /// The end of a stream that breaks off. It may come before `begin`.
    fn fail(&mut self, trouble: &Trouble) -> Bytes;

    /// The whole answer.
    fn whole(&mut self, answer: Answer) -> Value;
}

/// A comment of server-sent events, which clients skip: a line, after which the event goes on or a blank one ends it.
pub(crate) fn comment(text: &str) -> String {
    // A line break would end the comment.
    format!(": {}\n", text.replace(char::is_control, " "))
}

/// An event of server-sent events with a name.
pub(crate) fn named_event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}
