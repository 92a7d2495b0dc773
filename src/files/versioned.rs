//! Versions of the small JSON files that the hive keeps.
//!
//! Each file has the version of its format in the field `version`; a file without that field is of
//! version 1. A format may gain fields without a new version: unknown fields are kept when a file is
//! rewritten. A file of a newer version, or whose version is not a number, is neither read nor rewritten,
//! and is removed only by a caller that forces the deletion of the model.

use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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
    version: Option<Value>,
}

impl<T: DeserializeOwned> Versioned<T> {
    pub(crate) fn parse(json: &[u8]) -> Self {
        let Ok(VersionField { version }) = serde_json::from_slice(json) else { return Self::Invalid };
        let is_known = |version: Value| version.as_u64().is_some_and(|version| version <= VERSION);
        if !version.is_none_or(is_known) {
            return Self::Newer;
        }
        serde_json::from_slice(json).map_or(Self::Invalid, Self::Known)
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

/// The contents of a file of at most so many bytes that is read once and then rewritten; the default where there is
/// none. A damaged file is set aside. `None` where the file is not for this version to change; `without` says in the
/// log what is not done then.
pub(crate) fn load<T: DeserializeOwned + Default>(file: &Path, max_bytes: u64, without: &str) -> Option<T> {
    let path = file.display();
    let bytes = match super::read(file, max_bytes) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(T::default()),
        Err(error) => {
            tracing::warn!(%path, %error, "{without}: the file cannot be read");
            return None;
        }
    };
    match Versioned::parse(&bytes) {
        Versioned::Known(contents) => Some(contents),
        Versioned::Newer => {
            tracing::warn!(%path, "{without}: a newer version of the hive wrote the file");
            None
        }
        Versioned::Invalid => match super::set_aside(file) {
            Ok(kept_as) => {
                tracing::warn!(%path, kept_as = %kept_as.display(), "a damaged file was set aside");
                Some(T::default())
            }
            Err(failed) => {
                tracing::warn!(%path, error = %failed, "{without}: the file is damaged");
                None
            }
        },
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
        for json in [r#"{"version":2,"title":"a"}"#, r#"{"version":"next","name":"a"}"#] {
            assert_eq!(parse(json), Versioned::Newer, "{json}");
        }
        for json in ["", "[]", r#"{"version":1}"#, r#"{"name":"a""#] {
            assert_eq!(parse(json), Versioned::Invalid, "{json}");
        }
    }
}
