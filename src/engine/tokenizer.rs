//! Encodes text to tokens and decodes tokens to text, as the model's file describes it
//! (`tokenizer.ggml.*` of GGUF).
//!
//! Invariants:
//! - [`Tokenizer::encode`] without `parse_special` never yields a control, user-defined or unknown
//!   token, whatever the text contains: only the template's own text may open or close a turn.
//! - Text that was encoded that way decodes to the same bytes, for both kinds of vocabulary.
//! - A [`Decoder`] never emits a part of a UTF-8 character.
//!
//! Text of users that a chat template inserts is protected by a [`Shield`] first; see there.

mod bpe;
mod decode;
mod sentencepiece;
mod shield;
mod special;
mod vocabulary;

use super::model_error::unknown_value;
use crate::error::{Failure, Result};
use crate::models::gguf::Metadata;

use bpe::Bpe;
pub use decode::Decoder;
use sentencepiece::SentencePiece;
pub(crate) use shield::MARKS;
pub use shield::Shield;
pub use special::SpecialTokens;
use vocabulary::{TokenKind, Vocabulary};

/// Control tokens that end a turn in some family of models. A file often declares one of them as
/// `eos` and does not mention the others.
const END_OF_TURN_TOKENS: &[&str] = &[
    "</s>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
];

/// Checks that the engine knows the kind of a model's tokenizer, as far as its metadata says without its arrays.
///
/// # Errors
/// `model_unsupported`, naming what the engine knows.
pub(super) fn check(metadata: &Metadata) -> Result<()> {
    match (metadata.str("tokenizer.ggml.model"), metadata.str("tokenizer.ggml.pre")) {
        (Some("gpt2"), Some(pre)) => bpe::check_rule(pre),
        (None | Some("gpt2" | "llama"), _) => Ok(()),
        (Some(other), _) => Err(unknown_kind(other)),
    }
}

fn unknown_kind(kind: &str) -> Failure {
    unknown_value("tokenizer.ggml.model", kind, &["gpt2", "llama"])
}

/// The tokenizer of one model.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    encoder: Encoder,
    /// The control, user-defined and unknown tokens.
    special_tokens: SpecialTokens,
    /// Those of them that stand for text, such as runs of spaces: they are found in every text, before any merging.
    user_defined: SpecialTokens,
    add_bos: bool,
    /// The tokens that end a generation, sorted for a binary search.
    end_of_generation: Vec<u32>,
}

