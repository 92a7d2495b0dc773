//! What a client of the generation thread sends and receives.

use std::sync::Arc;
use std::time::Duration;

use super::logprobs::TokenLogprob;
use super::thinking::ThinkingLimit;
use crate::engine::constraint::Constraint;
use crate::engine::sampling::SamplingParams;
use crate::error::Failure;

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// The prompt's tokens: at least one.
    pub prompt: Arc<[u32]>,
    /// Whether the answer is a text of its own, so that the space which SentencePiece puts before a text is none of it.
    pub begins_text: bool,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// What the text must be.
    pub constraint: Option<Constraint>,
    /// How much the model may think; without a limit, it thinks as long as it likes.
    pub thinking: Option<ThinkingLimit>,
    /// Most tokens to generate; as many as fit the context if absent.
    pub max_tokens: Option<usize>,
    /// Strings that end the generation and are not part of the text.
    pub stop: Vec<String>,
    /// The control tokens whose names are part of the text, because whoever reads it looks for them.
    pub marks: Arc<[u32]>,
    /// How many of the likeliest tokens to tell beside each generated one; `None` tells no probabilities.
    pub logprobs: Option<usize>,
}

impl GenerationRequest {
    /// The same for each of so many choices. Their seeds count up from that of the first.
    #[must_use]
    pub fn choices(&self, count: usize) -> Vec<Self> {
        let choice = |index: u64| {
            let mut choice = self.clone();
            choice.sampling.seed = choice.sampling.seed.map(|seed| seed.wrapping_add(index));
            choice
        };
        (0..).take(count).map(choice).collect()
    }
}

/// What happens to a request, in order.
#[derive(Debug)]
pub enum GenerationEvent {
    /// More text, in complete characters.
    Text(String),
    /// The probability of the token that was generated next, after all the text of the tokens before it.
    Logprob(TokenLogprob),
    /// The embedding of the text. No event follows.
    Embedding(Vec<f32>),
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
