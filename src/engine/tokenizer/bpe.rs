//! Byte-level byte pair encoding (BPE), as in GPT-2: a rule splits the text into words, each byte of
//! a word is written as one printable letter, and pairs of letters are merged, the best pair first.
//!
//! The `tokenizers` crate does the merging. The rules are those that the models were trained with,
//! under the names that llama.cpp's converter writes to `tokenizer.ggml.pre`.

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::utils::SysRegex;

use super::vocabulary::{TokenKind, Vocabulary};
use crate::engine::model_error::{corrupt, unknown_value};
use crate::error::{Code, Failure, Result};

/// A rule that splits a text into words.
struct SplitRule {
    names: &'static [&'static str],
    /// Each regular expression splits the words of the one before it into its matches and the text
    /// between them.
    splits: &'static [&'static str],
    /// A word that is in the vocabulary becomes that token, whatever the merges would yield.
    whole_words: bool,
    /// Whether models with this rule were trained with a leading bos.
    starts_with_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const RULES: &[SplitRule] = &[
    SplitRule {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: true,
        starts_with_bos: true,
    },
    SplitRule {
        names: &["tekken"],
        splits: &[
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: true,
        starts_with_bos: true,
    },
    SplitRule {
        names: &["qwen2", "deepseek-r1-qwen"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: false,
        starts_with_bos: false,
    },
    SplitRule { names: &["gpt-2", "gpt2"], splits: &[GPT2], whole_words: false, starts_with_bos: false },
    SplitRule {
        names: &["smollm", "starcoder"],
        splits: &[r"\p{N}", GPT2],
        whole_words: false,
        starts_with_bos: false,
    },
    SplitRule {
        names: &["default"],
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        whole_words: false,
        starts_with_bos: false,
    },
];

/// The metadata key of the merges.
const MERGES_KEY: &str = "tokenizer.ggml.merges";

/// How many words each encoding thread caches with their tokens.
const CACHED_WORDS: usize = 2_000;

pub(super) struct Bpe {
    model: BPE,
    splits: Vec<SysRegex>,
    starts_with_bos: bool,
    /// Bytes whose letter is not in the vocabulary. A complete vocabulary has none; those that UTF-8
    /// never uses (0xC0, 0xC1, 0xF5..) are often missing.
    missing_bytes: Vec<u8>,
    unknown: Option<u32>,
}

/// Checks that there is a rule of that name.
pub(super) fn check_rule(pre: &str) -> Result<()> {
    rule(pre).map(drop)
}

fn rule(pre: &str) -> Result<&'static SplitRule> {
    RULES.iter().find(|rule| rule.names.contains(&pre)).ok_or_else(|| {
        let known: Vec<_> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
        unknown_value("tokenizer.ggml.pre", pre, &known)
    })
}

impl Bpe {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self> {
        let pre = vocabulary.pre.as_deref().unwrap_or_else(|| {
            tracing::warn!(
                "the metadata key tokenizer.ggml.pre is missing: splitting words by the rule `default`"
            );
            "default"
        });
        let rule = rule(pre)?;
        let splits = rule.splits.iter().map(|split| SysRegex::new(split)).collect::<Result<_, _>>().map_err(
            |error| Failure::internal(format!("the split rule `{pre}` does not compile: {error}")),
        )?;

        // Special tokens take no part in merging, so that no text can be merged into one.
        let vocab: Vocab = vocabulary
            .iter()
            .filter(|(_, _, kind)| !is_special(*kind))
            .map(|(id, token, _)| (token.to_owned(), id))
            .collect();
        let missing_bytes = (0..=u8::MAX)
            .filter(|byte| !vocab.contains_key(letter(*byte).encode_utf8(&mut [0; 4]) as &str))
            .collect();
        let merges = merges(vocabulary, &vocab)?;
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(rule.whole_words)
            .cache_capacity(CACHED_WORDS)
            .build()
            .map_err(|error| corrupt(MERGES_KEY, format!("the merges are inconsistent: {error}")))?;
        Ok(Self {
            model,
            splits,
            starts_with_bos: rule.starts_with_bos,
            missing_bytes,
            unknown: vocabulary.unknown,
        })
    }

    pub(super) fn starts_with_bos(&self) -> bool {
        self.starts_with_bos
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.split(&self.splits, text, &mut |word| self.encode_word(word, ids))
    }

    /// Calls `word` with each word of the text.
    fn split(&self, splits: &[SysRegex], text: &str, word: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let Some((split, rest)) = splits.split_first() else { return word(text) };
        let mut from = 0;
        for (start, end) in split.find_iter(text) {
            self.split(rest, &text[from..start], word)?;
            self.split(rest, &text[start..end], word)?;
            from = end;
        }
        // The text after the last match. If the regex engine gives up on a pathological text, nothing
        // of it is lost.
        self.split(rest, &text[from..], word)
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        let bytes = word.as_bytes();
        let mut from = 0;
        while let Some(offset) = bytes[from..].iter().position(|byte| self.missing_bytes.contains(byte)) {
            self.merge(&bytes[from..from + offset], ids)?;
            let byte = bytes[from + offset];
            ids.push(self.unknown.ok_or_else(|| {
                Failure::new(
                    Code::InvalidField,
                    format!("the model has no token for the byte 0x{byte:02X} in {word:?}"),
                )
                .hint("leave that character out, or use another model")
            })?);
            from += offset + 1;
        }
        self.merge(&bytes[from..], ids)
    }

    fn merge(&self, bytes: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        let letters: String = bytes.iter().map(|byte| letter(*byte)).collect();
        let tokens = self
            .model
            .tokenize(&letters)
            .map_err(|error| Failure::internal(format!("the tokenizer failed: {error}")))?;
        ids.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }
}

/// The merges of the file, as pairs whose tokens are all in `vocab`.
fn merges(vocabulary: &Vocabulary, vocab: &Vocab) -> Result<Vec<(String, String)>> {
    // Some files list merges to or from tokens that they also declare special. They are skipped,
    // because special tokens take no part in merging.
    let special: std::collections::HashSet<&str> = vocabulary
        .iter()
        .filter(|(_, token, kind)| is_special(*kind) && !vocab.contains_key(*token))
        .map(|(_, token, _)| token)
        .collect();
    let mut merges = Vec::with_capacity(vocabulary.merges.len());
    for (index, merge) in vocabulary.merges.iter().enumerate() {
        // No letter is a space, so the first space is the separator.
        let Some((left, right)) =
            merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty())
        else {
            return Err(corrupt(MERGES_KEY, format!("index {index} is not a pair of tokens: {merge:?}")));
        };
        let merged = [left, right].concat();
        if ![left, right, &merged].iter().any(|token| special.contains(token)) {
            // Checked here: the crate copies the pair, unchecked, into a buffer as long as the
            // longest token.
            for token in [left, right, &merged] {
                if !vocab.contains_key(token) {
                    return Err(corrupt(
                        MERGES_KEY,
                        format!("index {index} names {token:?}, which is not a token"),
                    ));
                }
            }
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(merges)
}

fn is_special(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown)
}

/// The printable letter that GPT-2 writes for a byte: the byte's own Latin-1 character if that is
/// visible (`!`..`~`, `¡`..`¬`, `®`..`ÿ`), else the next unused one from U+0100 on.
fn letter(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0..=0x20 => offset(u32::from(byte)),
        0x7F..=0xA0 => offset(u32::from(byte) - 0x7F + 0x21),
        0xAD => offset(0x43),
    }
}

