//! The plain form. It alone changes texts that look like the end of the stream or like the result.
//!
//! Existing clients compare whole lines with the terminal markers, or look for a marker anywhere in a line.
//! They take the first line that starts with `{` or `[` for the result. So outside the terminal event and
//! the result, a marker's brackets become parentheses, and a line that starts with a bracket or a brace
//! gets `| ` in front. In the result a marker's `[` becomes `\u005b`, which is the same string in JSON.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::jobs::event::{Body, Event, Terminal};
use crate::jobs::log::Elision;
use crate::narration::Level;

/// The terminal markers, without their brackets.
const MARKERS: [&str; 3] = ["DONE", "ERROR", "CANCELLED"];

/// Writes one event of a job; nothing for a debug narration.
pub(super) fn event(out: &mut BytesMut, event: &Event) {
    match &event.body {
        Body::Narration { level: Level::Debug, .. } => {}
        Body::Narration { message, .. } => lines(out, "", message),
        Body::Result(data) => line(out, &escape_result(data.get())),
        Body::Terminal(Terminal::Done) => line(out, "[DONE]"),
        Body::Terminal(Terminal::Cancelled) => line(out, "[CANCELLED]"),
        Body::Terminal(Terminal::Failed(failure)) => {
            // Clients read only the first line of an error, so the hint is on it.
            let text = match &failure.hint {
                Some(hint) => format!("{} ({hint})", failure.message),
                None => failure.message.clone(),
            };
            lines(out, "[ERROR] ", &text.replace(['\r', '\n'], " "));
        }
    }
}

/// Writes which events the log dropped.
pub(super) fn elision(out: &mut BytesMut, Elision { from, to, count }: &Elision) {
    line(out, &format!("({count} of the narrations {from} to {to} are no longer kept)"));
}

fn line(out: &mut BytesMut, text: &str) {
    out.put_slice(b"data: ");
    out.put_slice(text.as_bytes());
    out.put_slice(b"\n\n");
}

/// Writes one event with a `data:` line for each line of the text. `prefix` stands in front of the first
/// line, unchanged.
fn lines(out: &mut BytesMut, prefix: &str, text: &str) {
    let text = clean(text);
    let mut prefix = prefix;
    for text in text.split('\n') {
        out.put_slice(b"data: ");
        out.put_slice(prefix.as_bytes());
        let text = neutralise(text);
        if prefix.is_empty() && text.starts_with(['[', '{']) {
            out.put_slice(b"| ");
        }
        out.put_slice(text.as_bytes());
        out.put_u8(b'\n');
        prefix = "";
    }
    out.put_u8(b'\n');
}

/// Removes carriage returns, NUL, escape sequences and every other control character but line feed and tab.
fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // CSI sequences (ECMA-48, section 5.4) end with a byte of 0x40 to 0x7e.
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next_if(|c| !('\x40'..='\x7e').contains(c) && *c != '\n').is_some() {}
                chars.next_if(|c| *c != '\n');
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' => clean.push('\n'),
            '\n' | '\t' => clean.push(c),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

/// `[DONE]` becomes `(DONE)`, `[ERROR]` becomes `(ERROR)`, whatever their case.
fn neutralise(text: &str) -> Cow<'_, str> {
    let mut out: Option<String> = None;
    for marker in MARKERS {
        let mut from = 0;
        while let Some(at) = find_marker(out.as_deref().unwrap_or(text), marker, from) {
            let text = out.get_or_insert_with(|| text.to_owned());
            text.replace_range(at..=at, "(");
            let end = at + 1 + marker.len();
            text.replace_range(end..=end, ")");
            from = end;
        }
    }
    out.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Escapes markers and control characters. In JSON a bracket directly before a marker's word can only be
/// inside a string. So can the control characters that JSON allows unescaped, which some terminals take for
/// escape sequences.
fn escape_result(json: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(json);
    if json.contains(char::is_control) {
        let escaped = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.into() };
        out = Cow::Owned(json.chars().map(escaped).collect());
    }
    for marker in MARKERS {
        let mut from = 0;
        while let Some(at) = find_marker(&out, marker, from) {
            out.to_mut().replace_range(at..=at, "\\u005b");
            from = at;
        }
    }
    out
}

