//! Where a model comes from: the text of `ModelDownload`'s field `model`, understood once.
//!
//! Each kind of source has a file here, with its grammar and, where it is another machine, with what
//! it asks there. A text is tried on each in turn; the grammars exclude each other.

mod ask;
mod file;
mod hub;
mod ollama;
mod url;
mod url_resolve;

use std::path::PathBuf;

use crate::error::{Code, Failure, Result};
use crate::text;

pub(crate) use hub::Hub;
pub use hub::HubName;
pub use ollama::OllamaName;
pub use url::UrlSource;

const HELP: &str = "write org/repo:Q4_K_M for a model of the Hugging Face Hub, ollama:name:tag for one of \
                    Ollama's library, https://…/x.gguf, or file:/path/x.gguf";

/// A source that the hive can bring a model from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `file:/path`: a file or a folder of the hive's own machine, to be linked. The path is absolute.
    File(PathBuf),
    /// `https://…`: a file to be downloaded.
    Remote(UrlSource),
    /// `org/repo…`: a model of the Hugging Face Hub.
    Hub(HubName),
    /// `ollama:name[:tag]`: a model of Ollama's library.
    Ollama(OllamaName),
}

impl Source {
    /// Understands the text that names a source.
    ///
    /// - `[hf:]org/repo`, `org/repo:Q4_K_M`, `org/repo/path/file.gguf`, each with `@revision` if need
    ///   be, is of the Hub;
    /// - `ollama:[namespace/]name[:tag]` is of Ollama's library;
    /// - `https://…/x.gguf` is a URL, and may end in `#sha256=` and 64 hexadecimal digits, which the
    ///   download is checked against;
    /// - `file:/path` is taken as it stands; `file:///path` is a URL, percent-encoded.
    ///
    /// # Errors
    /// [`Code::SourceUnsupported`] for a source that this hive cannot read, saying what it can;
    /// [`Code::InvalidField`] for one that is badly written.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(invalid("it is empty", HELP));
        }
        if text.starts_with(['/', '~', '.']) {
            return Err(invalid(
                "a path alone is not a source",
                "write a file of the hive's machine as file:/path/model.gguf",
            ));
        }
        file::parse(text)
            .or_else(|| url::parse(text))
            .or_else(|| Some(OllamaName::parse(text)?.map(Self::Ollama)))
            .or_else(|| Some(HubName::parse(text)?.map(Self::Hub)))
            .unwrap_or_else(|| {
                // What follows in a URL may be a secret.
                let shown = if text.contains("://") { text.split(['?', '#']).next() } else { None };
                let shown = text::excerpt(shown.unwrap_or(text));
                let message = format!("'{shown}' names no source that this hive knows");
                Err(Failure::new(Code::SourceUnsupported, message).hint(HELP))
            })
    }

    /// Whether a model of this source has revisions to choose from.
    #[must_use]
    pub fn has_revisions(&self) -> bool {
        matches!(self, Self::Hub(_))
    }
}

/// Whether the text is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn invalid(what: &str, hint: &str) -> Failure {
    Failure::new(Code::InvalidField, format!("model: {what}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_source_or_a_typed_refusal(
            text in "(https://|file:|file://|http://h/|hf:|ollama:)?[a%./#?é:@\\-]{0,12}(.gguf)?.{0,8}"
        ) {
            match Source::parse(&text) {
                Ok(Source::File(path)) => prop_assert!(path.is_absolute()),
                Ok(Source::Remote(remote)) => prop_assert!(!remote.file_name.contains('/')),
                Ok(Source::Hub(_) | Source::Ollama(_)) => {}
                Err(failure) => {
                    prop_assert!(matches!(failure.code, Code::InvalidField | Code::SourceUnsupported));
                    prop_assert!(failure.hint.is_some());
                }
            }
        }
    }

    #[test]
    fn what_is_no_source_says_what_is() {
        for (text, code) in [
            ("", Code::InvalidField),
            ("/m/x.gguf", Code::InvalidField),
            ("file:x.gguf", Code::InvalidField),
            ("file://other-host/x.gguf", Code::InvalidField),
            ("https://u:p@h/x.gguf", Code::InvalidField),
            ("https://h/x.gguf#sha256=12", Code::InvalidField),
            ("https://h/x.bin", Code::SourceUnsupported),
            ("https://h/mmproj-x.gguf", Code::SourceUnsupported),
            ("https://h/x-00001-of-00002.gguf", Code::SourceUnsupported),
            ("org/repo/x.bin", Code::SourceUnsupported),
            ("hf:repo", Code::InvalidField),
            ("ollama:", Code::InvalidField),
            ("ftp://h/x.gguf", Code::SourceUnsupported),
            ("llama3", Code::SourceUnsupported),
        ] {
            let failure = Source::parse(text).unwrap_err();
            assert_eq!(failure.code, code, "{text}: {failure}");
            assert!(failure.hint.is_some(), "{text}");
        }
        let failure = Source::parse("s3://bucket/x.gguf?X-Signature=sesame").unwrap_err();
        assert!(!failure.message.contains("sesame"), "{failure}");
    }
}
