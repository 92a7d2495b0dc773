//! The names of models on the Hub: `[hf:]org/repo[:QUANT | /path/file.gguf][@revision]`.
//!
//! A name becomes part of a URL and of paths in the cache, so the grammar is narrow: no empty segment,
//! none that begins with a dot, and no character with a meaning in URLs or paths.

use std::fmt;

use crate::error::{Code, Failure, Result};
use crate::models::library::file_name::is_model_name;

/// The revision that is used where none is given.
pub(crate) const MAIN: &str = "main";
/// The longest name of an organisation, a user or a repository that the Hub allows, in bytes.
const MAX_SEGMENT: usize = 96;
/// The longest path or revision, in bytes.
const MAX_PATH: usize = 512;

/// A model on the Hub, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `org/repo`.
    pub(crate) repo: String,
    /// Which of the repository's models.
    pub(crate) pick: Pick,
    /// The revision, where the name holds one.
    pub(crate) revision: Option<String>,
}

/// Which model of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The only one.
    Only,
    /// The one with that quantization, in any case.
    Quantization(String),
    /// The one in that file.
    File(String),
}

impl HubName {
    /// Parses a name. `None` where the text is of another source.
    pub(crate) fn parse_text(text: &str) -> Option<Result<Self>> {
        let prefixed = text.strip_prefix("hf:");
        let name = prefixed.unwrap_or(text);
        let is_name = prefixed.is_some() || (name.contains('/') && !name.contains("://"));
        is_name.then(|| Self::parse_name(name.trim_end_matches('/')))
    }

