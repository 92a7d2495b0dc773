//! Finding special tokens that are spelled out in a text.

use std::collections::HashMap;

use super::vocabulary::{TokenKind, Vocabulary};

/// The control and user-defined tokens, by the first byte of their spelling, longest first.
pub(super) struct Specials(HashMap<u8, Vec<(String, u32)>>);

/// A special token in a text, at the bytes `start..end`.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
}

impl Specials {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let mut by_first: HashMap<u8, Vec<(String, u32)>> = HashMap::new();
        for (id, token, kind) in vocabulary.iter() {
            if let (TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown, Some(first)) =
                (kind, token.bytes().next())
            {
                by_first.entry(first).or_default().push((token.to_owned(), id));
            }
        }
        for tokens in by_first.values_mut() {
            tokens.sort_by(|(left, _), (right, _)| right.len().cmp(&left.len()).then(left.cmp(right)));
        }
        Self(by_first)
    }

    /// The leftmost special token at or after the byte `from`; the longest where several begin at
    /// the same place.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<Found> {
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|start| {
            let candidates = self.0.get(&bytes[start])?;
            candidates
                .iter()
                .find(|(token, _)| bytes[start..].starts_with(token.as_bytes()))
                .map(|(token, id)| Found { start, end: start + token.len(), id: *id })
        })
    }
}
