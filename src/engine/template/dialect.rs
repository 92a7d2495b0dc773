//! Rewrites what `transformers`' Jinja has and minijinja has not, before a template is compiled.
//!
//! - `{% generation %}` marks the assistant's text for training. For rendering it is a scope: `{% with %}`.
//! - A macro that uses `varargs` or `kwargs` takes any arguments. It gets the two as parameters, and
//!   [`FLEXIBLE_MACRO`] wraps it, which passes them.
//! - `'...' % values` formats a string: `'...' | PERCENT(values)`. Only after a literal, because the type
//!   of other operands is not known here.
//!
//! Each rewriting keeps the line breaks, so that an error names the line of the template.

use std::fmt::Write;
use std::ops::Range;

/// The function that makes a macro take any arguments.
pub(super) const FLEXIBLE_MACRO: &str = "__flexible_macro";
/// The filter for `'...' % values`.
pub(super) const PERCENT: &str = "__percent";

/// One tag of a template: an expression or a block, with its delimiters.
struct Tag<'a> {
    /// `{{` or `{%`, with the sign of white space control.
    open: &'a str,
    inside: &'a str,
    /// `}}` or `%}`, with the sign of white space control.
    close: &'a str,
}

/// A macro whose end has not been reached yet.
struct OpenMacro {
    name: String,
    /// Where its tag was written.
    tag: Range<usize>,
    /// Whether it uses `varargs` or `kwargs`.
    flexible: bool,
}

/// The template in minijinja's dialect.
pub(super) fn translate(source: &str) -> String {
    let mut translated = String::with_capacity(source.len());
    let mut macros: Vec<OpenMacro> = Vec::new();
    let mut rest = source;
    while let Some(at) = next_tag(rest) {
        let (text, tagged) = rest.split_at(at);
        translated.push_str(text);
        if tagged.starts_with("{#") {
            let end = tagged.find("#}").map_or(tagged.len(), |end| end + 2);
            translated.push_str(&tagged[..end]);
            rest = &tagged[end..];
            continue;
        }
        let Some(tag) = tag(tagged) else {
            // minijinja reports the tag and its line.
            translated.push_str(tagged);
            return translated;
        };
        rest = &tagged[tag.open.len() + tag.inside.len() + tag.close.len()..];
        let words = names(tag.inside);
        if let Some(open) = macros.last_mut() {
            open.flexible |= words.iter().any(|word| matches!(*word, "varargs" | "kwargs"));
        }
        let start = translated.len();
        let block = tag.open.starts_with("{%").then(|| words.first().copied()).flatten();
        match block {
            Some("generation") => push(&mut translated, &tag, &tag.inside.replacen("generation", "with", 1)),
            Some("endgeneration") => {
                push(&mut translated, &tag, &tag.inside.replacen("endgeneration", "endwith", 1));
            }
            Some("endmacro") => match macros.pop() {
                Some(ended) if ended.flexible => {
                    // The tag that comes last has the sign of white space control.
                    push(&mut translated, &Tag { close: "%}", ..tag }, tag.inside);
                    let name = &ended.name;
                    let _infallible =
                        write!(translated, "{{% set {name} = {FLEXIBLE_MACRO}({name}) {}", tag.close);
                    add_parameters(&mut translated, &ended.tag);
                }
                _ => push(&mut translated, &tag, tag.inside),
            },
            Some("raw") => {
                let end = end_of_raw(rest);
                push(&mut translated, &tag, tag.inside);
                translated.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => push(&mut translated, &tag, &with_percent(tag.inside)),
        }
        if block == Some("macro")
            && let Some(name) = words.get(1)
        {
            macros.push(OpenMacro {
                name: (*name).to_owned(),
                tag: start..translated.len(),
                flexible: false,
            });
        }
    }
    translated.push_str(rest);
    translated
}

fn push(translated: &mut String, tag: &Tag<'_>, inside: &str) {
    translated.push_str(tag.open);
    translated.push_str(inside);
    translated.push_str(tag.close);
}

/// Adds the two parameters to the tag of a macro, before its last parenthesis.
fn add_parameters(translated: &mut String, tag: &Range<usize>) {
    let Some(at) = translated[tag.clone()].rfind(')').map(|at| tag.start + at) else { return };
    let first = translated[tag.start..at].trim_end().ends_with('(');
    let comma = if first || translated[tag.start..at].trim_end().ends_with(',') { "" } else { ", " };
    translated.insert_str(at, &format!("{comma}varargs=none, kwargs=none"));
}

/// Where the next tag or comment begins.
fn next_tag(text: &str) -> Option<usize> {
    text.match_indices('{').map(|(at, _)| at).find(|at| text[at + 1..].starts_with(['{', '%', '#']))
}

/// The tag that `text` begins with; `None` if it does not end.
fn tag(text: &str) -> Option<Tag<'_>> {
    let end = if text.starts_with("{{") { "}}" } else { "%}" };
    let start = 2 + usize::from(text[2..].starts_with(['-', '+']));
    let mut at = start;
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with(end) {
            let signed = at > start && text[..at].ends_with(['-', '+']);
            let close = at - usize::from(signed);
            return Some(Tag {
                open: &text[..start],
                inside: &text[start..close],
                close: &text[close..at + 2],
            });
        }
        at += match c {
            '\'' | '"' => string_length(&text[at..])?,
            '{' | '[' | '(' => group_length(&text[at..]),
            c => c.len_utf8(),
        };
    }
    None
}

