//! Finds the calls of tools in an answer.

use super::call::{Tool, calls};
use super::part::Part;
use super::partial::take_certain;
use super::style::Notation;

/// The names that a call's JSON object begins with. One that begins with another name is an answer in JSON.
const FIRST_NAMES: [&str; 7] = ["name", "arguments", "parameters", "function", "type", "id", "tool_call_id"];

/// Takes the calls out of one answer.
#[derive(Debug)]
pub(super) struct CallFinder {
    notation: Notation,
    tools: Vec<Tool>,
    /// Text that may belong to a call, or to the white space before one.
    held: String,
    /// The white space before the call, which is part of the text if it is none.
    space: String,
    state: State,
    /// Whether a part has left already.
    begun: bool,
    /// Whether the last part was a call: the white space behind it is none of the text.
    after_call: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Text,
    /// In a call, after the mark that begins it.
    Marked,
    /// In an answer that began as the JSON of a call does, without a mark.
    Unmarked,
}

impl CallFinder {
    pub(super) fn new(notation: Notation, tools: Vec<Tool>) -> Self {
        let (held, space) = (String::new(), String::new());
        Self { notation, tools, held, space, state: State::Text, begun: false, after_call: false }
    }

    pub(super) fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    pub(super) fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Text => self.text(rest, &mut parts),
            State::Marked => self.between(&rest, "", &mut parts),
            State::Unmarked => self.unmarked(rest, &mut parts),
        }
        parts
    }

    /// Moves on by one part. Returns whether another may follow in the text that is there.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Text => self.search(parts),
            State::Marked => {
                let Some(close) = self.notation.close else { return false };
                let Some(end) = self.held.find(close) else { return false };
                let rest = self.held.split_off(end);
                let inside = std::mem::replace(&mut self.held, rest[close.len()..].to_owned());
                self.state = State::Text;
                self.between(&inside, close, parts);
                true
            }
            State::Unmarked => {
                if may_be_call(&self.held) {
                    return false;
                }
                self.state = State::Text;
                self.begun = true;
                true
            }
        }
    }

    fn search(&mut self, parts: &mut Vec<Part>) -> bool {
        if self.notation.unmarked && !self.begun {
            let begun = self.held.trim_start();
            if begun.is_empty() {
                return false;
            }
            if begun.starts_with(['{', '[']) && !begun.starts_with(self.notation.open) {
                self.state = State::Unmarked;
                return true;
            }
        }
        let open = self.notation.open;
        let Some(start) = self.held.find(open) else {
            let certain = take_certain(&mut self.held, open);
            self.text(certain, parts);
            return false;
        };
        let rest = self.held.split_off(start);
        let before = std::mem::replace(&mut self.held, rest[open.len()..].to_owned());
        let (before, space) = before.split_at(before.trim_end().len());
        self.text(before.to_owned(), parts);
        self.space = space.to_owned();
        self.state = State::Marked;
        true
    }

    /// The text between two marks: calls, or else text with its marks.
    fn between(&mut self, inside: &str, close: &str, parts: &mut Vec<Part>) {
        match calls(inside, &self.tools) {
            Some(found) => {
                parts.extend(found.into_iter().map(Part::Call));
                (self.begun, self.after_call) = (true, true);
            }
            None => self.text(format!("{}{}{inside}{close}", self.space, self.notation.open), parts),
        }
    }

    fn unmarked(&mut self, text: String, parts: &mut Vec<Part>) {
        match calls(&text, &self.tools) {
            Some(found) => parts.extend(found.into_iter().map(Part::Call)),
            None => self.text(text, parts),
        }
    }

    fn text(&mut self, text: String, parts: &mut Vec<Part>) {
        let text = if self.after_call { text.trim_start().to_owned() } else { text };
        if !text.is_empty() {
            (self.begun, self.after_call) = (true, false);
            parts.push(Part::Text(text));
        }
    }
}

/// Whether JSON that begins like this may be that of a call: its first name tells.
fn may_be_call(text: &str) -> bool {
    let inside = text.trim_start_matches(|c: char| c.is_whitespace() || c == '{' || c == '[');
    let Some(name) = inside.strip_prefix('"') else { return inside.is_empty() };
    match name.split_once('"') {
        Some((name, _)) => FIRST_NAMES.contains(&name),
        None => FIRST_NAMES.iter().any(|first| first.starts_with(name)),
    }
}
