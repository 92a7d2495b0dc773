//! Server-Sent Events (WHATWG HTML, section 9.2), in the hive's two forms.
//!
//! **Plain** is for existing clients, which show every line as narration: `data:` lines only, no ids, no
//! names, no comments. Only this form changes texts that those clients would take for the end of the stream
//! or for its result.
//!
//! **Typed** is for programs: named events with ids and unchanged data.
//!
//! The bytes are written here and not by a library: a plain stream must be exact to the byte, and libraries
//! panic on text with line ends.

mod plain;
mod typed;

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};

use crate::event_stream;
use crate::jobs::log::Batch;
use crate::text::json;

pub(super) use typed::TypedEvent;

/// A comment, to keep a silent connection open.
pub(super) const COMMENT: &[u8] = b": keep-alive\n\n";

/// The form of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
pub(super) enum Encoding {
    /// For existing clients.
    #[default]
    #[schema(rename = "plain")]
    Plain,
    /// For programs.
    #[schema(rename = "json")]
    Typed,
}

/// A streaming response of events.
pub(super) fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(events.map(Ok::<_, Infallible>)));
    response.headers_mut().extend(event_stream::headers());
    response
}

/// Encodes a batch of a job's events.
pub(super) fn encode(batch: &Batch, encoding: Encoding, operation: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(batch.events.len() * 160);
    if let Some(elision) = &batch.elision {
        match encoding {
            Encoding::Plain => plain::elision(&mut out, elision),
            // Without an id: it is about the log, and no reader resumes after it.
            Encoding::Typed => event(&mut out, "elision", None, &json(elision)),
        }
    }
    for entry in &batch.events {
        match encoding {
            Encoding::Plain => plain::event(&mut out, entry),
            Encoding::Typed => {
                event(&mut out, entry.kind().name(), Some(&entry.seq.to_string()), &entry.to_json(operation));
            }
        }
    }
    out.freeze()
}

/// Writes one named event. `data` is JSON on one line.
pub(super) fn event(out: &mut BytesMut, name: &str, id: Option<&str>, data: &str) {
    debug_assert!(!data.contains(['\r', '\n']), "the JSON is on one line");
    if let Some(id) = id {
        out.put_slice(b"id: ");
        out.put_slice(id.as_bytes());
        out.put_u8(b'\n');
    }
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\ndata: ");
    out.put_slice(data.as_bytes());
    out.put_slice(b"\n\n");
}
