//! The inner form of an answer: pieces as they arrive, or all of it.

use serde_json::Value;

use super::chat::ToolCall;

/// A piece of an answer. They come in the order of generation: reasoning, text and calls, then [`Piece::Finish`],
/// then [`Piece::Usage`] where the engine tells it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Reasoning(String),
    Text(String),
    /// A part of the call of that index. The first of a call has the id and the name.
    Call {
        index: usize,
        id: Option<String>,
        name: Option<String>,
        arguments: String,
    },
    /// The log probabilities of the tokens of the piece that comes next, as OpenAI's `logprobs.content` has them.
    Logprobs(Vec<Value>),
    /// The stop string that ended the answer, before [`Piece::Finish`]. Few engines tell it.
    StopString(String),
    Finish(Finish),
    Usage(Usage),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model ended it, or a stop string.
    #[default]
    Stop,
    /// The limit of tokens or of the context.
    Length,
    /// It calls tools.
    ToolCalls,
    /// The engine held something back.
    Filtered,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    /// Those of the prompt that the engine had in its cache.
    pub(crate) cached_tokens: Option<u64>,
    /// Those of the answer that are reasoning, where the engine counts them.
    pub(crate) reasoning_tokens: Option<u64>,
    /// How long the engine took for the prompt, in milliseconds.
    pub(crate) prompt_ms: Option<f64>,
    /// How long it took for the answer, in milliseconds.
    pub(crate) completion_ms: Option<f64>,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) reasoning: String,
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) logprobs: Vec<Value>,
    pub(crate) stop_string: Option<String>,
    pub(crate) finish: Finish,
    pub(crate) usage: Option<Usage>,
}

impl Answer {
    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Reasoning(text) => self.reasoning.push_str(&text),
            Piece::Text(text) => self.text.push_str(&text),
            Piece::Call { index, id, name, arguments } => {
                if self.calls.len() <= index {
                    self.calls.resize_with(index + 1, ToolCall::default);
                }
                let call = &mut self.calls[index];
                call.id = id.unwrap_or(std::mem::take(&mut call.id));
                call.name = name.unwrap_or(std::mem::take(&mut call.name));
                call.arguments.push_str(&arguments);
            }
            Piece::Logprobs(tokens) => self.logprobs.extend(tokens),
            Piece::StopString(stop) => self.stop_string = Some(stop),
            Piece::Finish(finish) => self.finish = finish,
            Piece::Usage(usage) => self.usage = Some(usage),
        }
    }
}

impl FromIterator<Piece> for Answer {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let mut answer = Self::default();
        pieces.into_iter().for_each(|piece| answer.push(piece));
        answer
    }
}
