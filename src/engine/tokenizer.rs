//! Text to tokens and back, as the model's own file describes it (`tokenizer.ggml.*` of GGUF).
//!
//! Invariants:
//! - [`Tokenizer::encode`] without `parse_special` never yields a control, user-defined or unknown
//!   token, whatever the text says: only the template's own text may open or close a turn.
//! - Text that was encoded that way decodes to the same bytes, for both kinds of vocabulary.
//! - A [`Decoder`] never emits half a UTF-8 character.
//!
//! Text of users that goes through a chat template is covered by a [`Shield`] first; see there.

mod bpe;
mod decode;
mod sentencepiece;
mod shield;
mod special;
mod vocabulary;

use crate::error::Result;
use crate::models::gguf::Metadata;

use bpe::Bpe;
pub use decode::Decoder;
use sentencepiece::SentencePiece;
pub use shield::Shield;
use special::Specials;
use vocabulary::{TokenKind, Vocabulary};

/// Names of control tokens that end a turn in some family of models. Files often declare one of
/// them as `eos` and leave the others to convention.
const ENDS_OF_TURN: &[&str] = &[
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

/// The tokenizer of one model.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    encoder: Encoder,
    specials: Specials,
    add_bos: bool,
    /// Sorted, for a binary search.
    ends: Vec<u32>,
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
    /// for fields that contradict each other.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        Self::new(Vocabulary::from_metadata(metadata)?)
    }

    fn new(vocabulary: Vocabulary) -> Result<Self> {
        let encoder = match vocabulary.model.as_str() {
            "gpt2" => Encoder::Bpe(Box::new(Bpe::new(&vocabulary)?)),
            "llama" => Encoder::SentencePiece(Box::new(SentencePiece::new(&vocabulary)?)),
            other => return Err(vocabulary::unsupported("tokenizer.ggml.model", other, &["gpt2", "llama"])),
        };
        // What the reference converters leave unsaid: SentencePiece models of the LLaMA family and
        // the llama-bpe one were trained with a leading bos, the other byte-level ones without.
        let add_bos = vocabulary.add_bos.unwrap_or(match &encoder {
            Encoder::Bpe(bpe) => bpe.starts_with_bos(),
            Encoder::SentencePiece(_) => true,
        });
        let mut ends: Vec<u32> = vocabulary
            .tokens
            .iter()
            .zip(&vocabulary.kinds)
            .enumerate()
            .filter(|(_, (token, kind))| {
                **kind == TokenKind::Control && ENDS_OF_TURN.contains(&token.as_str())
            })
            .filter_map(|(id, _)| u32::try_from(id).ok())
            .chain([vocabulary.eos, vocabulary.eot, vocabulary.eom].into_iter().flatten())
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let specials = Specials::new(&vocabulary);
        Ok(Self { vocabulary, encoder, specials, add_bos, ends })
    }

    /// Encodes `text`, without adding a bos or eos. Special tokens that it spells out become
    /// themselves with `parse_special`, and plain text without.
    ///
    /// # Errors
    /// `invalid_field` where the vocabulary has neither a token for some byte of the text nor one
    /// for the unknown.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        if parse_special {
            self.encode_parts(text, None, &mut ids)?;
        } else {
            self.encode_plain(text, &mut ids)?;
        }
        Ok(ids)
    }

    /// Encodes what a chat template rendered from shielded texts: special tokens count only where
    /// the template itself wrote them. The bos that the model expects is added unless the template
    /// wrote it. No eos is added: the text is there to be continued.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_prompt(&self, rendered: &str, shield: &Shield) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(rendered.len() / 3);
        if self.add_bos {
            ids.extend(self.vocabulary.bos);
        }
        let before = ids.len();
        self.encode_parts(rendered, Some(shield.mark()), &mut ids)?;
        if before == 1 && ids.get(1) == ids.first() {
            ids.remove(0);
        }
        Ok(ids)
    }

    fn encode_parts(&self, text: &str, mark: Option<char>, ids: &mut Vec<u32>) -> Result<()> {
        let mut from = 0;
        let plain = |part: &str, ids: &mut Vec<u32>| match mark {
            Some(mark) if part.contains(mark) => self.encode_plain(&part.replace(mark, ""), ids),
            _ => self.encode_plain(part, ids),
        };
        while let Some(found) = self.specials.find(text, from) {
            plain(&text[from..found.start], ids)?;
            ids.push(found.id);
            from = found.end;
        }
        plain(&text[from..], ids)
    }

    /// Encodes a text that begins the input, or follows a special token.
    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        match &self.encoder {
            Encoder::Bpe(bpe) => bpe.encode(text, ids),
            Encoder::SentencePiece(pieces) => pieces.encode(text, ids),
        }
    }

    /// Decodes a whole sequence. Control tokens vanish; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text: String = ids.iter().map(|id| decoder.push(self, *id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// A decoder for a sequence that arrives token by token.
    #[must_use]
    pub fn decoder(&self) -> Decoder {
        Decoder::new(match &self.encoder {
            Encoder::Bpe(_) => false,
            Encoder::SentencePiece(pieces) => pieces.adds_space_prefix(),
        })
    }

    /// Appends the bytes that a token stands for: none for a control token or an unknown id.
    fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let Some((token, kind)) = self.vocabulary.get(id) else { return };
        match (kind, &self.encoder) {
            (TokenKind::Control, _) => {}
            (TokenKind::UserDefined, Encoder::Bpe(_)) => bytes.extend_from_slice(token.as_bytes()),
            (_, Encoder::Bpe(_)) => bpe::append_bytes(token, bytes),
            (_, Encoder::SentencePiece(_)) => sentencepiece::append_bytes(token, kind, bytes),
        }
    }

    /// How many tokens the vocabulary has.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// The token that begins a text, where the model has one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// The token that ends a text, where the model has one.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.eos
    }

    /// How a token is spelled in the vocabulary.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.get(id).map(|(token, _)| token)
    }

    /// Whether a model that generates this token has said all it wants to say.
    #[must_use]
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The tokens of [`is_end_of_generation`](Self::is_end_of_generation), ascending.
    #[must_use]
    pub fn end_of_generation(&self) -> &[u32] {
        &self.ends
    }
}

#[cfg(test)]
mod tests;
