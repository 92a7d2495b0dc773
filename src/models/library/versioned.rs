//! Versions of the small JSON files that the hive keeps.
//!
//! Each file states the version of its format in the field `version`; a file without that field has
//! version 1. Fields that this version of the hive does not know are kept when a file is rewritten. A
//! file with a newer version is neither read, nor rewritten, nor removed, unless a caller forces the
//! deletion of what it is about.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The version that is written, and the newest that is read.
pub(crate) const VERSION: u64 = 1;

/// The version of a file that states none.
pub(crate) const fn first_version() -> u64 {
    1
}

/// The contents of a file with a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Versioned<T> {
    /// Contents that this version of the hive reads.
    Known(T),
    /// A newer version of the hive wrote the file.
    Newer,
    /// The file is damaged, or is something else.
    Invalid,
}

#[derive(Deserialize)]
struct VersionField {
    #[serde(default = "first_version")]
    version: u64,
}

impl<T: DeserializeOwned> Versioned<T> {
    pub(crate) fn parse(json: &[u8]) -> Self {
        match serde_json::from_slice::<VersionField>(json) {
            Ok(field) if field.version > VERSION => Self::Newer,
            Ok(_) => serde_json::from_slice(json).map_or(Self::Invalid, Self::Known),
            Err(_) => Self::Invalid,
        }
    }
}

impl<T> Versioned<T> {
    /// The contents, where this version of the hive reads them.
    pub(crate) fn known(self) -> Option<T> {
        match self {
            Self::Known(contents) => Some(contents),
            Self::Newer | Self::Invalid => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_newer_or_invalid() {
        #[derive(Debug, PartialEq, Eq, Deserialize)]
        struct Name {
            name: String,
        }
        let parse = |json: &str| Versioned::<Name>::parse(json.as_bytes());
        let known = || Versioned::Known(Name { name: "a".into() });
        assert_eq!(parse(r#"{"name":"a"}"#), known());
        assert_eq!(parse(r#"{"version":1,"name":"a","more":2}"#), known());
        assert_eq!(parse(r#"{"version":2,"title":"a"}"#), Versioned::Newer);
        for json in ["", "[]", r#"{"version":"1","name":"a"}"#, r#"{"version":1}"#, r#"{"name":"a""#] {
            assert_eq!(parse(json), Versioned::Invalid, "{json}");
        }
    }
}
