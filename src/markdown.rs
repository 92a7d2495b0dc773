//! Markdown, as models write it, turned into HTML that a page can show.
//!
//! An answer of a model is text of a stranger. [`html`] reads it as `CommonMark` with tables,
//! strikethrough, task lists and mathematics; `code` colours code, `math` turns LaTeX into `MathML`,
//! and `clean` lets through only the elements and attributes that these produce.
//!
//! Invariants:
//! - Markup in the text is shown as text. It is never interpreted.
//! - Everything that leaves this module has passed `clean`, which knows nothing of what came before.
//! - Nothing is fetched: an image becomes a link to it.
//! - The work is bounded by the length of the text: nesting, formulas and coloured code have limits, beyond
//!   which they are shown plainly.

mod clean;
mod math;
mod code;

use std::ops::Range;

use linkify::{LinkFinder, LinkKind};
use pulldown_cmark::{
    CodeBlockKind, CowStr, Event, HeadingLevel, LinkType, Options, Parser, Tag, TagEnd, TextMergeWithOffset,
};

/// How deep quotes and lists are nested at most: a model may nest them without end.
const DEEPEST: usize = 12;

/// The text as HTML.
#[must_use]
pub fn html(text: &str) -> String {
    let text = math::with_dollars(text);
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_MATH;
    let events = TextMergeWithOffset::new(Parser::new_ext(&text, options).into_offset_iter());
    let mut page = Page { text: &text, ..Page::default() };
    let mut html = String::with_capacity(text.len() * 2);
    pulldown_cmark::html::push_html(&mut html, events.flat_map(|(event, range)| page.take(event, range)));
    clean::clean(&html)
}

/// What has been read so far, as far as it decides what follows.
#[derive(Default)]
struct Page<'a> {
    text: &'a str,
    /// The language and text of the code block that is being read.
    code: Option<(String, String)>,
    colours: code::Colours,
    /// Quotes, lists and their items around this place.
    depth: usize,
    /// Links and images around this place. Links do not nest.
    links: usize,
    /// The level of the last heading. The page itself has the first level.
    heading: usize,
}

impl<'a> Page<'a> {
    /// What one event of the parser becomes.
    fn take(&mut self, event: Event<'a>, range: Range<usize>) -> Vec<Event<'a>> {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                self.code = Some((language(&kind), String::new()));
                vec![]
            }
            Event::End(TagEnd::CodeBlock) => {
                let (language, text) = self.code.take().unwrap_or_default();
                vec![Event::Html(self.colours.block(&language, &text).into())]
            }
            Event::Text(text) => match &mut self.code {
                Some((_, code)) => {
                    code.push_str(&text);
                    vec![]
                }
                None if self.links > 0 => vec![Event::Text(text)],
                None => linked(text),
            },
            Event::Html(markup) | Event::InlineHtml(markup) => vec![as_text(markup)],
            Event::Start(Tag::HtmlBlock) => vec![Event::Start(Tag::Paragraph)],
            Event::End(TagEnd::HtmlBlock) => vec![Event::End(TagEnd::Paragraph)],
            Event::Start(Tag::Heading { level, .. }) => {
                // No level is skipped, whatever the model writes.
                self.heading = (level as usize + 1).min(self.heading.max(1) + 1).min(6);
                let (id, classes, attrs) = (None, vec![], vec![]);
                vec![Event::Start(Tag::Heading { level: self.level(), id, classes, attrs })]
            }
            Event::End(TagEnd::Heading(_)) => vec![Event::End(TagEnd::Heading(self.level()))],
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                self.links += 1;
                if self.links == 1 { vec![link(dest_url)] } else { vec![] }
            }
            Event::End(TagEnd::Link | TagEnd::Image) => {
                self.links = self.links.saturating_sub(1);
                if self.links == 0 { vec![Event::End(TagEnd::Link)] } else { vec![] }
            }
            Event::Start(Tag::BlockQuote(_) | Tag::List(_) | Tag::Item) => {
                self.depth += 1;
                if self.depth <= DEEPEST { vec![event] } else { vec![] }
            }
            Event::End(TagEnd::BlockQuote(_) | TagEnd::List(_) | TagEnd::Item) => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth < DEEPEST { vec![event] } else { vec![] }
            }
            Event::TaskListMarker(is_done) => vec![Event::Text(if is_done { "☑ " } else { "☐ " }.into())],
            // In a chat a new line is a new line.
            Event::SoftBreak => vec![Event::HardBreak],
            Event::InlineMath(formula) if self.is_price(&range) => {
                vec![Event::Text(format!("${formula}$").into())]
            }
            Event::InlineMath(formula) => vec![Event::InlineHtml(math::inline(&formula).into())],
            Event::DisplayMath(formula) => vec![Event::InlineHtml(math::display(&formula).into())],
            other => vec![other],
        }
    }

    fn level(&self) -> HeadingLevel {
        HeadingLevel::try_from(self.heading).unwrap_or(HeadingLevel::H6)
    }

    /// Whether what looks like a formula is the text between two prices, as in "$5-$10": no formula ends
    /// before a digit.
    fn is_price(&self, range: &Range<usize>) -> bool {
        self.text.as_bytes().get(range.end).is_some_and(u8::is_ascii_digit)
    }
}

/// The language that a fence names.
fn language(kind: &CodeBlockKind<'_>) -> String {
    match kind {
        CodeBlockKind::Fenced(info) => {
            info.split([' ', ',', '{']).next().unwrap_or_default().to_ascii_lowercase()
        }
        CodeBlockKind::Indented => String::new(),
    }
}

/// Markup as text, but for the line breaks that models write into the cells of tables.
fn as_text(markup: CowStr<'_>) -> Event<'_> {
    let bare: String = markup.chars().filter(|c| !c.is_whitespace()).collect();
    if matches!(bare.to_ascii_lowercase().as_str(), "<br>" | "<br/>") {
        Event::HardBreak
    } else {
        Event::Text(markup)
    }
}

fn link(address: CowStr<'_>) -> Event<'_> {
    let (link_type, title, id) = (LinkType::Inline, CowStr::Borrowed(""), CowStr::Borrowed(""));
    Event::Start(Tag::Link { link_type, dest_url: address, title, id })
}

/// Text in which the addresses are links.
fn linked(text: CowStr<'_>) -> Vec<Event<'_>> {
    if !text.contains("://") {
        return vec![Event::Text(text)];
    }
    let mut events = Vec::new();
    for span in LinkFinder::new().kinds(&[LinkKind::Url]).spans(&text) {
        let part = Event::Text(span.as_str().to_owned().into());
        if span.kind().is_some() {
            events.extend([link(span.as_str().to_owned().into()), part, Event::End(TagEnd::Link)]);
        } else {
            events.push(part);
        }
    }
    events
}

#[cfg(test)]
mod tests;
