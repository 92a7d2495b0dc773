//! Models by URL: `https://host/path/x.gguf[#sha256=HEX]`.

use reqwest::Url;
use sha2::{Digest, Sha256};

use super::{HELP, Source, invalid, is_sha256};
use crate::error::{Code, Failure, Result};
use crate::models::library::scan;
use crate::models::library::split::Part;
use crate::models::library::store;
use crate::models::units;

/// A GGUF file on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlSource {
    /// Without user, password and fragment.
    pub(crate) url: Url,
    /// What the file is called in the store.
    pub(crate) file_name: String,
    /// What `#sha256=…` says that its contents must have, in lower case.
    pub(crate) sha256: Option<String>,
}

impl UrlSource {
    /// The URL without its query, which may hold a signature.
    pub(crate) fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    /// Tells one URL from another without keeping its query.
    pub(crate) fn digest(&self) -> String {
        units::hex(&Sha256::digest(self.url.as_str()))
    }
}

/// Understands a URL. `None` where the text is none.
pub(crate) fn parse(text: &str) -> Option<Result<Source>> {
    (has_scheme(text, "https") || has_scheme(text, "http")).then(|| remote(text))
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    text.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(scheme))
}

fn remote(text: &str) -> Result<Source> {
    let mut url = Url::parse(text).map_err(|error| invalid("it is not a valid URL", HELP).cause(&error))?;
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
    Ok(Source::Remote(UrlSource { url, file_name, sha256 }))
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
    use super::*;

    fn url_source(text: &str) -> UrlSource {
        match Source::parse(text) {
            Ok(Source::Remote(remote)) => remote,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn urls_are_understood() {
        let digits = "AB".repeat(32);
        let remote = url_source(&format!("https://h.example/a/b%2e%20c.gguf?signature=s#sha256={digits}"));
        assert_eq!(remote.file_name, "b.-c.gguf");
        assert_eq!(remote.sha256, Some(digits.to_lowercase()));
        assert_eq!(remote.shown(), "https://h.example/a/b%2e%20c.gguf");
        assert_eq!(url_source("https://h/..%2f..%2fetc%2fx.gguf").file_name, "-.-..-etc-x.gguf");
    }
}
