//! Ids of models: their grammar, and how any text is brought into it.
//!
//! Invariants: any file name gives an id in the grammar. An id is looked up, and never made into a path.
//! Which file has which id is for `library::ids` to say.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::error::{Code, Failure, Result};
use crate::text::hex;

/// The longest id, in bytes.
pub(crate) const MAX_LENGTH: usize = 255;
/// `~` and eight hexadecimal digits.
const SUFFIX_LENGTH: usize = 9;

/// A well-formed id (or name) of a model: letters and digits of any script and `._/:@+~-`, 1 to 255
/// bytes of UTF-8, and no `-` in front.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(
    min_length = 1,
    max_length = 255,
    // Which characters of ASCII it has not. Of others it has letters, digits and marks, which no expression tells
    // that every reader understands.
    pattern = r"^[^\x00-\x2a\x2c\x2d\x3b-\x3f\x5b-\x5e\x60\x7b-\x7d\x7f][^\x00-\x2a\x2c\x3b-\x3f\x5b-\x5e\x60\x7b-\x7d\x7f]*$",
    examples("llama-3.2-1b")
)]
pub struct ModelId(String);

impl ModelId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ModelId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ModelId {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self> {
        let refused = |message: String| Err(Failure::new(Code::InvalidId, message).hint(HINT));
        if text.is_empty() {
            return refused("a model id must not be empty".into());
        }
        if let Some((index, bad)) = text.chars().enumerate().find(|&(_, c)| !is_allowed(c)) {
            return refused(format!("{bad:?}, character {} of the model id, is not allowed", index + 1));
        }
        if text.starts_with('-') {
            return refused("a model id must not begin with '-'".into());
        }
        if text.len() > MAX_LENGTH {
            return refused(format!(
                "the model id has {} bytes; at most {MAX_LENGTH} are allowed",
                text.len()
            ));
        }
        Ok(Self(text))
    }
}

const HINT: &str = "an id has letters, digits and . _ / : @ + ~ - only, and does not begin with -; ModelList \
                    shows the ids there are";

impl FromStr for ModelId {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        Self::try_from(text.to_owned())
    }
}

fn is_allowed(c: char) -> bool {
    is_letter_or_digit(c) || matches!(c, '.' | '_' | '/' | ':' | '@' | '+' | '~' | '-')
}

/// Whether the character is a letter or a digit of any script, or one of the marks that many scripts
/// write letters with.
pub(crate) fn is_letter_or_digit(c: char) -> bool {
    let is_joiner = matches!(c, '\u{200c}' | '\u{200d}');
    c.is_alphanumeric()
        || (!c.is_ascii() && !is_joiner && regex_syntax::try_is_word_character(c).unwrap_or(false))
}

/// Brings any text into the grammar: other characters become `-`, those in front are left out, and a
/// text that is too long is cut and ends in its hash.
pub(crate) fn sanitize(text: &str) -> String {
    let clean: String = text.chars().map(|c| if is_allowed(c) { c } else { '-' }).collect();
    let clean = clean.trim_start_matches('-');
    match clean.len() {
        0 => "_".to_owned(),
        1..=MAX_LENGTH => clean.to_owned(),
        _ => suffixed(clean, text.as_bytes()),
    }
}

/// The ids for the file at `path` where others have the id `taken`: `~` and 8 hexadecimal digits of the
/// path's SHA-256 behind it. The first is the one to use; the others are needed only where another file's
/// own name ends like that.
pub(crate) fn with_suffix(taken: &str, path: &Path) -> impl Iterator<Item = String> {
    let mut hashed = path.as_os_str().as_encoded_bytes().to_vec();
    std::iter::repeat_with(move || {
        let id = suffixed(taken, &hashed);
        hashed.push(0);
        id
    })
}

/// `id` with the first eight digits of a hash, cut to the longest length.
fn suffixed(id: &str, hashed: &[u8]) -> String {
    let digits = hex(&Sha256::digest(hashed)[..4]);
    format!("{}~{digits}", &id[..id.floor_char_boundary(MAX_LENGTH - SUFFIX_LENGTH)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_file_name_gives_an_id_in_the_grammar(name in ".{0,400}") {
            for id in [sanitize(&name), with_suffix(&sanitize(&name), Path::new("/m")).next().unwrap()] {
                prop_assert!(id.parse::<ModelId>().is_ok(), "{id}");
            }
        }
    }

    #[test]
    fn letters_and_digits_of_any_script_stay() {
        for name in ["模型", "модель-7B", "मॉडल_२", "e\u{301}te", "نموذج"] {
            assert_eq!(sanitize(name), name);
            assert_eq!(name.parse::<ModelId>().unwrap().as_str(), name);
        }
        assert_eq!(sanitize("--(a) b\u{200b}c"), "a--b-c");
        assert_eq!(sanitize("(-)"), "_");
        let long = sanitize(&"模".repeat(100));
        assert!(long.len() <= MAX_LENGTH && long.starts_with("模模") && long.contains('~'), "{long}");
    }

    #[test]
    fn a_suffix_has_eight_digits_of_the_paths_hash() {
        let mut suffixes = with_suffix("x", Path::new("/b/x.gguf"));
        let first = suffixes.next().unwrap();
        assert_eq!(first, suffixed("x", b"/b/x.gguf"));
        assert_eq!(first.len(), 1 + SUFFIX_LENGTH);
        assert_ne!(suffixes.next().unwrap(), first);
    }

    #[test]
    fn a_refusal_names_the_first_bad_character() {
        let failure = "../a b".parse::<ModelId>().unwrap_err();
        assert_eq!(failure.code, Code::InvalidId);
        assert_eq!(failure.message, "' ', character 5 of the model id, is not allowed");
        assert!("".parse::<ModelId>().is_err());
        assert!("-x".parse::<ModelId>().unwrap_err().message.contains("begin with '-'"));
        assert!("x".repeat(256).parse::<ModelId>().is_err());
        let error = serde_json::from_str::<ModelId>("\"a\\u0000\"").unwrap_err();
        assert!(error.to_string().contains("character 2"), "{error}");
    }
}
