//! Where a model comes from: the text of `ModelDownload`'s field `model`, parsed once.
//!
//! Each kind of source has a file here. It implements [`ModelSource`]: the grammar of its names, and
//! how a name is resolved to files with what [`Places`] offers. A source knows neither the catalog
//! nor the jobs.
//!
//! A new source costs four edits: its file, its `mod` line, its `pub use` line, and its row of the
//! table below. The table makes the variants of [`Source`] and the order in which the grammars are
//! tried; error hints and the check of revisions follow from it. A source with settings adds them to
//! [`Places`] as well.

pub(crate) mod copy;
mod file;
mod ollama;
mod url;
mod hub;
mod in_store;
mod registry;
pub(crate) mod resolution;
pub(crate) mod places;
mod hub_endpoint;
mod request;
mod grammar;

use reqwest::Url;

use crate::error::{Code, Failure, Result};
use crate::text;
use grammar::invalid;
use places::Places;
use resolution::{ModelSource, Resolution};

pub(crate) use hub::{copied, is_repository, login};
pub(crate) use hub_endpoint::HubEndpoint;

pub use file::FileSource;
pub use hub::HubName;
pub use ollama::OllamaName;
pub use request::DownloadRequest;
pub use url::UrlSource;

/// Declares [`Source`]: for each kind its documentation, its variant and its type. The grammars are
/// tried in this order.
macro_rules! sources {
    ($($(#[$doc:meta])* $variant:ident($source:ident);)+) => {
        /// A source of models.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Source { $($(#[$doc])* $variant($source),)+ }

        impl Source {
            fn parse_known(text: &str) -> Option<Result<Self>> {
                $(if let Some(source) = $source::parse(text) {
                    return Some(source.map(Self::$variant));
                })+
                None
            }

            /// How each kind is written.
            const EXAMPLES: &[&str] = &[$($source::EXAMPLE,)+];

            /// Whether a model of this source has revisions to choose from.
            #[must_use]
            pub fn has_revisions(&self) -> bool {
                match self { $(Self::$variant(_) => $source::HAS_REVISIONS,)+ }
            }

            /// Finds out which files the model has, and where they go.
            ///
            /// # Errors
            /// Those of the source.
            pub(crate) async fn resolve(&self, request: &DownloadRequest, places: &Places) -> Result<Resolution> {
                match self { $(Self::$variant(source) => source.resolve(request, places).await,)+ }
            }
        }
    };
}

sources! {
    /// `file:/path`: a file or a folder of the hive's own machine, to be linked.
    File(FileSource);
    /// `ollama:name[:tag]`: a model of Ollama's library. Before the URLs: its pages have some, too.
    Ollama(OllamaName);
    /// `https://…`: a file to be downloaded.
    Url(UrlSource);
    /// `org/repo…`: a model of the Hugging Face Hub. Last: its grammar takes most texts with a slash.
    Hub(HubName);
}

impl Source {
    /// Parses the text that names a source.
    ///
    /// - `[hf:]org/repo`, `org/repo:Q4_K_M`, `org/repo/path/file.gguf`, each optionally with
    ///   `@revision`, is of the Hub, and so are the addresses of its pages and files;
    /// - `ollama:[namespace/]name[:tag]` is of Ollama's library;
    /// - `https://…/x.gguf` is a URL, and may end in `#sha256=` and 64 hexadecimal digits, which the
    ///   download is checked against;
    /// - `file:/path` is taken literally; `file:///path` is a URL, percent-encoded.
    ///
    /// # Errors
    /// [`Code::SourceUnsupported`] for a source that this hive cannot read, with those it can;
    /// [`Code::InvalidField`] for one that is badly written.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_beside(text, None)
    }

    /// The same, where the Hub is at `hub`: addresses of its pages name models, too.
    pub(crate) fn parse_beside(text: &str, hub: Option<&Url>) -> Result<Self> {
        let copied = copied::name_of(text, hub);
        let text = copied.as_deref().unwrap_or(text).trim();
        if text.is_empty() {
            return Err(invalid("it is empty", &examples()));
        }
        if text.starts_with(['/', '~', '.']) {
            return Err(invalid(
                "a path alone is not a source",
                "write a file of the hive's machine as file:/path/model.gguf",
            ));
        }
        Self::parse_known(text).unwrap_or_else(|| {
            // The rest of a URL may be a secret.
            let shown = if text.contains("://") { text.split(['?', '#']).next() } else { None };
            let shown = text::excerpt(shown.unwrap_or(text));
            let message = format!("'{shown}' is not a source that this hive knows");
            Err(Failure::new(Code::SourceUnsupported, message).hint(examples()))
        })
    }
}

fn examples() -> String {
    format!("write {}", Source::EXAMPLES.join(", or "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_source_or_refused_with_a_code_and_a_hint(
            text in "(https://|file:|file://|http://h/|hf:|ollama:)?[a%./#?é:@\\-]{0,12}(.gguf)?.{0,8}"
        ) {
            match Source::parse(&text) {
                Ok(Source::File(file)) => prop_assert!(file.path.is_absolute()),
                Ok(Source::Url(url)) => prop_assert!(!url.file_name.contains('/')),
                Ok(Source::Hub(_) | Source::Ollama(_)) => {}
                Err(failure) => {
                    prop_assert!(matches!(failure.code, Code::InvalidField | Code::SourceUnsupported));
                    prop_assert!(failure.hint.is_some());
                }
            }
        }
    }

    #[test]
    fn a_text_that_names_no_source_is_refused_with_a_hint() {
        for (text, code) in [
            ("", Code::InvalidField),
            ("/m/x.gguf", Code::InvalidField),
            ("file:x.gguf", Code::InvalidField),
            ("file://other-host/x.gguf", Code::InvalidField),
            ("https://u:p@h/x.gguf", Code::InvalidField),
            ("https://h/x.gguf#sha256=12", Code::InvalidField),
            ("https://h/x.bin", Code::SourceUnsupported),
            ("https://h/x-00001-of-00002.gguf", Code::SourceUnsupported),
            ("org/repo/x.bin", Code::SourceUnsupported),
            ("hf:repo", Code::InvalidField),
            ("ollama:", Code::InvalidField),
            ("ftp://h/x.gguf", Code::SourceUnsupported),
            ("llama3", Code::SourceUnsupported),
            ("https://huggingface.co/org/repo/blob/main/x.bin", Code::SourceUnsupported),
            ("https://huggingface.co/org", Code::SourceUnsupported),
        ] {
            let failure = Source::parse(text).unwrap_err();
            assert_eq!(failure.code, code, "{text}: {failure}");
            assert!(failure.hint.is_some(), "{text}");
        }
        for (text, name) in [
            ("https://huggingface.co/org/repo/blob/main/x-Q8_0.gguf", "org/repo/x-Q8_0.gguf"),
            ("hf.co/org/repo:Q8_0", "org/repo:Q8_0"),
            ("org/repo/", "org/repo"),
        ] {
            let Source::Hub(parsed) = Source::parse(text).unwrap() else { panic!("{text} is of the Hub") };
            assert_eq!(parsed.to_string(), name);
        }
        let failure = Source::parse("s3://bucket/x.gguf?X-Signature=sesame").unwrap_err();
        assert!(!failure.message.contains("sesame"), "{failure}");
        assert!(failure.hint.unwrap().contains("org/repo:Q4_K_M"), "the hint lists every source");
    }
}
