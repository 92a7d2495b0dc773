//! The path below which a proxy shows the hive.

use axum::http::HeaderMap;

/// The longest prefix.
const MOST_BYTES: usize = 200;

/// The prefix that `X-Forwarded-Prefix` gives, such as `/hive`, or nothing. Proxies that cut a prefix
/// off send it; the hive's own page does too, because it knows where it was loaded from. It decides
/// only what the answer to this request says of the hive's paths.
pub(crate) fn prefix(headers: &HeaderMap) -> &str {
    let given = headers.get_all("x-forwarded-prefix").iter().next_back();
    let given = given.and_then(|value| value.to_str().ok()).unwrap_or_default().trim_end_matches('/');
    let is_path = given.starts_with('/')
        && !given.contains("//")
        && given.len() <= MOST_BYTES
        && given
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~' | b'%'));
    if is_path { given } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_plain_path() {
        let of = |text: &'static str| {
            let headers =
                HeaderMap::from_iter([("x-forwarded-prefix".parse().unwrap(), text.parse().unwrap())]);
            prefix(&headers).to_owned()
        };
        for (text, prefix) in [("/hive", "/hive"), ("/a/b-c.d/", "/a/b-c.d"), ("/", ""), ("", "")] {
            assert_eq!(of(text), prefix, "{text}");
        }
        for text in ["hive", "//evil.example", "/a//b", "/a; Path=/", "/a b", "/a?b", "https://x"] {
            assert_eq!(of(text), "", "{text}");
        }
        assert_eq!(prefix(&HeaderMap::new()), "");
    }
}
