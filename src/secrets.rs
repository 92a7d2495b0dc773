//! What looks like a secret: kept from workers, and from what is shown of the settings.

/// Words of names that hold a secret, or the path of one. A word stands between underscores.
const WORDS: &[&str] = &["KEY", "KEYS", "PASS", "PAT", "AUTH", "COOKIE", "NETRC", "KUBECONFIG", "PGPASSFILE"];
/// Ends of such words.
const ENDS: &[&str] = &[
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "APIKEY",
    "CREDENTIAL",
    "CREDENTIALS",
];

/// Stands where a secret stood.
pub(crate) const HIDDEN: &str = "***";

/// Whether what has this name, in any case, is a secret or the path of one: a variable, or a flag.
pub(crate) fn is_named_by(name: &str) -> bool {
    let name = name.to_uppercase();
    name.split(['_', '-']).any(|word| WORDS.contains(&word) || ENDS.iter().any(|end| word.ends_with(end)))
}

/// Whether a value is a URL with a password: `scheme://user:password@host`.
pub(crate) fn is_url_with_password(value: &str) -> bool {
    user_info(value).is_some_and(|(_, user, _)| user.contains(':'))
}

/// The text without what may be secret in a URL: the user, and the query, in which signed addresses have their
/// signature.
pub(crate) fn without_credentials(text: &str) -> String {
    let shown = match user_info(text) {
        Some((before, _, after)) => format!("{before}{HIDDEN}@{after}"),
        None => text.to_owned(),
    };
    match shown.split_once('?') {
        Some((address, _)) if address.contains("://") => format!("{address}?{HIDDEN}"),
        _ => shown,
    }
}

/// What stands before the user of a URL, the user, and what follows its `@`.
fn user_info(url: &str) -> Option<(&str, &str, &str)> {
    let authority = url.find("://")? + 3;
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |length| authority + length);
    let at = authority + url[authority..end].rfind('@')?;
    Some((&url[..authority], &url[authority..at], &url[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_queries_of_urls_are_hidden_and_nothing_else() {
        for (text, shown) in [
            ("https://me:word@host:1/x@y", "https://***@host:1/x@y"),
            ("https://token@host", "https://***@host"),
            ("https://host/a.zip?sig=abc&x=https://b@c", "https://host/a.zip?***"),
            ("https://host/path@2:3", "https://host/path@2:3"),
            ("what? a@b:c", "what? a@b:c"),
            ("/a/b", "/a/b"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn a_name_tells_a_secret() {
        for name in ["--api-key", "HF_TOKEN", "db_password", "--hf-token"] {
            assert!(is_named_by(name), "{name}");
        }
        for name in ["--max-tokens", "CUDA_VISIBLE_DEVICES", "--keep", "MONKEY"] {
            assert!(!is_named_by(name), "{name}");
        }
    }
}
