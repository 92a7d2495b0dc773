//! Names of the Hub as they are copied: from its pages' addresses, and from what other tools take.
//!
//! `hf.co/org/repo:Q8_0`, `hf://org/repo@v1/x.gguf`, `https://huggingface.co/org/repo/blob/main/x.gguf` and
//! the same beneath the configured endpoint. Each becomes the name as [`HubName`](super::HubName) has it.

use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::name::{MAIN, is_tag};

/// The hosts of the public Hub. A mirror that is configured in its place has the same models.
const HOSTS: [&str; 3] = ["huggingface.co", "hf.co", "www.huggingface.co"];

/// The name that a copied text means. `None` where the text is not of these forms.
pub(crate) fn name_of(text: &str, endpoint: Option<&Url>) -> Option<String> {
    let text = text.trim();
    // A checksum is asked for: the address is then taken as it is.
    if text.contains("#sha256=") {
        return None;
    }
    let rest = beneath_hub(text, endpoint)?;
    let path = rest.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    let segments: Vec<_> =
        path.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned()).collect();
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    let at = |revision: &str| if revision == MAIN { String::new() } else { format!("@{revision}") };
    Some(match segments[..] {
        // The page of another kind of thing.
        ["datasets" | "spaces" | "api" | "collections", ..] => return None,
        [owner, repo, "blob" | "resolve" | "raw", revision, ref file @ ..] if !file.is_empty() => {
            format!("{owner}/{repo}/{}{}", file.join("/"), at(revision))
        }
        // A folder often has the name of the quantization that it holds.
        [owner, repo, "tree", revision, .., folder] if is_tag(folder) => {
            format!("{owner}/{repo}:{folder}{}", at(revision))
        }
        [owner, repo, "tree", revision] => format!("{owner}/{repo}{}", at(revision)),
        [owner, repo, ref file @ ..] if !file.is_empty() && repo.contains('@') => {
            let (repo, revision) = repo.split_once('@').unwrap_or((repo, MAIN));
            format!("{owner}/{repo}/{}{}", file.join("/"), at(revision))
        }
        [_, _, ..] => segments.join("/"),
        _ => return None,
    })
}

/// What follows the address of the Hub.
fn beneath_hub<'a>(text: &'a str, endpoint: Option<&Url>) -> Option<&'a str> {
    if let Some(rest) = strip_prefix_in_any_case(text, "hf://") {
        return Some(rest);
    }
    let endpoint = endpoint.map(|url| url.as_str().trim_end_matches('/'));
    let rest = endpoint.and_then(|endpoint| strip_prefix_in_any_case(text, endpoint)?.strip_prefix('/'));
    if rest.is_some() {
        return rest;
    }
    let without_scheme =
        ["https://", "http://"].iter().find_map(|scheme| strip_prefix_in_any_case(text, scheme));
    let text = without_scheme.unwrap_or(text);
    HOSTS.iter().find_map(|host| strip_prefix_in_any_case(text, host)?.strip_prefix('/'))
}

fn strip_prefix_in_any_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_are_copied_are_names_of_the_hub() {
        let mirror = Url::parse("http://127.0.0.1:7/hub/").unwrap();
        let name = |text: &str| name_of(text, Some(&mirror));
        for (text, expected) in [
            ("hf.co/org/repo:Q8_0", "org/repo:Q8_0"),
            ("huggingface.co/org/repo", "org/repo"),
            ("HTTPS://HuggingFace.co/org/repo/", "org/repo"),
            ("https://huggingface.co/org/repo/tree/main", "org/repo"),
            ("https://huggingface.co/org/repo/tree/refs%2Fpr%2F1", "org/repo@refs/pr/1"),
            ("https://huggingface.co/org/repo/tree/main/UD-Q4_K_XL", "org/repo:UD-Q4_K_XL"),
            ("https://huggingface.co/org/repo/blob/main/a%20b/x.gguf", "org/repo/a b/x.gguf"),
            ("https://hf.co/org/repo/resolve/v1/x.gguf?download=true", "org/repo/x.gguf@v1"),
            ("http://127.0.0.1:7/hub/org/repo/blob/main/x.gguf", "org/repo/x.gguf"),
            ("hf://org/repo:q4_k_m", "org/repo:q4_k_m"),
            ("hf://org/repo@v1/x.gguf", "org/repo/x.gguf@v1"),
            (" hf.co/org/repo@v1\n", "org/repo@v1"),
        ] {
            assert_eq!(name(text).as_deref(), Some(expected), "{text}");
        }
        for other in [
            "org/repo",
            "hf:org/repo",
            "https://huggingface.co",
            "https://huggingface.co/org",
            "https://huggingface.co/datasets/org/data",
            "https://huggingface.co.example/org/repo",
            "https://h.example/huggingface.co/x.gguf",
            "http://127.0.0.1:77/hub/org/repo",
            "https://huggingface.co/org/repo/resolve/main/x.gguf#sha256=00",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
