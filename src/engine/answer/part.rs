//! What is found in an answer.

use super::call::Call;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text for the person.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A call of a tool.
    Call(Call),
}
