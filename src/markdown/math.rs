//! Formulas: LaTeX turned into `MathML`, which browsers draw.

use std::borrow::Cow;
use std::sync::LazyLock;

use math_core::{LatexToMathML, MathCoreConfig, MathDisplay};

use super::code::escaped;

/// The longest formula that is turned into `MathML`, in bytes. Its parser calls itself for each nested part.
const LONGEST: usize = 2000;

/// `None` if the crate refuses its own default settings: then formulas are shown as LaTeX.
static CONVERTER: LazyLock<Option<LatexToMathML>> =
    LazyLock::new(|| LatexToMathML::new(MathCoreConfig::default()).ok());

/// A formula within a line.
pub(super) fn inline(formula: &str) -> String {
    mathml(formula, MathDisplay::Inline)
}

/// A formula on a line of its own.
pub(super) fn display(formula: &str) -> String {
    mathml(formula, MathDisplay::Block)
}

/// The formula as `MathML`; as LaTeX where it is not valid, as while an answer grows.
fn mathml(formula: &str, display: MathDisplay) -> String {
    let short = Some(formula).filter(|formula| formula.len() <= LONGEST);
    let converted =
        short.zip(CONVERTER.as_ref()).and_then(|(text, to)| to.convert_with_local_state(text, display).ok());
    converted.map_or_else(|| format!("<code>{}</code>", escaped(formula)), |converted| converted.mathml)
}

/// The text with the delimiters `\(`, `\)`, `\[` and `\]`, which models write too, as the dollars that
/// Markdown knows. Code is left alone.
pub(super) fn with_dollars(text: &str) -> Cow<'_, str> {
    if !text.contains("\\(") && !text.contains("\\[") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut fence: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let start = line.trim_start();
        match fence {
            Some(mark) if start.starts_with(mark) => fence = None,
            Some(_) => {}
            None => fence = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark)),
        }
        if fence.is_some() {
            out.push_str(line);
        } else {
            push_with_dollars(&mut out, line);
        }
    }
    Cow::Owned(out)
}

/// One line outside of fenced code. Every second part between backticks is code.
fn push_with_dollars(out: &mut String, line: &str) {
    for (at, part) in line.split('`').enumerate() {
        if at > 0 {
            out.push('`');
        }
        if at % 2 == 1 {
            out.push_str(part);
            continue;
        }
        let mut rest = part;
        while let Some(at) = rest.find('\\') {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let delimiter = from.as_bytes().get(1).copied();
            let dollars = match delimiter {
                Some(b'(' | b')') => Some("$"),
                Some(b'[' | b']') => Some("$$"),
                _ => None,
            };
            if dollars == Some("$") && delimiter == Some(b')')
                || dollars == Some("$$") && delimiter == Some(b']')
            {
                // Space before the end would keep a dollar from ending the formula.
                out.truncate(out.trim_end_matches(' ').len());
            }
            let end = from.char_indices().nth(2).map_or(from.len(), |(end, _)| end);
            out.push_str(dollars.unwrap_or(&from[..end]));
            rest = &from[end..];
            if matches!(delimiter, Some(b'(' | b'[')) {
                rest = rest.trim_start_matches(' ');
            }
        }
        out.push_str(rest);
    }
}
