//! Finds the reasoning: what stands between `<think>` and `</think>` at the beginning of an answer.

use super::part::Part;
use super::partial::take_certain;

/// The mark that begins the reasoning.
pub(super) const OPEN: &str = "<think>";
/// The mark that ends it.
pub(super) const CLOSE: &str = "</think>";

/// Takes the reasoning out of one answer. The white space at its edges and before the answer is dropped.
#[derive(Debug)]
pub(super) struct ReasoningFinder {
    /// Text that may belong to a mark, or to the white space around one.
    held: String,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    /// The answer may begin with reasoning.
    Before,
    /// `started` after the first of its text.
    Inside { started: bool },
    /// Before the first text of the answer after the reasoning.
    After,
    /// In the text of the answer.
    Text,
}

impl ReasoningFinder {
    /// `opened` says that the prompt has the mark that begins the reasoning.
    pub(super) fn new(opened: bool) -> Self {
        let state = if opened { State::Inside { started: false } } else { State::Before };
        Self { held: String::new(), state }
    }

    pub(super) fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        if self.state == State::Before {
            let begun = self.held.trim_start();
            if let Some(inside) = begun.strip_prefix(OPEN) {
                self.held = inside.to_owned();
                self.state = State::Inside { started: false };
            } else if !OPEN.starts_with(begun) {
                self.state = State::Text;
            }
        }
        if let State::Inside { started } = &mut self.state {
            if !*started {
                self.held = self.held.trim_start().to_owned();
            }
            *started |= !self.held.is_empty();
            if let Some(end) = self.held.find(CLOSE) {
                let after = self.held.split_off(end);
                let inside = std::mem::replace(&mut self.held, after[CLOSE.len()..].to_owned());
                parts.push(Part::Reasoning(inside.trim_end().to_owned()));
                self.state = State::After;
            } else {
                parts.push(Part::Reasoning(take_certain(&mut self.held, CLOSE)));
            }
        }
        if self.state == State::After {
            self.held = self.held.trim_start().to_owned();
            if !self.held.is_empty() {
                self.state = State::Text;
            }
        }
        if self.state == State::Text {
            parts.push(Part::Text(std::mem::take(&mut self.held)));
        }
        parts
    }

    pub(super) fn finish(&mut self) -> Vec<Part> {
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Inside { .. } => vec![Part::Reasoning(rest.trim_end().to_owned())],
            State::Before | State::After | State::Text => vec![Part::Text(rest)],
        }
    }
}