/// The length of the string literal that `text` begins with, with its quotes; `None` if it does not end.
fn string_length(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    text.char_indices()
        .skip(1)
        .find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        })
        .map(|(at, _)| at + quote.len_utf8())
}

/// Where the tag `{% endraw %}` begins.
fn end_of_raw(text: &str) -> usize {
    text.match_indices("{%")
        .map(|(at, _)| at)
        .find(|at| {
            let inside = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
            inside.starts_with("endraw")
        })
        .unwrap_or(text.len())
}

/// The names in a tag, outside string literals.
fn names(mut text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    while let Some(c) = text.chars().next() {
        let length = match c {
            '\'' | '"' => string_length(text).unwrap_or(text.len()),
            c if is_name(c) => {
                let length = name_length(text);
                names.push(&text[..length]);
                length
            }
            c => c.len_utf8(),
        };
        text = &text[length..];
    }
    names
}

const fn is_name(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// The inside of a tag with each `'...' % values` as a filter.
fn with_percent(mut text: &str) -> String {
    let mut rewritten = String::with_capacity(text.len());
    while let Some(at) = text.find(['\'', '"']) {
        let Some(length) = string_length(&text[at..]) else { break };
        rewritten.push_str(&text[..at + length]);
        text = &text[at + length..];
        if let Some(values) = text.trim_start().strip_prefix('%') {
            let (values, after) = values.split_at(operand_length(values));
            let _infallible = write!(rewritten, "|{PERCENT}({})", with_percent(values));
            text = after;
        }
    }
    rewritten.push_str(text);
    rewritten
}

/// The length of the operand that `text` begins with: a name, a literal or a group, and the attributes,
/// calls and filters behind it.
fn operand_length(text: &str) -> usize {
    let spaces = |at: usize| text[at..].len() - text[at..].trim_start().len();
    let mut at = spaces(0);
    at += text[at..].len() - text[at..].trim_start_matches(['-', '+']).len();
    at += match text[at..].chars().next() {
        Some('\'' | '"') => string_length(&text[at..]).unwrap_or(0),
        Some('(' | '[' | '{') => group_length(&text[at..]),
        _ => name_length(&text[at..]),
    };
    loop {
        let next = at + spaces(at);
        let length = match text[next..].chars().next() {
            Some('(' | '[') => group_length(&text[next..]),
            Some(c @ ('.' | '|')) => {
                let name = next + c.len_utf8() + spaces(next + c.len_utf8());
                name - next + name_length(&text[name..])
            }
            _ => return at,
        };
        at = next + length;
    }
}

fn name_length(text: &str) -> usize {
    text.find(|c| !is_name(c)).unwrap_or(text.len())
}

/// The length of the group in brackets that `text` begins with.
fn group_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '\'' | '"' => at += string_length(&text[at..]).unwrap_or(text[at..].len()),
            '(' | '[' | '{' => {
                depth += 1;
                at += 1;
            }
            ')' | ']' | '}' => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    break;
                }
            }
            c => at += c.len_utf8(),
        }
    }
    at
}
