//! SentencePiece's BPE, as in LLaMA: adjacent symbols, at first single characters, are merged until
//! no pair is a piece of the vocabulary. Each step merges the pair whose piece has the best score,
//! the leftmost of equals. A symbol that is then no piece is encoded byte by byte.
//!
//! Pieces contain `▁` (U+2581) for a space. SentencePiece itself also reads a `▁` of the text as a
//! space; here it is encoded byte by byte if the vocabulary has the bytes, so that it is not lost.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::vocabulary::{TokenKind, Vocabulary};
use crate::engine::model_error::corrupt;
use crate::error::{Code, Failure, Result};

/// The character that stands for a space in a piece.
const SPACE: char = '\u{2581}';

pub(super) struct SentencePiece {
    /// Normal and unused tokens only: no merge may yield a special token.
    pieces: HashMap<String, Piece>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    add_space_prefix: bool,
}

#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
    /// Split again at the end of the merging.
    unused: bool,
}

impl SentencePiece {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self> {
        if vocabulary.scores.len() != vocabulary.tokens.len() {
            return Err(corrupt(
                "tokenizer.ggml.scores",
                "the key is missing, and a SentencePiece vocabulary needs it",
            ));
        }
        let mut pieces = HashMap::with_capacity(vocabulary.tokens.len());
        let mut bytes = [None; 256];
        for ((id, token, kind), score) in vocabulary.iter().zip(&vocabulary.scores) {
            match kind {
                TokenKind::Normal | TokenKind::Unused if !token.is_empty() => {
                    let unused = kind == TokenKind::Unused;
                    pieces.insert(token.to_owned(), Piece { id, score: *score, unused });
                }
                TokenKind::Byte => {
                    let byte = byte(token).ok_or_else(|| {
                        corrupt(
                            "tokenizer.ggml.tokens",
                            format!("the byte token {token:?} is not spelled <0xNN>"),
                        )
                    })?;
                    bytes[usize::from(byte)] = Some(id);
                }
                _ => {}
            }
        }
        Ok(Self {
            pieces,
            bytes,
            unknown: vocabulary.unknown,
            add_space_prefix: vocabulary.add_space_prefix.unwrap_or(true),
        })
    }

    pub(super) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4 + SPACE.len_utf8());
        if self.add_space_prefix {
            escaped.push(SPACE);
        }
        let keep_literal =
            SPACE.encode_utf8(&mut [0; 4]).bytes().all(|b| self.bytes[usize::from(b)].is_some());
        for c in text.chars() {
            match c {
                ' ' => escaped.push(SPACE),
                SPACE if keep_literal => {
                    self.merge(&escaped, ids)?;
                    escaped.clear();
                    self.encode_bytes("\u{2581}", ids)?;
                }
                other => escaped.push(other),
            }
        }
        self.merge(&escaped, ids)
    }

    fn merge(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut merging = Merging::new(self, text);
        merging.run();
        let mut next = if text.is_empty() { NONE } else { 0 };
        while let Some(symbol) = merging.symbols.get(next) {
            self.emit(&text[symbol.start..symbol.end], &merging.split_again, ids)?;
            next = symbol.next;
        }
        Ok(())
    }

    /// Emits the tokens of a symbol of the finished merging. An unused piece is split again into the
    /// two that it was merged from.
    fn emit(&self, symbol: &str, split_again: &HashMap<&str, usize>, ids: &mut Vec<u32>) -> Result<()> {
        let mut stack = vec![symbol];
        while let Some(symbol) = stack.pop() {
            match (self.pieces.get(symbol), split_again.get(symbol)) {
                (Some(piece), Some(at)) if piece.unused => {
                    let (left, right) = symbol.split_at(*at);
                    stack.extend([right, left]);
                }
                (Some(piece), _) => ids.push(piece.id),
                (None, _) => self.encode_bytes(symbol, ids)?,
            }
        }
        Ok(())
    }

    /// Encodes a symbol byte by byte.
    fn encode_bytes(&self, symbol: &str, ids: &mut Vec<u32>) -> Result<()> {
        let before = ids.len();
        for byte in symbol.bytes() {
            match self.bytes[usize::from(byte)] {
                Some(id) => ids.push(id),
                // One unknown token for the whole character, as in SentencePiece.
                None => {
                    ids.truncate(before);
                    ids.push(self.unknown.ok_or_else(|| {
                        Failure::new(Code::InvalidField, format!("the model has no token for {symbol:?}"))
                            .hint("leave that character out, or use another model")
                    })?);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The end of the linked list of symbols.
const NONE: usize = usize::MAX;

/// A run of characters, in a doubly linked list. Empty (`start == end`) once it was merged into the
/// symbol before it.
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

/// The merging of one text.
struct Merging<'a> {
    pieces: &'a HashMap<String, Piece>,
    text: &'a str,
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    /// For merged pieces that are unused: the length of their left half in bytes.
    split_again: HashMap<&'a str, usize>,
}

/// Two adjacent symbols that form a piece of `len` bytes. Stale once either was merged with another.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl<'a> Merging<'a> {
    fn new(model: &'a SentencePiece, text: &'a str) -> Self {
        let count = text.chars().count();
        let symbols = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, c))| Symbol {
                start,
                end: start + c.len_utf8(),
                previous: index.checked_sub(1).unwrap_or(NONE),
                next: if index + 1 < count { index + 1 } else { NONE },
            })
            .collect();
        Self { pieces: &model.pieces, text, symbols, pairs: BinaryHeap::new(), split_again: HashMap::new() }
    }

    fn run(&mut self) {
        for right in 1..self.symbols.len() {
            self.queue_pair(right - 1, right);
        }
        while let Some(pair) = self.pairs.pop() {
            let (left, right) = (&self.symbols[pair.left], &self.symbols[pair.right]);
            let stale = left.start == left.end
                || right.start == right.end
                || left.end != right.start
                || right.end - left.start != pair.len;
            if stale {
                continue;
            }
            let (end, next) = (right.end, right.next);
            self.symbols[pair.right].start = end;
            self.symbols[pair.left].end = end;
            self.symbols[pair.left].next = next;
            if let Some(after) = self.symbols.get_mut(next) {
                after.previous = pair.left;
            }
            self.queue_pair(self.symbols[pair.left].previous, pair.left);
            self.queue_pair(pair.left, next);
        }
    }

    /// Queues a pair of symbols if they form a piece.
    fn queue_pair(&mut self, left: usize, right: usize) {
        let (Some(first), Some(second)) = (self.symbols.get(left), self.symbols.get(right)) else { return };
        let merged = &self.text[first.start..second.end];
        if let Some(piece) = self.pieces.get(merged) {
            if piece.unused {
                self.split_again.insert(merged, first.end - first.start);
            }
            self.pairs.push(Pair { score: piece.score, left, right, len: merged.len() });
        }
    }
}

impl Ord for Pair {
    /// The greatest pair is merged first.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// The byte of a token that is spelled `<0xNN>`.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Appends the bytes of a token.
pub(super) fn append_bytes(token: &str, kind: TokenKind, bytes: &mut Vec<u8>) {
    match kind {
        TokenKind::Byte => bytes.extend(byte(token)),
        TokenKind::Control => {}
        // The text that SentencePiece itself decodes it to.
        TokenKind::Unknown => bytes.extend_from_slice(" \u{2047} ".as_bytes()),
        TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined => {
            for c in token.chars() {
                let c = if c == SPACE { ' ' } else { c };
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
}
