//! Numbers as people read them: the house's own words, under the names of this room.

use std::time::SystemTime;

pub(crate) use crate::text::{bytes, hex};
pub(crate) use crate::time::in_words as duration;

/// An instant of RFC 3339, in UTC, with milliseconds.
pub(crate) fn instant(time: SystemTime) -> String {
    crate::time::Instant::from(time).to_string()
}
