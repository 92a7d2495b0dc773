//! The answer to a chat completion.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::head::Head;
use super::logprobs;
use super::request::ChatRequest;
use super::usage::{Usage, timings};
use crate::engine::answer::{AnswerReader, Call, Part};
use crate::engine::generation::{FinishReason, GenerationSummary};
use crate::engine::serve::answering::Answer;
use crate::engine::serve::choices::Progress;
use crate::engine::tokenizer::Tokenizer;

/// Builds the objects of one answer.
pub(crate) struct ChatAnswer {
    head: Head,
    choices: Vec<Choice>,
    tokenizer: Arc<Tokenizer>,
    usage: Usage,
    /// Whether a call has the older form, `function_call`.
    functions: bool,
}

/// One choice so far.
struct Choice {
    reader: AnswerReader,
    /// Whether more than one call may be made.
    several: bool,
    content: String,
    reasoning: String,
    calls: Vec<Value>,
    logprobs: Option<Vec<Value>>,
    /// How many of `logprobs` a chunk has had.
    told: usize,
    summary: Option<GenerationSummary>,
}

impl ChatAnswer {
    /// The answer to `request`, of which `reader` reads each choice.
    pub(crate) fn new(
        model: &str,
        tokenizer: Arc<Tokenizer>,
        request: ChatRequest,
        reader: impl Fn() -> AnswerReader,
    ) -> Self {
        let choice = || Choice {
            reader: reader(),
            several: request.tools.several,
            content: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            logprobs: request.logprobs.map(|_| Vec::new()),
            told: 0,
            summary: None,
        };
        Self {
            choices: (0..request.common.choices).map(|_| choice()).collect(),
            head: Head::new(
                "chatcmpl",
                "chat.completion",
                model,
                request.common.include_usage,
                request.ignored,
            ),
            tokenizer,
            usage: Usage::default(),
            functions: request.tools.functions,
        }
    }

    fn chunk(&mut self, index: usize, delta: Value, finish: Option<&str>) -> Value {
        let logprobs = self.choices[index].next_logprobs();
        json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])
    }

    /// The chunks of these parts of a choice.
    fn parts(&mut self, index: usize, parts: Vec<Part>) -> Vec<Value> {
        let mut chunks = Vec::new();
        for part in parts {
            let Some(delta) = self.choices[index].take(part, self.functions) else { continue };
            let choices = self.chunk(index, delta, None);
            chunks.push(self.head.chunk(choices));
        }
        chunks
    }

    fn finish(&mut self, index: usize, summary: GenerationSummary) -> Vec<Value> {
        let rest = self.choices[index].reader.finish();
        let mut chunks = self.parts(index, rest);
        // OpenAI's clients read probabilities beside a text.
        if self.choices[index].has_untold() {
            let choices = self.chunk(index, json!({"content": ""}), None);
            chunks.push(self.head.chunk(choices));
        }
        self.usage.add(&summary, self.choices.iter().all(|choice| choice.summary.is_none()));
        self.choices[index].summary = Some(summary);
        let reason = self.choices[index].finish_reason(self.functions);
        let choices = self.chunk(index, json!({}), reason);
        chunks.push(self.head.last_chunk(choices, timings(&summary)));
        chunks
    }
}

impl Answer for ChatAnswer {
    fn begin(&mut self) -> Vec<Value> {
        let indices = 0..self.choices.len();
        indices
            .map(|index| {
                let choices = self.chunk(index, json!({"role": "assistant", "content": ""}), None);
                self.head.chunk(choices)
            })
            .collect()
    }

    fn take(&mut self, index: usize, progress: Progress) -> Vec<Value> {
        match progress {
            Progress::Text(text) => {
                let parts = self.choices[index].reader.push(&text);
                self.parts(index, parts)
            }
            Progress::Logprob(logprob) => {
                let told = logprobs::of_chat(&self.tokenizer, &logprob);
                self.choices[index].logprobs.get_or_insert_default().push(told);
                Vec::new()
            }
            Progress::Finished(summary) => self.finish(index, summary),
        }
    }

    fn end(&mut self) -> Vec<Value> {
        self.head.usage_chunk(&self.usage.json()).into_iter().collect()
    }

    fn whole(&self) -> Value {
        let choices = self.choices.iter().enumerate().map(|(index, choice)| {
            json!({
                "index": index,
                "message": choice.message(self.functions),
                "logprobs": choice.logprobs.as_ref().map(|tokens| json!({"content": tokens, "refusal": null})),
                "finish_reason": choice.finish_reason(self.functions),
            })
        });
        let timings = self.choices.first().and_then(|choice| choice.summary.as_ref()).map(timings);
        self.head.whole(choices.collect(), &self.usage.json(), timings.into())
    }
}

impl Choice {
    /// Adds a part. Returns its delta; `None` for a call of which the request has no use.
    fn take(&mut self, part: Part, functions: bool) -> Option<Value> {
        match part {
            Part::Text(text) => {
                self.content.push_str(&text);
                Some(json!({"content": text}))
            }
            Part::Reasoning(text) => {
                self.reasoning.push_str(&text);
                Some(json!({"reasoning_content": text}))
            }
            Part::Call(_) if !self.several && !self.calls.is_empty() => None,
            Part::Call(Call { name, arguments }) => {
                let function = json!({"name": name, "arguments": arguments});
                let mut call = json!({"id": call_id(), "type": "function", "function": function});
                self.calls.push(call.clone());
                call["index"] = (self.calls.len() - 1).into();
                Some(match functions {
                    true => json!({"function_call": function}),
                    false => json!({"tool_calls": [call]}),
                })
            }
        }
    }

    fn message(&self, functions: bool) -> Value {
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        // What only calls tools says nothing.
        let silent = self.content.is_empty() && !self.calls.is_empty();
        message.insert("content".to_owned(), if silent { Value::Null } else { self.content.clone().into() });
        message.insert("refusal".to_owned(), Value::Null);
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".to_owned(), self.reasoning.clone().into());
        }
        match self.calls.first() {
            Some(call) if functions => {
                message.insert("function_call".to_owned(), call["function"].clone());
            }
            Some(_) => {
                message.insert("tool_calls".to_owned(), self.calls.clone().into());
            }
            None => {}
        }
        message.into()
    }

    fn finish_reason(&self, functions: bool) -> Option<&'static str> {
        Some(match self.summary?.reason {
            FinishReason::Length => "length",
            FinishReason::Stop if self.calls.is_empty() => "stop",
            FinishReason::Stop if functions => "function_call",
            FinishReason::Stop => "tool_calls",
        })
    }

    fn has_untold(&self) -> bool {
        self.logprobs.as_ref().is_some_and(|tokens| tokens.len() > self.told)
    }

    /// The probabilities that no chunk has had so far.
    fn next_logprobs(&mut self) -> Option<Value> {
        let tokens = self.logprobs.as_ref().filter(|tokens| tokens.len() > self.told)?;
        let rest = json!({"content": tokens[self.told..], "refusal": null});
        self.told = tokens.len();
        Some(rest)
    }
}

/// The templates of Mistral's models take an id of exactly nine letters and digits, and no other cares.
fn call_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(9);
    id
}
