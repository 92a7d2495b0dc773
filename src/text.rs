//! Formatting of text, sizes and similar names for messages.

/// At most 80 characters of `text`, on one line, without control characters: safe to quote in an
/// error.
#[must_use]
pub fn excerpt(text: &str) -> String {
    clip(text, 80)
}

/// At most `most` characters of `text`, on one line, without control characters: safe to quote in a
/// message, however long the caller's text was.
#[must_use]
pub fn clip(text: &str, most: usize) -> String {
    let mut clipped: String =
        text.chars().take(most).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        clipped.push('…');
    }
    clipped
}

/// The names in `known` that are most like `wanted`: at most three, the most similar first.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    nearest_ids(wanted, known.into_iter().map(|name| (name, name)))
}

/// As [`nearest`], for pairs of an id and a name: `wanted` may be like either. Returns ids.
pub fn nearest_ids<'a>(wanted: &str, known: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<&'a str> {
    let wanted = wanted.to_lowercase();
    let likeness = |text: &str| strsim::jaro_winkler(&wanted, &text.to_lowercase());
    let mut scored: Vec<_> = known
        .into_iter()
        .map(|(id, name)| (likeness(id).max(if id == name { 0.0 } else { likeness(name) }), id))
        .filter(|(score, _)| *score > 0.7)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, id)| id).collect()
}

/// A size for people: `0 bytes`, `17.3 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A number of weights as Ollama writes it: `134.5M`, `7.6B`.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(crate) fn count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}K", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}B", count as f64 / 1e9),
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// JSON of plain data, which cannot fail to serialise.
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        tracing::error!(%error, "plain data did not serialise");
        "null".to_owned()
    })
}

/// Serialises each member of a list on its own, for `#[serde(serialize_with)]`: a member that cannot be
/// serialised is left out and logged, and does not destroy the whole list.
pub(crate) fn each_member<T, S>(members: &[T], serializer: S) -> Result<S::Ok, S::Error>
where
    T: serde::Serialize,
    S: serde::Serializer,
{
    let written = members.iter().filter_map(|member| {
        let json = serde_json::value::to_raw_value(member);
        json.inspect_err(|error| tracing::error!(%error, "a member of a list did not serialise")).ok()
    });
    serializer.collect_seq(written)
}

/// Whether the text is a SHA-256 in lower-case hexadecimal digits.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Makes the documentation of the code plain text: a link to an item is its name alone.
pub(crate) fn plain_links(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.contains("[`") => {
            let parts: Vec<_> = text.split("[`").collect();
            let name = |part: &str| match part.split_once("`]") {
                Some((name, rest)) => {
                    // The target of a link, in parentheses, is none for readers of the API.
                    let target = ["(crate::", "(super::"].iter().find_map(|begin| rest.strip_prefix(begin));
                    let rest = target.and_then(|rest| Some(rest.split_once(')')?.1)).unwrap_or(rest);
                    format!("`{name}`{rest}")
                }
                None => format!("[`{part}"),
            };
            *text = parts[0].to_owned() + &parts[1..].iter().map(|part| name(part)).collect::<String>();
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(plain_links),
        serde_json::Value::Object(members) => members.values_mut().for_each(plain_links),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        assert_eq!(excerpt("a\r\nb\x1b[31m"), "a\u{fffd}\u{fffd}b\u{fffd}[31m");
        assert_eq!(excerpt(&"x".repeat(100)).chars().count(), 81);
    }

    #[test]
    fn the_most_similar_name_comes_first() {
        assert_eq!(nearest("modellist", ["ModelGet", "ModelList", "HiveCheck"])[0], "ModelList");
        assert!(nearest("zzz", ["ModelGet"]).is_empty());
        assert_eq!(nearest_ids("tiny", [("org/repo:Q4", "tiny"), ("other", "other")]), ["org/repo:Q4"]);
    }

    #[test]
    fn one_bad_member_does_not_destroy_a_list() {
        struct Member(bool);

        impl serde::Serialize for Member {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if self.0 { serializer.serialize_str("good") } else { Err(serde::ser::Error::custom("bad")) }
            }
        }

        #[derive(serde::Serialize)]
        struct List(#[serde(serialize_with = "each_member")] Vec<Member>);

        assert_eq!(json(&List(vec![Member(true), Member(false), Member(true)])), r#"["good","good"]"#);
        assert_eq!(json(&List(Vec::new())), "[]");
    }

    #[test]
    fn numbers_of_weights_are_written_as_ollama_does() {
        assert_eq!([12, 1_500, 134_515_008, 7_615_616_512].map(count), ["12", "1.5K", "134.5M", "7.6B"]);
    }

    #[test]
    fn hexadecimal_digits_are_lower_case() {
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }

    #[test]
    fn sizes_have_one_decimal_and_a_unit() {
        assert_eq!([bytes(3), bytes(1536), bytes(5 << 30)], ["3 bytes", "1.5 KiB", "5.0 GiB"]);
    }
}
