//! Code in colour: the kinds of its words as classes, which the page's style sheet colours.

use std::sync::LazyLock;

use syntect::easy::ScopeRegionIterator;
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxReference, SyntaxSet};
use syntect::util::LinesWithEndings;

/// The prefix of the class that names a block's language, as in the examples of the HTML standard.
pub(super) const LANGUAGE: &str = "language-";
/// The prefix of the classes of kinds of words.
pub(super) const COLOUR: &str = "hl-";

/// How many bytes of code of one text are coloured. Colouring takes about a second for a megabyte, and an
/// answer is rendered again while it grows.
const MOST_BYTES: usize = 48 << 10;
/// The longest line of a block that is coloured: the time for a line may grow faster than its length.
const LONGEST_LINE: usize = 2000;

/// Languages that models write, by a language of the set that colours them well.
const ALIASES: [(&str, &str); 10] = [
    ("typescript", "js"),
    ("ts", "js"),
    ("tsx", "js"),
    ("jsx", "js"),
    ("jsonc", "json"),
    ("shell", "sh"),
    ("console", "sh"),
    ("zsh", "sh"),
    ("c++", "cpp"),
    ("golang", "go"),
];

/// The kinds of words that have a colour, by the scopes of the languages' definitions.
static KINDS: LazyLock<Vec<(Scope, &str)>> = LazyLock::new(|| {
    let kinds = [
        ("comment", "comment"),
        ("string", "string"),
        ("constant", "constant"),
        ("keyword", "keyword"),
        ("storage", "keyword"),
        ("entity.name", "name"),
        ("support", "support"),
        ("markup.inserted", "inserted"),
        ("markup.deleted", "deleted"),
    ];
    kinds.into_iter().filter_map(|(scope, kind)| Some((Scope::new(scope).ok()?, kind))).collect()
});

static LANGUAGES: LazyLock<SyntaxSet> = LazyLock::new(SyntaxSet::load_defaults_newlines);

/// Colours the blocks of one text, up to a limit for all of them.
pub(super) struct Colours {
    left: usize,
}

impl Default for Colours {
    fn default() -> Self {
        Self { left: MOST_BYTES }
    }
}

impl Colours {
    /// A code block as HTML.
    pub(super) fn block(&mut self, language: &str, text: &str) -> String {
        let known = language.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+#-_.".contains(&byte));
        let class = match known && !language.is_empty() {
            true => format!(" class=\"{LANGUAGE}{language}\""),
            false => String::new(),
        };
        let coloured =
            syntax(language).filter(|_| self.affords(text)).and_then(|syntax| colour(syntax, text));
        let code = coloured.unwrap_or_else(|| escaped(text));
        format!("<pre><code{class}>{code}</code></pre>\n")
    }

    /// Whether the text is within the limits, of which it takes its share.
    fn affords(&mut self, text: &str) -> bool {
        let affords = text.len() <= self.left && text.lines().all(|line| line.len() <= LONGEST_LINE);
        if affords {
            self.left -= text.len();
        }
        affords
    }
}

fn syntax(language: &str) -> Option<&'static SyntaxReference> {
    let alias = ALIASES.iter().find(|(name, _)| *name == language).map_or(language, |(_, alias)| alias);
    if alias.is_empty() { None } else { LANGUAGES.find_syntax_by_token(alias) }
}

/// The text in colour; `None` where a rule of the language cannot be applied to it.
fn colour(syntax: &SyntaxReference, text: &str) -> Option<String> {
    let (mut state, mut scopes) = (ParseState::new(syntax), ScopeStack::new());
    let mut html = String::with_capacity(text.len() * 2);
    let mut kind = None;
    for line in LinesWithEndings::from(text) {
        let changes = state.parse_line(line, &LANGUAGES).ok()?;
        for (word, change) in ScopeRegionIterator::new(&changes, line) {
            scopes.apply(change).ok()?;
            if word.is_empty() {
                continue;
            }
            // Neighbours of one kind share an element.
            let next = kind_of(&scopes);
            if next != kind {
                html.push_str(kind.map_or("", |_| "</span>"));
                if let Some(next) = next {
                    html.push_str(&format!("<span class=\"{COLOUR}{next}\">"));
                }
                kind = next;
            }
            html.push_str(&escaped(word));
        }
    }
    html.push_str(kind.map_or("", |_| "</span>"));
    Some(html)
}

/// The kind of word at a place, by the innermost scope that has one.
fn kind_of(scopes: &ScopeStack) -> Option<&'static str> {
    let kind = |scope: &Scope| KINDS.iter().find(|(prefix, _)| prefix.is_prefix_of(*scope));
    scopes.as_slice().iter().rev().find_map(kind).map(|(_, kind)| *kind)
}

/// Text as HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