fn offset(n: u32) -> char {
    char::from_u32(0x100 + n).expect("U+0100..=U+0143 are characters")
}

/// The inverse of [`letter`].
fn byte(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Appends the bytes of a token. A character that is no byte's letter stands for its own UTF-8 bytes.
pub(super) fn append_bytes(token: &str, bytes: &mut Vec<u8>) {
    for c in token.chars() {
        match byte(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_letter() {
        let letters: std::collections::HashSet<char> = (0..=255).map(letter).collect();
        assert_eq!(letters.len(), 256);
        assert!((0..=255).all(|b| byte(letter(b)) == Some(b)));
        // The three best known from GPT-2 vocabularies.
        assert_eq!((letter(b' '), letter(b'\n'), letter(b'\t')), ('Ġ', 'Ċ', 'ĉ'));
        // The last two: 0xA0 is the 67th invisible byte (33 + 1 + 33), 0xAD the 68th.
        assert_eq!((letter(0xA0), letter(0xAD)), ('\u{142}', '\u{143}'));
    }

    fn words(pre: &str, text: &str) -> Vec<String> {
        let rule = RULES.iter().find(|rule| rule.names.contains(&pre)).unwrap();
        let bpe = Bpe {
            model: BPE::default(),
            splits: rule.splits.iter().map(|split| SysRegex::new(split).unwrap()).collect(),
            starts_with_bos: false,
            missing_bytes: Vec::new(),
            unknown: None,
        };
        let mut words = Vec::new();
        bpe.split(&bpe.splits, text, &mut |word| {
            words.push(word.to_owned());
            Ok(())
        })
        .unwrap();
        words
    }

    #[test]
    fn each_rule_splits_as_its_regular_expression_says() {
        // gpt-2: a space belongs to the word after it, as does the last of a run of spaces; all digits
        // of a number stay together.
        assert_eq!(
            words("gpt-2", "Hello  world, it's 2024!"),
            ["Hello", " ", " world", ",", " it", "'s", " 2024", "!"]
        );
        // llama-bpe: digits in groups of three, without the space; punctuation includes the newlines
        // after it; a word may begin with one character that is no letter, digit or line break.
        assert_eq!(
            words("llama-bpe", "a-b 12345!\n\nIT'S"),
            ["a", "-b", " ", "123", "45", "!\n\n", "IT", "'S"]
        );
        // tekken: a capital letter begins a word; each digit is a word.
        assert_eq!(words("tekken", "getHTTPCode 42"), ["get", "HTTPCode", " ", "4", "2"]);
        // qwen2: each digit is a word.
        assert_eq!(words("qwen2", "x 42"), ["x", " ", "4", "2"]);
        // smollm: digits are split off first, so the space before them is a word.
        assert_eq!(words("smollm", "x 42 y"), ["x", " ", "4", "2", " y"]);
        // default: punctuation is split off first, then digits in groups of three.
        assert_eq!(words("default", "a=1234"), ["a", "=", "123", "4"]);
    }
}
