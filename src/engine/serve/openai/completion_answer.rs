//! The answer to a completion.

use std::sync::Arc;

use serde_json::{Value, json};

use super::completion::CompletionRequest;
use super::head::Head;
use super::logprobs::spelling;
use super::usage::{Usage, timings};
use crate::engine::generation::{FinishReason, GenerationSummary, TokenLogprob};
use crate::engine::serve::answering::Answer;
use crate::engine::serve::choices::Progress;
use crate::engine::tokenizer::{Decoder, Tokenizer};

/// Builds the objects of one answer.
pub(crate) struct CompletionAnswer {
    head: Head,
    choices: Vec<Choice>,
    tokenizer: Arc<Tokenizer>,
    usage: Usage,
}

/// One choice so far.
struct Choice {
    /// The number of its prompt.
    prompt: usize,
    text: String,
    /// Each with the characters of the text before its token.
    logprobs: Option<Vec<(TokenLogprob, usize)>>,
    /// Counts those characters.
    decoder: Decoder,
    characters: usize,
    /// How many of `logprobs` a chunk has had.
    told: usize,
    summary: Option<GenerationSummary>,
}

impl CompletionAnswer {
    /// The answer to `request`; `echoes` are the texts of its prompts, if the answer begins with them.
    pub(crate) fn new(
        model: &str,
        tokenizer: Arc<Tokenizer>,
        request: CompletionRequest,
        echoes: &[String],
    ) -> Self {
        let choices = request.common.choices;
        let choice = |index: usize| Choice {
            prompt: index / choices,
            text: echoes.get(index / choices).cloned().unwrap_or_default(),
            logprobs: request.logprobs.map(|_| Vec::new()),
            decoder: tokenizer.decoder(false),
            characters: 0,
            told: 0,
            summary: None,
        };
        Self {
            choices: (0..request.prompts.len() * choices).map(choice).collect(),
            head: Head::new("cmpl", "text_completion", model, request.common.include_usage, request.ignored),
            tokenizer,
            usage: Usage::default(),
        }
    }

    /// The probabilities of the tokens from `from` on.
    fn logprobs(&self, index: usize, from: usize) -> Value {
        let Some(tokens) = self.choices[index].logprobs.as_ref().filter(|tokens| tokens.len() > from) else {
            return Value::Null;
        };
        let name = |id: u32| String::from_utf8_lossy(&spelling(&self.tokenizer, id)).into_owned();
        let (mut names, mut offsets, mut tops) = (Vec::new(), Vec::new(), Vec::new());
        for (token, offset) in &tokens[from..] {
            offsets.push(*offset);
            names.push(name(token.token));
            tops.push(token.top.iter().map(|(id, logprob)| (name(*id), json!(logprob))).collect::<Value>());
        }
        let probabilities: Vec<f32> = tokens[from..].iter().map(|(token, _)| token.logprob).collect();
        json!({"tokens": names, "token_logprobs": probabilities, "top_logprobs": tops, "text_offset": offsets})
    }

    /// The choices of a chunk.
    fn chunk(&mut self, index: usize, text: &str) -> Value {
        let logprobs = self.logprobs(index, self.choices[index].told);
        let choice = &mut self.choices[index];
        choice.told = choice.logprobs.as_ref().map_or(0, Vec::len);
        json!([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish_reason()}])
    }
}

impl Answer for CompletionAnswer {
    fn begin(&mut self) -> Vec<Value> {
        let echoed = (0..self.choices.len()).filter(|index| !self.choices[*index].text.is_empty());
        let echoed: Vec<(usize, String)> =
            echoed.map(|index| (index, self.choices[index].text.clone())).collect();
        let chunks = echoed.into_iter().map(|(index, text)| {
            let choices = self.chunk(index, &text);
            self.head.chunk(choices)
        });
        chunks.collect()
    }

    fn take(&mut self, index: usize, progress: Progress) -> Vec<Value> {
        match progress {
            Progress::Text(text) => {
                self.choices[index].text.push_str(&text);
                let choices = self.chunk(index, &text);
                vec![self.head.chunk(choices)]
            }
            Progress::Logprob(logprob) => {
                self.choices[index].add(logprob, &self.tokenizer);
                Vec::new()
            }
            Progress::Finished(summary) => {
                let prompt = self.choices[index].prompt;
                let of_prompt = |choice: &&Choice| choice.prompt == prompt;
                let first = self.choices.iter().filter(of_prompt).all(|choice| choice.summary.is_none());
                self.usage.add(&summary, first);
                self.choices[index].summary = Some(summary);
                let choices = self.chunk(index, "");
                vec![self.head.last_chunk(choices, timings(&summary))]
            }
        }
    }

    fn end(&mut self) -> Vec<Value> {
        self.head.usage_chunk(&self.usage.json()).into_iter().collect()
    }

    fn whole(&self) -> Value {
        let choices = self.choices.iter().enumerate().map(|(index, choice)| {
            json!({
                "index": index,
                "text": choice.text,
                "logprobs": self.logprobs(index, 0),
                "finish_reason": choice.finish_reason(),
            })
        });
        let timings = self.choices.first().and_then(|choice| choice.summary.as_ref()).map(timings);
        self.head.whole(choices.collect(), &self.usage.json(), timings.into())
    }
}

impl Choice {
    fn add(&mut self, logprob: TokenLogprob, tokenizer: &Tokenizer) {
        let text = tokenizer.decode_next(&mut self.decoder, logprob.token);
        self.logprobs.get_or_insert_default().push((logprob, self.characters));
        self.characters += text.chars().count();
    }

    fn finish_reason(&self) -> Option<&'static str> {
        Some(match self.summary?.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        })
    }
}