enum Encoder {
    Bpe(Box<Bpe>),
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Reads the tokenizer from a model's metadata.
    ///
    /// # Errors
    /// `model_unsupported` for a kind of tokenizer that the engine does not know, `model_corrupt`
    /// for keys that contradict each other.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        Self::new(Vocabulary::from_metadata(metadata)?)
    }

    fn new(vocabulary: Vocabulary) -> Result<Self> {
        let encoder = match vocabulary.model.as_str() {
            "gpt2" => Encoder::Bpe(Box::new(Bpe::new(&vocabulary)?)),
            "llama" => Encoder::SentencePiece(Box::new(SentencePiece::new(&vocabulary)?)),
            other => return Err(unknown_kind(other)),
        };
        // The default for files that do not say: SentencePiece models of the LLaMA family and those
        // with the llama-bpe or tekken rule were trained with a leading bos, the other byte-level
        // BPE models without.
        let add_bos = vocabulary.add_bos.unwrap_or(match &encoder {
            Encoder::Bpe(bpe) => bpe.starts_with_bos(),
            Encoder::SentencePiece(_) => true,
        });
        let mut end_of_generation: Vec<u32> = vocabulary
            .tokens
            .iter()
            .zip(&vocabulary.kinds)
            .enumerate()
            .filter(|(_, (token, kind))| {
                **kind == TokenKind::Control && END_OF_TURN_TOKENS.contains(&token.as_str())
            })
            .filter_map(|(id, _)| u32::try_from(id).ok())
            .chain([vocabulary.eos, vocabulary.eot, vocabulary.eom].into_iter().flatten())
            .collect();
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        let kinds = [TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown];
        let special_tokens = SpecialTokens::new(&vocabulary, &kinds);
        let user_defined = SpecialTokens::new(&vocabulary, &[TokenKind::UserDefined]);
        Ok(Self { vocabulary, encoder, special_tokens, user_defined, add_bos, end_of_generation })
    }

    /// Encodes `text` without adding a bos or eos. With `parse_special`, special tokens that the text
    /// spells out are encoded as those tokens; without, as plain text, but for user-defined ones.
    ///
    /// # Errors
    /// `invalid_field` if the vocabulary has neither a token for a byte of the text nor an unknown
    /// token.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let known = if parse_special { &self.special_tokens } else { &self.user_defined };
        self.encode_around(known, text, None, &mut ids)?;
        Ok(ids)
    }

    /// Encodes a prompt that a chat template rendered from shielded texts: special tokens are
    /// recognised only where the template itself wrote them. The bos that the model expects is added
    /// unless the template wrote it. No eos is added, because the model continues the prompt.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_prompt(&self, rendered: &str, shield: &Shield) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(rendered.len() / 3);
        self.encode_around(&self.special_tokens, rendered, Some(shield.mark()), &mut ids)?;
        self.begin(&mut ids);
        Ok(ids)
    }

    /// Encodes a text in which special tokens are recognised. `begin` and `end` add the bos and the eos that
    /// the model expects around a text, unless they are there.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_text(&self, text: &str, begin: bool, end: bool) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, true)?;
        if begin {
            self.begin(&mut ids);
        }
        if end && self.vocabulary.add_eos == Some(true) && ids.last().copied() != self.vocabulary.eos {
            ids.extend(self.vocabulary.eos);
        }
        Ok(ids)
    }

    /// Puts the bos in front that the model expects there.
    fn begin(&self, ids: &mut Vec<u32>) {
        if let Some(bos) = self.vocabulary.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
    }

    /// Encodes a text in which these tokens are recognised, and removes `mark` from the rest.
    fn encode_around(
        &self,
        known: &SpecialTokens,
        text: &str,
        mark: Option<char>,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut from = 0;
        let plain = |part: &str, ids: &mut Vec<u32>| match mark {
            Some(mark) if part.contains(mark) => self.encode_plain(&part.replace(mark, ""), ids),
            _ => self.encode_plain(part, ids),
        };
        while let Some(special) = known.find(text, from) {
            plain(&text[from..special.start], ids)?;
            ids.push(special.id);
            from = special.end;
        }
        plain(&text[from..], ids)
    }

    /// Encodes plain text at the start of the input or after a special token.
    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        match &self.encoder {
            Encoder::Bpe(bpe) => bpe.encode(text, ids),
            Encoder::SentencePiece(pieces) => pieces.encode(text, ids),
        }
    }

    /// Decodes a complete sequence. Control tokens are dropped; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder(true);
        let mut text: String = ids.iter().map(|id| self.decode_next(&mut decoder, *id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// Decodes a complete sequence, with the names of its control tokens.
    #[must_use]
    pub fn spell(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder(true);
        let mut text: String = ids.iter().map(|id| self.spell_next(&mut decoder, *id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// A decoder for a sequence that arrives token by token; see [`decode_next`](Self::decode_next). Only where
    /// the sequence `begins` a text, the space that `SentencePiece` puts before one is left out.
    #[must_use]
    pub fn decoder(&self, begins: bool) -> Decoder {
        Decoder::new(match &self.encoder {
            Encoder::Bpe(_) => false,
            Encoder::SentencePiece(pieces) => begins && pieces.adds_space_prefix(),
        })
    }

    /// Decodes the next token of a sequence. Returns the text that is complete, which is often empty.
    pub fn decode_next(&self, decoder: &mut Decoder, id: u32) -> String {
        decoder.push(|bytes| self.append_bytes(id, bytes))
    }

    /// Like [`decode_next`](Self::decode_next), with the token's name for a control token.
    pub fn spell_next(&self, decoder: &mut Decoder, id: u32) -> String {
        match self.token(id).filter(|_| self.is_control(id)) {
            Some(name) => decoder.push(|bytes| bytes.extend_from_slice(name.as_bytes())),
            None => self.decode_next(decoder, id),
        }
    }

    /// Appends the bytes of a token: none for a control token or an id outside the vocabulary.
    fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let Some((token, kind)) = self.vocabulary.get(id) else { return };
        match (kind, &self.encoder) {
            (TokenKind::Control, _) => {}
            (TokenKind::UserDefined, Encoder::Bpe(_)) => bytes.extend_from_slice(token.as_bytes()),
            (_, Encoder::Bpe(_)) => bpe::append_bytes(token, bytes),
            (_, Encoder::SentencePiece(_)) => sentencepiece::append_bytes(token, kind, bytes),
        }
    }

    /// The bytes of a token in a text: none for a control token or an id outside the vocabulary.
    #[must_use]
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_bytes(id, &mut bytes);
        bytes
    }

    /// Whether the token has a meaning of its own instead of a text.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.get(id), Some((_, TokenKind::Control | TokenKind::Unknown)))
    }

    /// The control or user-defined token with this name.
    #[must_use]
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.special_tokens
            .find(name, 0)
            .filter(|found| (found.start, found.end) == (0, name.len()))
            .map(|found| found.id)
    }

    /// Every id of the vocabulary.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        (0..).take(self.token_count())
    }

    /// How many tokens the vocabulary has.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// The token that begins a text, if the model has one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// The token that ends a text, if the model has one.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.eos
    }

    /// The control and user-defined tokens, for a [`Shield`].
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// A token's spelling in the vocabulary.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.get(id).map(|(token, _)| token)
    }

    /// Whether this token ends a generation.
    #[must_use]
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// The tokens that end a generation, ascending.
    #[must_use]
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }
}

#[cfg(test)]
mod tests;
