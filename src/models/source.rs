//! Where a model comes from: the text of `ModelDownload`'s field `model`, understood once.

use std::path::PathBuf;

use reqwest::Url;
use sha2::{Digest, Sha256};

use super::split::Part;
use super::{scan, store, units};
use crate::error::{Code, Failure, Result};

const WORKS_TODAY: &str =
    "give a file of the hive's machine as file:/path/model.gguf, or an https URL of a .gguf file";

/// A source that the hive can bring a model from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `file:/path`: a file of the hive's own machine, to be linked. The path is absolute.
    File(PathBuf),
    /// `https://…`: a file to be downloaded.
    Remote(RemoteFile),
}

/// A GGUF file on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Without user, password and fragment.
    pub(super) url: Url,
    /// What the file is called in the store.
    pub(super) file_name: String,
    /// What `#sha256=…` says that its contents must have, in lower case.
    pub(super) sha256: Option<String>,
}

impl Source {
    /// Understands the text that names a source.
    ///
    /// `file:/path` is taken as it stands; `file:///path` is a URL, percent-encoded. A URL may end
    /// in `#sha256=` and 64 hexadecimal digits, which the download is checked against.
    ///
    /// # Errors
    /// [`Code::SourceUnsupported`] for a source that this hive cannot read, saying what it can;
    /// [`Code::InvalidField`] for one that is badly written.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("file:") {
            return file(text, path);
        }
        if has_scheme(text, "https") || has_scheme(text, "http") {
            return remote(text);
        }
        let message = match text {
            "" => return Err(invalid("it is empty", WORKS_TODAY)),
            _ if text.starts_with(['/', '~', '.']) => {
                return Err(invalid(
                    "a path alone is not a source",
                    "write a file of the hive's machine as file:/path/model.gguf",
                ));
            }
            _ if has_scheme(text, "ollama") => {
                format!("models of Ollama's library cannot be fetched yet: '{text}'")
            }
            _ if text.starts_with("hf:") || (text.contains('/') && !text.contains("://")) => {
                format!("models of the Hugging Face Hub cannot be fetched by name yet: '{text}'")
            }
            _ => format!("'{text}' names no source that this hive knows"),
        };
        Err(Failure::new(Code::SourceUnsupported, message).hint(WORKS_TODAY))
    }
}

impl RemoteFile {
    /// The URL without its query, which may hold a signature.
    pub(super) fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    /// Tells one URL from another without keeping its query.
    pub(super) fn digest(&self) -> String {
        units::hex(&Sha256::digest(self.url.as_str()))
    }
}

/// Whether the text is a SHA-256 in lower-case hexadecimal.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    text.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(scheme))
}

fn invalid(what: &str, hint: &str) -> Failure {
    Failure::new(Code::InvalidField, format!("model: {what}")).hint(hint)
}

fn file(text: &str, path: &str) -> Result<Source> {
    let path = if path.starts_with("//") {
        let url = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
        url.ok_or_else(|| invalid("it is not a file of this machine", "write it as file:/path/model.gguf"))?
    } else {
        PathBuf::from(path)
    };
    if !path.is_absolute() {
        return Err(invalid("the path after file: is not absolute", "write it as file:/path/model.gguf"));
    }
    Ok(Source::File(path))
}

fn remote(text: &str) -> Result<Source> {
    let mut url =
        Url::parse(text).map_err(|error| invalid("it is not a valid URL", WORKS_TODAY).cause(&error))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("a URL must not hold a user or a password", "leave them out"));
    }
    let sha256 = match url.fragment() {
        None | Some("") => None,
        Some(fragment) => {
            let digits = fragment.strip_prefix("sha256=").map(str::to_ascii_lowercase);
            Some(digits.filter(|digits| is_sha256(digits)).ok_or_else(|| {
                invalid(
                    "what follows # in the URL is not understood",
                    "write #sha256= and 64 hexadecimal digits",
                )
            })?)
        }
    };
    url.set_fragment(None);
    let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
    let name = percent_decoded(last);
    if !scan::is_model_name(&name) {
        return Err(Failure::new(
            Code::SourceUnsupported,
            format!("the URL's file '{name}' is not a model's"),
        )
        .hint("the URL's path must end in the name of a .gguf file that is a model by itself"));
    }
    if let Some(part) = Part::parse(&name) {
        return Err(Failure::new(
            Code::SourceUnsupported,
            format!(
                "{name} is one of the {} parts of a split model, which cannot be fetched by URL",
                part.of
            ),
        )
        .hint("fetch all parts into one folder yourself and import the first with file:/path"));
    }
    let file_name = store::file_name(&name);
    Ok(Source::Remote(RemoteFile { url, file_name, sha256 }))
}

/// Undoes RFC 3986's percent-encoding, section 2.1; what is not UTF-8 then is replaced.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let encoded = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match encoded.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_source_or_a_typed_refusal(
            text in "(https://|file:|file://|http://h/|hf:)?[a%./#?é\\-]{0,12}(.gguf)?.{0,8}"
        ) {
            match Source::parse(&text) {
                Ok(Source::File(path)) => prop_assert!(path.is_absolute()),
                Ok(Source::Remote(remote)) => prop_assert!(!remote.file_name.contains('/')),
                Err(failure) => {
                    prop_assert!(matches!(failure.code, Code::InvalidField | Code::SourceUnsupported));
                    prop_assert!(failure.hint.is_some());
                }
            }
        }
    }

    fn remote_file(text: &str) -> RemoteFile {
        match Source::parse(text) {
            Ok(Source::Remote(remote)) => remote,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_and_urls_are_understood() {
        assert_eq!(Source::parse("file:/a b/x.gguf").unwrap(), Source::File("/a b/x.gguf".into()));
        assert_eq!(Source::parse("file:///a%20b/x.gguf").unwrap(), Source::File("/a b/x.gguf".into()));
        let digits = "AB".repeat(32);
        let remote = remote_file(&format!("https://h.example/a/b%2e%20c.gguf?signature=s#sha256={digits}"));
        assert_eq!(remote.file_name, "b.-c.gguf");
        assert_eq!(remote.sha256, Some(digits.to_lowercase()));
        assert_eq!(remote.shown(), "https://h.example/a/b%2e%20c.gguf");
        assert_eq!(remote_file("https://h/..%2f..%2fetc%2fx.gguf").file_name, "-.-..-etc-x.gguf");
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
            ("org/repo:Q4_K_M", Code::SourceUnsupported),
            ("hf:org/repo", Code::SourceUnsupported),
            ("ollama:llama3", Code::SourceUnsupported),
            ("ftp://h/x.gguf", Code::SourceUnsupported),
            ("llama3", Code::SourceUnsupported),
        ] {
            let failure = Source::parse(text).unwrap_err();
            assert_eq!(failure.code, code, "{text}: {failure}");
            assert!(failure.hint.is_some(), "{text}");
        }
    }
}
