//! Keeps the text of users from being read as special tokens after a chat template has rendered it.
//!
//! A template renders one string, in which its own text and the messages' cannot be told apart, and
//! only its own text may contain special tokens. So before rendering, marks are inserted into each
//! text of a user. A mark is a private use character that occurs in none of the texts. It is
//! inserted before the first and after the last visible character, and into each special token that
//! the text spells out. Then no special token can match inside the text, nor across its edge.
//! `Tokenizer::encode_prompt` looks for special tokens while the marks are there, and removes them
//! before it encodes the rest, so that the model sees the text as it was sent.
//!
//! White space at the edges stays outside the marks, so that templates may `trim` a text, and an
//! empty text stays empty, so that they may test for it. One thing changes: a template that tests
//! how a text *begins or ends* (`content.startswith(..)`), searches it for a special token, or looks
//! up an argument of a tool call by its name, does not find it. A special token of nothing but white
//! space (some vocabularies have them for runs of spaces) is harmless and is not marked.

use super::special::SpecialTokens;

/// The possible marks: the private use planes, which no script uses.
pub(crate) const MARKS: std::ops::RangeInclusive<char> = '\u{F0000}'..='\u{FFFFD}';

/// Protects the texts of one request; see the module.
#[derive(Debug)]
pub struct Shield {
    mark: char,
}

impl Shield {
    /// A shield whose mark occurs in none of `texts`: those of the request and the template's own.
    #[must_use]
    pub fn for_texts<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let used: std::collections::HashSet<char> = texts
            .flat_map(|text| if text.is_ascii() { "".chars() } else { text.chars() })
            .filter(|c| MARKS.contains(c))
            .collect();
        // There are 65,534 marks. From a request that uses them all, the last one would be removed.
        let mark = MARKS.into_iter().find(|mark| !used.contains(mark)).unwrap_or(*MARKS.end());
        Self { mark }
    }

    /// Inserts the marks into a text that the template will render.
    #[must_use]
    pub fn cover(&self, special_tokens: &SpecialTokens, text: &str) -> String {
        let visible = text.trim();
        if visible.is_empty() {
            return text.to_owned();
        }
        let start = text.len() - text.trim_start().len();
        let end = start + visible.len();
        let mut marked = String::with_capacity(text.len() + 16);
        marked.push_str(&text[..start]);
        marked.push(self.mark);
        let mut rest = visible;
        while let Some(special) = special_tokens.find(rest, 0) {
            let first = rest[special.start..].chars().next().map_or(1, char::len_utf8);
            let (before, after) = rest.split_at(special.start + first);
            marked.push_str(before);
            // Another special token may begin inside this one, so the search goes on after its first
            // character.
            if !rest[special.start..special.end].trim().is_empty() {
                marked.push(self.mark);
            }
            rest = after;
        }
        marked.push_str(rest);
        marked.push(self.mark);
        marked.push_str(&text[end..]);
        marked
    }

    /// The text without the marks.
    #[must_use]
    pub fn uncover(&self, rendered: &str) -> String {
        rendered.replace(self.mark, "")
    }

    pub(super) fn mark(&self) -> char {
        self.mark
    }
}
