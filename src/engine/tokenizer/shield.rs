//! Keeps the text of users from being read as special tokens once a template has placed it.
//!
//! A chat template yields one string in which the template's own text and the messages' are
//! indistinguishable, and only the former may contain special tokens. So before rendering, a mark
//! (a private use character that occurs in none of the texts) goes into each text of a user: before
//! its first and after its last visible character, and into each special token that it spells out.
//! No special token can then match inside the text, nor reach across its edge into the template's.
//! [`Tokenizer::encode_prompt`] looks for special tokens while the marks are in place and removes
//! them before it encodes the rest, so that the model sees the text as it was sent.
//!
//! White space stays outermost, so that templates may `trim` a text, and an empty text stays empty,
//! so that they may test for it. What changes: a template that tests how a text *begins or ends*
//! (`content.startswith(..)`) or searches it for a special token does not find it. A special token
//! of white space alone (some vocabularies have them for runs of spaces) is harmless, and unmarked.

use super::Tokenizer;

/// Where the marks come from: the private use planes, which no script uses.
const MARKS: std::ops::RangeInclusive<char> = '\u{F0000}'..='\u{FFFFD}';

/// Covers the texts of one request; see the module.
#[derive(Debug)]
pub struct Shield {
    mark: char,
}

impl Shield {
    /// A shield whose mark occurs in none of `texts`: the users' and the template's own.
    #[must_use]
    pub fn for_texts<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let taken: std::collections::HashSet<char> = texts
            .flat_map(|text| if text.is_ascii() { "".chars() } else { text.chars() })
            .filter(|c| MARKS.contains(c))
            .collect();
        // 65,534 marks; a request that used them all would have its last one removed from it.
        let mark = MARKS.into_iter().find(|mark| !taken.contains(mark)).unwrap_or(*MARKS.end());
        Self { mark }
    }

    /// `text` with marks, for a template to place.
    #[must_use]
    pub fn cover(&self, tokenizer: &Tokenizer, text: &str) -> String {
        let visible = text.trim();
        if visible.is_empty() {
            return text.to_owned();
        }
        let start = text.len() - text.trim_start().len();
        let end = start + visible.len();
        let mut covered = String::with_capacity(text.len() + 16);
        covered.push_str(&text[..start]);
        covered.push(self.mark);
        let mut rest = visible;
        while let Some(found) = tokenizer.specials.find(rest, 0) {
            let first = rest[found.start..].chars().next().map_or(1, char::len_utf8);
            let (done, after) = rest.split_at(found.start + first);
            covered.push_str(done);
            // A second special token may begin inside this one; it is looked for from here on.
            if !rest[found.start..found.end].trim().is_empty() {
                covered.push(self.mark);
            }
            rest = after;
        }
        covered.push_str(rest);
        covered.push(self.mark);
        covered.push_str(&text[end..]);
        covered
    }

    pub(super) fn mark(&self) -> char {
        self.mark
    }
}
