//! Ids of models: their grammar, and how a listing makes them.
//!
//! Invariants: any file name gives an id in the grammar; the ids of one listing are unique; which of
//! two files gets a suffix does not depend on the order in which a scan found them. An id is looked up,
//! and never made into a path.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Code, Failure, Result};
use crate::text::hex;

/// The longest id, in bytes.
pub(crate) const MAX_LENGTH: usize = 255;
/// `~` and eight hexadecimal digits.
const SUFFIX_LENGTH: usize = 9;

/// A well-formed id (or name) of a model: `[A-Za-z0-9._/:@+~-]{1,255}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
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
        if text.len() > MAX_LENGTH {
            return refused(format!(
                "the model id has {} characters; at most {MAX_LENGTH} are allowed",
                text.len()
            ));
        }
        Ok(Self(text))
    }
}

const HINT: &str = "an id has letters, digits and . _ / : @ + ~ - only; ModelList shows the ids there are";

impl FromStr for ModelId {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        Self::try_from(text.to_owned())
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | ':' | '@' | '+' | '~' | '-')
}

/// Brings any text into the grammar: other characters become `-`, and a text that is too long is cut
/// and ends in its hash.
pub(crate) fn sanitize(text: &str) -> String {
    let clean: String = text.chars().map(|c| if is_allowed(c) { c } else { '-' }).collect();
    match clean.len() {
        0 => "-".to_owned(),
        1..=MAX_LENGTH => clean,
        _ => suffixed(&clean, text.as_bytes()),
    }
}

/// Makes ids unique. Each file comes with its preferred id, in order of precedence: the first file with
/// an id keeps it, and each other one gets `~` and 8 hexadecimal digits of its path's SHA-256.
pub(crate) fn assign<'a>(preferred: impl IntoIterator<Item = (String, &'a Path)>) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut ids = Vec::new();
    for (preferred, path) in preferred {
        let mut id = preferred.clone();
        let mut salt = path.as_os_str().as_encoded_bytes().to_vec();
        while !taken.insert(id.clone()) {
            id = suffixed(&preferred, &salt);
            // Needed only where another file's own name ends in this suffix.
            salt.push(0);
        }
        ids.push(id);
    }
    ids
}

/// `id`, which must be ASCII, with the first eight digits of a hash, cut to the longest length.
fn suffixed(id: &str, hashed: &[u8]) -> String {
    let digits = hex(&Sha256::digest(hashed)[..4]);
    format!("{}~{digits}", &id[..id.len().min(MAX_LENGTH - SUFFIX_LENGTH)])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_file_name_gives_an_id_in_the_grammar(name in ".{0,400}") {
            let id = sanitize(&name);
            prop_assert!(id.parse::<ModelId>().is_ok(), "{id}");
        }

        #[test]
        fn ids_are_unique_for_any_file_names(
            names in prop::collection::vec("[ab\u{e9}~0-9]{0,3}|a{240,260}", 0..40)
        ) {
            let paths: Vec<_> = (0..names.len()).map(|n| PathBuf::from(format!("/m/{n}"))).collect();
            let ids = assign(names.iter().map(|name| sanitize(name)).zip(paths.iter().map(PathBuf::as_path)));
            let unique: HashSet<_> = ids.iter().collect();
            prop_assert_eq!(unique.len(), ids.len());
            for id in &ids {
                prop_assert!(id.parse::<ModelId>().is_ok(), "{}", id);
            }
        }
    }

    #[test]
    fn the_first_file_keeps_the_preferred_id_and_the_suffix_is_stable() {
        let (first, second) = (Path::new("/a/x.gguf"), Path::new("/b/x.gguf"));
        let ids = assign([("x".to_owned(), first), ("x".to_owned(), second)]);
        assert_eq!(ids[0], "x");
        assert_eq!(ids[1], suffixed("x", b"/b/x.gguf"));
        assert_eq!(ids[1].len(), 1 + SUFFIX_LENGTH);
    }

    #[test]
    fn a_refusal_names_the_first_bad_character() {
        let failure = "../a b".parse::<ModelId>().unwrap_err();
        assert_eq!(failure.code, Code::InvalidId);
        assert_eq!(failure.message, "' ', character 5 of the model id, is not allowed");
        assert!("".parse::<ModelId>().is_err());
        assert!("x".repeat(256).parse::<ModelId>().is_err());
        let error = serde_json::from_str::<ModelId>("\"a\\u0000\"").unwrap_err();
        assert!(error.to_string().contains("character 2"), "{error}");
    }
}
