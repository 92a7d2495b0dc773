//! What a client of the generation thread sends and receives.

use std::time::Duration;

use crate::engine::constraint::Constraint;
use crate::engine::sampling::SamplingParams;
use crate::error::Failure;

/// What to generate.
#[derive(Debug)]
pub struct GenerationRequest {
    /// The prompt's tokens: at least one.
    pub prompt: Vec<u32>,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// What the text must be.
    pub constraint: Option<Constraint>,
    /// Most tokens to generate; as many as fit the context if absent.
    pub max_tokens: Option<usize>,
    /// Strings that end the generation and are not part of the text.
    pub stop: Vec<String>,
}

/// What happens to a request, in order.
#[derive(Debug)]
pub enum GenerationEvent {
    /// More text, in complete characters.
    Text(String),
    /// The generation ended. No event follows.
    Finished(GenerationSummary),
    /// The generation failed. No event follows.
    Failed(Failure),
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, a stop string was generated, or the constraint allows nothing more.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// How a generation ended, with its token counts and times.
#[derive(Clone, Copy, Debug)]
pub struct GenerationSummary {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that the slot's cache held from an earlier sequence.
    pub cached_tokens: usize,
    /// Generated tokens, including the one that ended the turn.
    pub completion_tokens: usize,
    /// From the start in a slot to the end of the prompt.
    pub prompt_time: Duration,
    /// From the end of the prompt to the end of the generation.
    pub generation_time: Duration,
}