    fn parse_name(text: &str) -> Result<Self> {
        let (mut name, mut revision) = match text.rsplit_once('@') {
            // The name of a file may contain @; a revision never ends in .gguf.
            Some((name, revision)) if !revision.to_ascii_lowercase().ends_with(".gguf") => {
                (name.to_owned(), Some(revision.to_owned()))
            }
            _ => (text.to_owned(), None),
        };
        // org/repo@revision:QUANT is accepted as well: no revision contains a colon.
        if let Some((before, tag)) = revision.as_deref().and_then(|revision| revision.split_once(':')) {
            name = format!("{name}:{tag}");
            revision = Some(before.to_owned());
        }
        if let Some(revision) = &revision {
            check_revision(revision)?;
        }
        let mut segments = name.splitn(3, '/');
        let (owner, rest) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
        let path = segments.next();
        let (repo, tag) = match rest.split_once(':') {
            Some((repo, tag)) => (repo, Some(tag)),
            None => (rest, None),
        };
        if ![owner, repo].into_iter().all(is_repo_segment) {
            return Err(invalid(format!("'{owner}/{repo}' is not the name of a repository"))
                .hint("write it as org/repo, as on the Hub's page of the model"));
        }
        let pick = match (tag, path) {
            (None, None) => Pick::Only,
            (Some(tag), None) if is_tag(tag) => Pick::Quantization(tag.to_owned()),
            (None, Some(path)) if is_path(path) && is_model_name(path) => Pick::File(path.to_owned()),
            (None, Some(path)) if is_path(path) => {
                return Err(Failure::new(
                    Code::SourceUnsupported,
                    format!("'{path}' is not the file of a model"),
                )
                .hint("name a .gguf file that is a model by itself, or the repository alone"));
            }
            _ => {
                return Err(invalid(format!("what follows '{owner}/{repo}' is not understood")).hint(
                    "write org/repo:Q4_K_M for a quantization, or org/repo/path/file.gguf for a file",
                ));
            }
        };
        Ok(Self { repo: format!("{owner}/{repo}"), pick, revision })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        match &self.pick {
            Pick::Only => {}
            Pick::Quantization(tag) => write!(f, ":{tag}")?,
            Pick::File(path) => write!(f, "/{path}")?,
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// Refuses a text that cannot be a branch, tag or commit of git (`git check-ref-format`, and narrower).
pub(crate) fn check_revision(revision: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '+' | '-');
    if is_path(revision) && !revision.starts_with('-') && revision.chars().all(allowed) {
        return Ok(());
    }
    Err(Failure::new(
        Code::InvalidField,
        format!("revision: '{}' is not a branch, a tag or a commit", crate::text::excerpt(revision)),
    )
    .hint("leave it out for the branch main, or copy it from the Hub's page of the model"))
}

/// Whether the text is a relative path without empty segments and without segments that begin with a
/// dot, so that it cannot lead out of its folder.
pub(crate) fn is_path(path: &str) -> bool {
    let is_plain = |segment: &str| !segment.is_empty() && !segment.starts_with('.');
    path.len() <= MAX_PATH
        && path.split('/').all(is_plain)
        && !path.chars().any(|c| c.is_control() || matches!(c, '\\' | '?' | '#' | ':' | '"'))
}

/// Whether the revision is a commit: 40 hexadecimal digits.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(crate) fn is_tag(tag: &str) -> bool {
    (1..=64).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Whether the text is the name of a repository, `org/repo`.
pub(crate) fn is_repository(text: &str) -> bool {
    text.split_once('/').is_some_and(|(owner, repo)| [owner, repo].into_iter().all(is_repo_segment))
}

/// The Hub's rules: letters, digits, `-`, `_` and `.`, with neither `--` nor `..` and neither `-` nor
/// `.` at an end. The cache's folders depend on the first (`models--org--repo`).
fn is_repo_segment(text: &str) -> bool {
    (1..=MAX_SEGMENT).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        && !text.contains("--")
        && !text.contains("..")
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
}

fn invalid(what: String) -> Failure {
    Failure::new(Code::InvalidField, format!("model: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<HubName> {
        HubName::parse_text(text).expect("a name of the Hub")
    }

    #[test]
    fn names_are_parsed() {
        let name = |pick, revision: Option<&str>| HubName {
            repo: "org/repo-GGUF".into(),
            pick,
            revision: revision.map(str::to_owned),
        };
        let quantization = || Pick::Quantization("Q4_K_M".into());
        let file = |path: &str| Pick::File(path.into());
        for (text, expected) in [
            ("org/repo-GGUF", name(Pick::Only, None)),
            ("hf:org/repo-GGUF@v1.0", name(Pick::Only, Some("v1.0"))),
            ("org/repo-GGUF@refs/pr/3", name(Pick::Only, Some("refs/pr/3"))),
            ("org/repo-GGUF:Q4_K_M", name(quantization(), None)),
            ("org/repo-GGUF:Q4_K_M@dev", name(quantization(), Some("dev"))),
            ("org/repo-GGUF@dev:Q4_K_M", name(quantization(), Some("dev"))),
            ("org/repo-GGUF/a/b.gguf@dev", name(file("a/b.gguf"), Some("dev"))),
            ("org/repo-GGUF/a@b.gguf", name(file("a@b.gguf"), None)),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        assert!(HubName::parse_text("llama3").is_none());
    }

    #[test]
    fn names_that_are_unsafe_in_paths_or_urls_are_refused() {
        for text in [
            "hf:",
            "hf:repo",
            "org/",
            "/repo",
            "org/..",
            "../repo",
            "org/re--po",
            "org/repo:",
            "org/repo:a b",
            "org/repo/../x.gguf",
            "org/repo/.x.gguf",
            "org/repo//x.gguf",
            "org/repo/x.gguf:Q4",
            "org/repo/x.bin",
            "org/repo@",
            "org/repo@../x",
            "org/repo@-x",
            "org/repo@a b",
            "org/repo/x?.gguf",
        ] {
            let failure = parse(text).unwrap_err();
            assert!(
                matches!(failure.code, Code::InvalidField | Code::SourceUnsupported),
                "{text}: {failure}"
            );
            assert!(failure.hint.is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_name_is_safe_in_paths_and_is_read_back(text in "(hf:)?[a-z.@:/-]{0,20}(.gguf)?(@.{0,6})?") {
            if let Some(Ok(name)) = HubName::parse_text(&text) {
                prop_assert_eq!(name.repo.split('/').count(), 2);
                prop_assert!(!name.repo.contains("..") && !name.repo.contains("--"));
                if let Pick::File(path) = &name.pick {
                    prop_assert!(path.split('/').all(|segment| !segment.is_empty() && segment != ".."));
                }
                prop_assert_eq!(HubName::parse_text(&format!("hf:{name}")).unwrap().unwrap(), name);
            }
        }
    }
}
