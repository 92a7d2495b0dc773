//! Reads the metadata keys `tokenizer.ggml.*` of a GGUF file and checks them against each other.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer>

use crate::engine::model_error::{corrupt, unknown_value};
use crate::error::Result;
use crate::models::gguf::Metadata;

/// The type of a token: `tokenizer.ggml.token_type`, with SentencePiece's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    /// Takes part in merging and is split again at the end.
    Unused,
    /// One byte, spelled `<0xNN>`.
    Byte,
}

/// A vocabulary whose arrays have one entry per token and whose ids are in range.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    /// `tokenizer.ggml.model`.
    pub(super) model: String,
    /// `tokenizer.ggml.pre`: the rule that splits a text into words (byte-level BPE).
    pub(super) pre: Option<String>,
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<TokenKind>,
    /// SentencePiece's merge scores; empty if the file has none.
    pub(super) scores: Vec<f32>,
    /// The merges of byte-level BPE, best first, each `left right`.
    pub(super) merges: Vec<String>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) eot: Option<u32>,
    pub(super) eom: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    pub(super) add_space_prefix: Option<bool>,
}

impl Vocabulary {
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let required = |key: &str| corrupt(key, "the key is missing");
        let model =
            metadata.str("tokenizer.ggml.model").ok_or_else(|| required("tokenizer.ggml.model"))?.to_owned();
        let tokens = metadata
            .strings("tokenizer.ggml.tokens")
            .ok_or_else(|| required("tokenizer.ggml.tokens"))?
            .to_vec();
        let kinds = match metadata.i32s("tokenizer.ggml.token_type") {
            Some(numbers) => numbers.iter().map(|number| kind(*number)).collect::<Result<_>>()?,
            None => vec![TokenKind::Normal; tokens.len()],
        };
        let id = |key: &str| -> Result<Option<u32>> {
            match metadata.u64(key) {
                None => Ok(None),
                // Some converters write -1 for "none".
                Some(id) if id >= u64::from(u32::MAX) => Ok(None),
                Some(id) => match u32::try_from(id) {
                    Ok(small) if (small as usize) < tokens.len() => Ok(Some(small)),
                    _ => Err(corrupt(key, format!("{id} is beyond the {} tokens of the file", tokens.len()))),
                },
            }
        };
        let vocabulary = Self {
            pre: metadata.str("tokenizer.ggml.pre").map(str::to_owned),
            scores: metadata.f32s("tokenizer.ggml.scores").map(<[f32]>::to_vec).unwrap_or_default(),
            merges: metadata.strings("tokenizer.ggml.merges").map(<[String]>::to_vec).unwrap_or_default(),
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            eom: id("tokenizer.ggml.eom_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token"),
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token"),
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix"),
            model,
            tokens,
            kinds,
        };
        vocabulary.checked()
    }

    /// Checks the lengths of the arrays. Makes the tokens that begin and end a text control tokens
    /// even if the file does not: otherwise a user could write them.
    pub(super) fn checked(mut self) -> Result<Self> {
        if self.tokens.is_empty() {
            return Err(corrupt("tokenizer.ggml.tokens", "the array is empty"));
        }
        for (key, len) in
            [("tokenizer.ggml.token_type", self.kinds.len()), ("tokenizer.ggml.scores", self.scores.len())]
        {
            if len != self.tokens.len() && !(len == 0 && key.ends_with("scores")) {
                return Err(corrupt(
                    key,
                    format!("{len} entries for the {} tokens of the file", self.tokens.len()),
                ));
            }
        }
        for id in [self.bos, self.eos, self.eot, self.eom].into_iter().flatten() {
            if let Some(kind @ TokenKind::Normal) = self.kinds.get_mut(id as usize) {
                *kind = TokenKind::Control;
            }
        }
        Ok(self)
    }

    pub(super) fn get(&self, id: u32) -> Option<(&str, TokenKind)> {
        let index = id as usize;
        Some((self.tokens.get(index)?.as_str(), *self.kinds.get(index)?))
    }

    /// Every token, with its id and kind.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> {
        (0..).zip(&self.tokens).zip(&self.kinds).map(|((id, token), kind)| (id, token.as_str(), *kind))
    }
}

fn kind(number: i32) -> Result<TokenKind> {
    Ok(match number {
        // 0 is "undefined"; converters write it for vocabularies without types.
        0 | 1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        other => {
            return Err(unknown_value(
                "tokenizer.ggml.token_type",
                &other.to_string(),
                &["0", "1", "2", "3", "4", "5", "6"],
            ));
        }
    })
}