/// The byte at which `[MARKER]` begins, at or after `from`.
fn find_marker(text: &str, marker: &str, from: usize) -> Option<usize> {
    let (bytes, marker) = (text.as_bytes(), marker.as_bytes());
    (from..bytes.len()).find(|&at| {
        bytes[at] == b'['
            && bytes.get(at + 1..at + 1 + marker.len()).is_some_and(|word| word.eq_ignore_ascii_case(marker))
            && bytes.get(at + 1 + marker.len()) == Some(&b']')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::error::{Code, Failure};
    use crate::time::Instant;

    fn encode(body: Body) -> String {
        let mut out = BytesMut::new();
        event(&mut out, &Event { seq: 1, at: Instant(0), body });
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn narration(message: &str) -> String {
        encode(Body::Narration {
            level: Level::Info,
            action: "a".into(),
            message: message.into(),
            progress: None,
            step: None,
        })
    }

    fn result(json: &str) -> String {
        encode(Body::Result(serde_json::value::RawValue::from_string(json.into()).unwrap().into()))
    }

    #[test]
    fn a_text_is_one_event_of_data_lines() {
        assert_eq!(narration("hello"), "data: hello\n\n");
        assert_eq!(narration("a\nb\r\nc\rd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(narration(""), "data: \n\n");
    }

    #[test]
    fn only_the_terminal_event_looks_like_one() {
        assert_eq!(narration("[DONE]"), "data: (DONE)\n\n");
        assert_eq!(narration("say [Error] twice [ERROR]"), "data: say (Error) twice (ERROR)\n\n");
        assert_eq!(narration("[1] x\n{y"), "data: | [1] x\ndata: | {y\n\n");
        assert_eq!(narration("[ERROR] [DONE]"), "data: (ERROR) (DONE)\n\n");
        assert_eq!(result(r#"["[DONE]"]"#), "data: [\"\\u005bDONE]\"]\n\n");
        assert_eq!(encode(Body::Terminal(Terminal::Done)), "data: [DONE]\n\n");
        assert_eq!(encode(Body::Terminal(Terminal::Cancelled)), "data: [CANCELLED]\n\n");
    }

    #[test]
    fn an_error_is_on_one_line() {
        let failure = Failure::new(Code::Io, "line one\nline two [DONE]").hint("do\nthis");
        assert_eq!(
            encode(Body::Terminal(Terminal::Failed(Arc::new(failure)))),
            "data: [ERROR] line one line two (DONE) (do this)\n\n"
        );
    }

    #[test]
    fn escape_sequences_and_control_characters_are_removed() {
        assert_eq!(narration("\x1b[31mred\x1b[0m\0 \x07tab\t."), "data: red tab\t.\n\n");
        assert_eq!(narration("\u{9b}31mred"), "data: 31mred\n\n");
        assert_eq!(result("[\"\u{9b}31m\u{7f}\"]"), "data: [\"\\u009b31m\\u007f\"]\n\n");
    }

    proptest! {
        #[test]
        fn every_narration_stays_narration(text in any::<String>(), marker in 0..MARKERS.len()) {
            let text = format!("{text}[{}]\r{text}", MARKERS[marker]);
            let out = narration(&text);
            prop_assert!(out.ends_with("\n\n"));
            for line in out.trim_end_matches('\n').split('\n') {
                let line = line.strip_prefix("data: ").expect("every line is data");
                let ambiguous = line.starts_with(['[', '{']);
                prop_assert!(!ambiguous);
                prop_assert!(!line.contains(|c: char| c.is_control() && c != '\t'));
                for marker in MARKERS {
                    prop_assert!(find_marker(line, marker, 0).is_none());
                }
            }
        }

        #[test]
        fn an_escaped_result_is_the_same_json(text in any::<String>(), marker in 0..MARKERS.len()) {
            let value = serde_json::json!({ "x": [format!("{text}[{}]{text}", MARKERS[marker]), "[DONE]"] });
            let out = result(&value.to_string());
            let json = out.strip_prefix("data: ").unwrap().trim_end();
            for marker in MARKERS {
                prop_assert!(find_marker(json, marker, 0).is_none());
            }
            prop_assert!(!json.contains(char::is_control));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(json).unwrap(), value);
        }
    }
}
