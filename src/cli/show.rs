//! What people read on standard output: tables, aligned fields, lines.
//!
//! Results are shown by the names of their fields, whose ends tell what they are (`_bytes`, `_seconds`, `_at`): what a
//! later version of the hive adds is shown too.

mod fields;
mod table;

use std::io::{self, Write};

use serde_json::Value;

use super::end::{End, Ended};
use crate::error::{Code, Failure};

pub(super) use fields::fields;
pub(super) use table::{Column, column, number, number_of, table, text_of};

/// Writes to standard output. A reader that is gone, as in `| head`, ends the verb quietly.
pub(super) fn print(text: &str) -> Ended {
    bytes(text.as_bytes())
}

/// The same of bytes that may be no text.
pub(super) fn bytes(bytes: &[u8]) -> Ended {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => End::Said(0),
        _ => Failure::new(Code::Io, format!("could not write to standard output: {error}")).into(),
    })
}

/// Writes one line.
pub(super) fn line(text: &str) -> Ended {
    print(&format!("{text}\n"))
}

/// Writes a document of JSON, on one line.
pub(super) fn json(value: &Value) -> Ended {
    line(&value.to_string())
}
