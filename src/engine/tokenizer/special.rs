//! Finds special tokens that are spelled out in a text.

use std::collections::HashMap;

use super::vocabulary::{TokenKind, Vocabulary};

/// Tokens of some kinds, by the first byte of their spelling, longest first.
pub struct SpecialTokens(HashMap<u8, Vec<(String, u32)>>);

/// A special token that was found in a text, at the bytes `start..end`.
#[derive(Debug, PartialEq)]
pub(super) struct SpecialMatch {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
}

impl SpecialTokens {
    /// The tokens of these kinds.
    pub(super) fn new(vocabulary: &Vocabulary, kinds: &[TokenKind]) -> Self {
        let mut by_first_byte: HashMap<u8, Vec<(String, u32)>> = HashMap::new();
        for (id, token, kind) in vocabulary.iter() {
            if let Some(first) = token.bytes().next().filter(|_| kinds.contains(&kind)) {
                by_first_byte.entry(first).or_default().push((token.to_owned(), id));
            }
        }
        for tokens in by_first_byte.values_mut() {
            tokens.sort_by(|(left, _), (right, _)| right.len().cmp(&left.len()).then(left.cmp(right)));
        }
        Self(by_first_byte)
    }

    /// The leftmost special token at or after the byte `from`; the longest of those that begin at the
    /// same byte.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<SpecialMatch> {
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|start| {
            let candidates = self.0.get(&bytes[start])?;
            candidates
                .iter()
                .find(|(token, _)| bytes[start..].starts_with(token.as_bytes()))
                .map(|(token, id)| SpecialMatch { start, end: start + token.len(), id: *id })
        })
    }
}
