//! The methods of Python's strings, lists and dictionaries that templates call.
//!
//! `minijinja-contrib` has most of them. Here are those that it lacks, and those of which it knows fewer
//! arguments than Python does. Methods that change a list or a dictionary are absent on purpose:
//! `transformers` renders in a sandbox that forbids them.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat;

use super::values::{invalid, named};

/// Calls `method` of a value that has no such method of its own.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(state, value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq => list_method(value, method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()),
        ValueKind::Number if method == "is_integer" => {
            Some(Value::from(f64::try_from(value.clone()).is_ok_and(|number| number.fract() == 0.0)))
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `None` for a method that is not one of these.
fn string_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "splitlines" => split_lines(text, args)?,
        "strip" | "lstrip" | "rstrip" => strip(text, method, args)?,
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            let last = method == "rpartition";
            let parts = match if last { text.rsplit_once(separator) } else { text.split_once(separator) } {
                Some((before, after)) => [before, separator, after],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, method, args)?,
        "startswith" | "endswith" => affix(text, method == "startswith", args)?,
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let zeros = width.saturating_sub(text.chars().count());
            Value::from(format!("{sign}{}{digits}", repeat(state, '0', zeros)?))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            Value::from(pad(state, text, method, width, fill.unwrap_or(' '))?)
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swapped: String = text
                .chars()
                .flat_map(|c| match c.is_uppercase() {
                    true => c.to_lowercase().collect::<Vec<_>>(),
                    false => c.to_uppercase().collect(),
                })
                .collect();
            Value::from(swapped)
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "isdecimal" | "isdigit" => {
            let () = from_args(args)?;
            // Every script's own digits are decimal in Python; here are those that templates meet.
            Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
        }
        "istitle" => {
            let () = from_args(args)?;
            Value::from(text.chars().any(char::is_alphabetic) && title(text) == text)
        }
        "isidentifier" => {
            let () = from_args(args)?;
            let mut chars = text.chars();
            let first = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
            Value::from(first && chars.all(|c| c == '_' || c.is_alphanumeric()))
        }
        "isprintable" => {
            let () = from_args(args)?;
            Value::from(!text.chars().any(char::is_control))
        }
        "join" => {
            let (texts,): (&Value,) = from_args(args)?;
            join(state, text, texts)?
        }
        _ => return Ok(None),
    }))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => list.clone(),
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let index = list.try_iter()?.position(|item| item == *wanted);
            Value::from(index.ok_or_else(|| invalid(format!("{wanted} is not in the list")))?)
        }
        _ => return Ok(None),
    }))
}

/// `split` and `rsplit`: without a separator, at runs of white space, and none at the ends.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = named(&kwargs, "sep", separator)?;
    let limit = named(&kwargs, "maxsplit", limit)?;
    kwargs.assert_all_used()?;
    // A negative limit is none. A limit of n gives up to n + 1 parts.
    let parts = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .map_or(usize::MAX, |limit| limit.saturating_add(1));
    let parts: Vec<&str> = match (separator, from_right) {
        (Some(""), _) => return Err(invalid("empty separator")),
        (Some(separator), false) => text.splitn(parts, separator).collect(),
        (Some(separator), true) => {
            let mut reversed: Vec<&str> = text.rsplitn(parts, separator).collect();
            reversed.reverse();
            reversed
        }
        (None, false) => words(text, parts),
        (None, true) => words_from_right(text, parts),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn words(text: &str, parts: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() && words.len() + 1 < parts {
        let end = rest.find(is_space).unwrap_or(rest.len());
        words.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    if !rest.is_empty() {
        words.push(rest);
    }
    words
}

fn words_from_right(text: &str, parts: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() && words.len() + 1 < parts {
        let space = rest.rfind(is_space);
        let start = space.map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        words.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    if !rest.is_empty() {
        words.push(rest);
    }
    words.reverse();
    words
}

fn split_lines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = named(&kwargs, "keepends", keep)?;
    kwargs.assert_all_used()?;
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let tail = &rest[end..];
        let mark = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(0, char::len_utf8) };
        lines.push(Value::from(&rest[..if keep == Some(true) { end + mark } else { end }]));
        rest = &rest[end + mark..];
    }
    Ok(Value::from(lines))
}

fn strip(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match method {
        "lstrip" => text.trim_start_matches(strips),
        "rstrip" => text.trim_end_matches(strips),
        _ => text.trim_matches(strips),
    }))
}

/// The methods that search, with Python's optional start and end, which count characters.
fn search(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (offset, part) = part(text, start, end);
    if method == "count" {
        return Ok(Value::from(part.matches(wanted).count()));
    }
    let found = if method.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
    match found {
        Some(at) => Ok(Value::from(offset + part[..at].chars().count())),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(invalid("substring not found")),
    }
}

fn affix(text: &str, at_start: bool, args: &[Value]) -> Result<Value, Error> {
    let (affix, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let (_, part) = part(text, start, end);
    let matches = |affix: &Value| match affix.as_str() {
        Some(affix) if at_start => Ok(part.starts_with(affix)),
        Some(affix) => Ok(part.ends_with(affix)),
        None => Err(invalid("startswith and endswith take a string or a tuple of strings")),
    };
    if affix.is_undefined() || affix.as_str().is_some() {
        return matches(affix).map(Value::from);
    }
    for affix in affix.try_iter()? {
        if matches(&affix)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

/// The part of a text between two of Python's indices, and how many characters stand before it.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    if start.is_none() && end.is_none() {
        return (0, text);
    }
    let length = text.chars().count();
    let index = |index: Option<i64>, default: usize| match index {
        None => default,
        Some(index) => match usize::try_from(index) {
            Ok(index) => index.min(length),
            Err(_) => length.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(length)),
        },
    };
    let (start, end) = (index(start, 0), index(end, length));
    let byte = |index| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    (start, text.get(byte(start)..byte(end)).unwrap_or_default())
}

/// A text in the middle, on the left or on the right of a field of `width` characters.
pub(super) fn pad(
    state: &State,
    text: &str,
    method: &str,
    width: usize,
    fill: char,
) -> Result<String, Error> {
    let missing = width.saturating_sub(text.chars().count());
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd character on the left where the width is odd too.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(format!("{}{text}{}", repeat(state, fill, left)?, repeat(state, fill, missing - left)?))
}

/// `count` times the character, paid for before it is made.
fn repeat(state: &State, fill: char, count: usize) -> Result<String, Error> {
    state.consume_fuel(count as u64 / 64)?;
    Ok(std::iter::repeat_n(fill, count).collect())
}

/// Python's `title`: every letter that follows something other than a letter is a capital.
fn title(text: &str) -> String {
    let mut after_letter = false;
    let mut titled = String::with_capacity(text.len());
    for c in text.chars() {
        if after_letter {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        after_letter = c.is_alphabetic();
    }
    titled
}

/// Unlike the filter of that name, the method takes strings only.
fn join(state: &State, separator: &str, texts: &Value) -> Result<Value, Error> {
    if matches!(texts.kind(), ValueKind::None | ValueKind::Undefined) {
        return Err(invalid("join takes an iterable"));
    }
    let mut joined = String::new();
    for (index, text) in texts.try_iter()?.enumerate() {
        // Out of fuel, the iterator ends with a value that is no text.
        state.consume_fuel(1 + separator.len() as u64 / 64)?;
        let text = text.as_str().ok_or_else(|| invalid(format!("join: item {index} is no string")))?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
    }
    Ok(Value::from(joined))
}

/// White space as Python's `str` has it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
