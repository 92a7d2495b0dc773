//! What a model writes, taken apart: its reasoning, its calls of tools, and the text for the person.
//!
//! A model marks the parts in its text, in the notation that its chat template shows ([`Style`]). The text
//! arrives piece by piece, and each part leaves as soon as it is certain: text that may begin a mark is held
//! back, and a call leaves when it is complete.
//!
//! Invariants:
//! - Nothing is lost: what looks like a call and is not one of an offered tool leaves as text.
//! - Whatever pieces a text arrives in, the parts are the same.
//!
//! The files from top to bottom:
//!
//! - [`told`]: tells of tools where the chat template cannot.
//! - [`required`]: the grammar of an answer that must call a tool.
//! - `calls`: finds the calls of tools.
//! - [`style`]: how one model marks the parts.
//! - `reasoning`: finds the reasoning.
//! - `part`: what is found. `call`: reads one call. `partial`: what may begin a mark.

pub mod told;
pub mod required;
mod calls;
pub mod style;
mod reasoning;
mod part;
mod call;
mod partial;
#[cfg(test)]
mod tests;

pub use call::{Call, Tool};
use calls::CallFinder;
pub use part::Part;
use reasoning::ReasoningFinder;
pub use style::{Notation, Style};

/// Takes one answer apart.
#[derive(Debug)]
pub struct AnswerReader {
    reasoning: Option<ReasoningFinder>,
    calls: Option<CallFinder>,
}

impl AnswerReader {
    /// A reader for an answer in this style. `opened` says that the prompt has begun the reasoning; `tools`
    /// are those that the answer may call.
    #[must_use]
    pub fn new(style: Style, opened: bool, tools: Vec<Tool>) -> Self {
        let calls = (!tools.is_empty()).then(|| CallFinder::new(style.notation, tools));
        Self { reasoning: style.thinks.then(|| ReasoningFinder::new(opened)), calls }
    }

    /// Takes more text of the answer. Returns the parts that are certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let parts = match &mut self.reasoning {
            Some(finder) => finder.push(text),
            None => vec![Part::Text(text.to_owned())],
        };
        self.find_calls(parts)
    }

    /// Ends the answer. Returns the rest of its parts.
    pub fn finish(&mut self) -> Vec<Part> {
        let parts = self.reasoning.as_mut().map(ReasoningFinder::finish).unwrap_or_default();
        let mut parts = self.find_calls(parts);
        parts.extend(self.calls.as_mut().map(CallFinder::finish).unwrap_or_default());
        parts
    }

    fn find_calls(&mut self, parts: Vec<Part>) -> Vec<Part> {
        let parts = parts.into_iter().flat_map(|part| match (part, &mut self.calls) {
            (Part::Text(text), Some(finder)) => finder.push(&text),
            (part, _) => vec![part],
        });
        parts
            .filter(|part| !matches!(part, Part::Text(text) | Part::Reasoning(text) if text.is_empty()))
            .collect()
    }
}
