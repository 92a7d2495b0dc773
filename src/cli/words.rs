//! Single values in words, and the colours of a terminal.

use std::io::{self, IsTerminal};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;

use crate::text;
use crate::time::{Instant, in_words};

/// Whether standard error is a terminal that takes colours and moves its cursor.
pub(super) fn is_terminal() -> bool {
    static IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| {
        io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
    });
    *IS_TERMINAL
}

/// Whether what is written to standard error has colours (see <https://no-color.org>).
fn has_colours() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

fn coloured(text: &str, code: &str) -> String {
    if has_colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub(super) fn red(text: &str) -> String {
    coloured(text, "1;31")
}

pub(super) fn yellow(text: &str) -> String {
    coloured(text, "33")
}

pub(super) fn cyan(text: &str) -> String {
    coloured(text, "36")
}

/// Whether standard output is a terminal.
pub(super) fn out_is_terminal() -> bool {
    static IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());
    *IS_TERMINAL
}

/// A beginning and an end of dimmed text on standard output; nothing where that has no colours.
pub(super) fn dimmed() -> [&'static str; 2] {
    let has_colours = out_is_terminal()
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
        && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    if has_colours { ["\x1b[2m", "\x1b[0m"] } else { [""; 2] }
}

/// `1 model`, `2 models`, and what follows.
pub(super) fn counted(count: usize, what: &str, more: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}{more}")
}

/// The value of a field of that name, which says what it is; `None` where there is nothing to show.
pub(super) fn of_field(name: &str, value: &Value) -> Option<String> {
    let number = value.as_f64();
    let seconds = |factor: f64| number.and_then(|number| Duration::try_from_secs_f64(number * factor).ok());
    match value {
        Value::Null => None,
        Value::Bool(is_so) => Some(if *is_so { "yes" } else { "no" }.to_owned()),
        Value::Number(_) if name == "bytes" || name == "size" || name.ends_with("_bytes") => {
            value.as_u64().map(text::bytes).or_else(|| Some(value.to_string()))
        }
        Value::Number(_) if name.ends_with("_ms") => seconds(0.001).map(in_words),
        Value::Number(_) if name.ends_with("_seconds") => seconds(1.0).map(in_words),
        Value::Number(_) if name.ends_with("_count") => number.map(large),
        Value::Number(number) if number.is_f64() => value.as_f64().map(|number| format!("{number:.1}")),
        Value::String(text) if name == "at" || name.ends_with("_at") || name.ends_with("since") => {
            Some(ago(text))
        }
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Array(all) => {
            let all: Vec<_> = all.iter().filter_map(|value| of_field(name, value)).collect();
            Some(all.join(", ")).filter(|text| !text.is_empty())
        }
        Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// The same of a member of an object; `-` where there is nothing.
pub(super) fn member(object: &Value, name: &str) -> String {
    of_field(name, &object[name]).unwrap_or_else(|| "-".to_owned())
}

/// What an operation is about: the model, the worker or the engine of its request.
pub(super) fn subject(request: &Value) -> Option<String> {
    let names = ["id", "model", "pid", "worker_id", "lease_id"];
    names.iter().find_map(|name| of_field(name, &request[*name]))
}

/// How far an instant is from now: `3 minutes ago`, `in 2 hours`. Other text stays as it is.
pub(super) fn ago(instant: &str) -> String {
    let Ok(at) = serde_json::from_value::<Instant>(instant.into()) else { return instant.to_owned() };
    apart(at, Instant::now())
}

fn apart(at: Instant, now: Instant) -> String {
    const UNITS: [(u64, &str); 6] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    let seconds = at.since_ms(now).max(now.since_ms(at)) / 1000;
    let (count, unit) = UNITS
        .iter()
        .find(|(length, _)| seconds >= *length)
        .map_or((seconds, "second"), |(length, unit)| (seconds / length, unit));
    let plural = if count == 1 { "" } else { "s" };
    match at > now {
        true => format!("in {count} {unit}{plural}"),
        false => format!("{count} {unit}{plural} ago"),
    }
}

/// A duration as the hive reads it, which knows no days: `30d` is `720h`.
pub(super) fn with_days(text: String) -> String {
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<u32>().ok());
    days.map_or(text, |days| format!("{}h", u64::from(days) * 24))
}

/// A large number, such as that of a model's weights: `1.24 B`.
fn large(number: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " K")];
    let unit = UNITS.iter().find(|(size, _)| number >= *size);
    unit.map_or_else(|| number.to_string(), |(size, unit)| format!("{:.2}{unit}", number / size))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_of_a_field_says_what_it_is() {
        for (name, value, words) in [
            ("size_bytes", json!(1536), Some("1.5 KiB")),
            ("queue_ms", json!(1500), Some("1.5 s")),
            ("uptime_seconds", json!(61), Some("1 min 1 s")),
            ("parameter_count", json!(1_240_000_000), Some("1.24 B")),
            ("slots", json!(4), Some("4")),
            ("cpu_percent", json!(12.34), Some("12.3")),
            ("loaded", json!(true), Some("yes")),
            ("engines", json!(["a", "b"]), Some("a, b")),
            ("revision", json!(null), None),
            ("left_out", json!([]), None),
            ("added_at", json!("no instant"), Some("no instant")),
        ] {
            assert_eq!(of_field(name, &value).as_deref(), words, "{name}");
        }
    }

    #[test]
    fn days_are_told_in_hours() {
        for (text, read) in
            [("30d", "720h"), ("12h", "12h"), ("2026-11-01", "2026-11-01"), ("d", "d"), ("-1d", "-1d")]
        {
            assert_eq!(with_days(text.to_owned()), read);
        }
    }

    #[test]
    fn an_instant_is_told_by_its_distance() {
        let now = Instant(1_763_899_200_000);
        let of = |seconds: i64| apart(Instant(now.0 + seconds * 1000), now);
        assert_eq!(
            [of(0), of(-1), of(-60), of(7200)],
            ["0 seconds ago", "1 second ago", "1 minute ago", "in 2 hours"]
        );
        assert_eq!([of(-86_400 * 3), of(-86_400 * 400)], ["3 days ago", "1 year ago"]);
    }
}
