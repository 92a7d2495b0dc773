//! Numbers as people read them: the house's own words, under the names of this room.

pub(crate) use crate::text::{bytes, hex};
pub(crate) use crate::time::in_words as duration;
