//! What an engine answers, as pieces.

use serde_json::Value;

use crate::dialects::answer::{Answer, Finish, Piece, Usage};

/// The whole answer of an engine; `None` where it is none.
pub(crate) fn answer(body: &Value) -> Option<Answer> {
    body.get("choices")?.get(0)?;
    Some(pieces(body, &mut Calls::default()).into_iter().collect())
}

/// The pieces of an object: of a chunk of a stream, or of a whole answer. Only the first choice is read: no other
/// dialect asks for more. `begun` has the calls of the chunks before.
pub(super) fn pieces(body: &Value, begun: &mut Calls) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let choices = body["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = choices.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0);
    if let Some(choice) = first {
        let said = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(&Value::Null);
        // vLLM's older name, and OpenRouter's.
        let reasoning = text(&said["reasoning_content"]).or_else(|| text(&said["reasoning"]));
        // A completion has its text beside the place of a message.
        let said_text = text(&said["content"]).or_else(|| text(&choice["text"]));
        let tokens = choice["logprobs"]["content"].as_array().filter(|tokens| !tokens.is_empty());
        let tokens = tokens.map(|tokens| Piece::Logprobs(tokens.clone()));
        // They are the text's where there is one.
        let (of_text, of_others) = if said_text.is_some() { (tokens, None) } else { (None, tokens) };
        pieces.extend(of_others.into_iter().chain(reasoning.map(Piece::Reasoning)));
        pieces.extend(of_text.into_iter().chain(said_text.map(Piece::Text)));
        let calls = said["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_whole = choice.get("delta").is_none();
        pieces.extend(calls.iter().enumerate().map(|(at, value)| call(is_whole.then_some(at), value, begun)));
        // vLLM's field, which is a number where a token ended the answer.
        pieces.extend(text(&choice["stop_reason"]).map(Piece::StopString));
        pieces.extend(choice["finish_reason"].as_str().map(|reason| Piece::Finish(finish(reason))));
    }
    pieces.extend(usage(body).map(Piece::Usage));
    pieces
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The calls that a stream has begun: the id of each, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Option<String>>);

impl Calls {
    /// The index of the call that a part without one belongs to: a part with a new id, or with a name alone, begins
    /// a call, and every other one goes on with the last.
    fn index_of(&self, id: Option<&String>, has_name: bool) -> usize {
        let goes_on = match id {
            Some(_) => self.0.iter().position(|known| known.as_ref() == id),
            None if has_name => None,
            None => self.0.len().checked_sub(1),
        };
        goes_on.unwrap_or(self.0.len())
    }

    fn note(&mut self, index: usize, id: Option<&String>) {
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        if id.is_some() {
            self.0[index] = id.cloned();
        }
    }
}

/// A call, or a part of one. Those of a whole answer stand at their place, and have no index.
fn call(at: Option<usize>, value: &Value, begun: &mut Calls) -> Piece {
    let index = value["index"].as_u64().and_then(|index| usize::try_from(index).ok());
    let function = &value["function"];
    let arguments = match &function["arguments"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        // Some engines write the object itself.
        object => object.to_string(),
    };
    let (id, name) = (text(&value["id"]), text(&function["name"]));
    let index = index.or(at).unwrap_or_else(|| begun.index_of(id.as_ref(), name.is_some()));
    // An engine's mistake must not make the list of calls endless.
    let index = index.min(MOST_CALLS - 1);
    begun.note(index, id.as_ref());
    Piece::Call { index, id, name, arguments }
}

/// The most calls of one answer.
const MOST_CALLS: usize = 1024;

fn finish(reason: &str) -> Finish {
    match reason {
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" => Finish::Filtered,
        _ => Finish::Stop,
    }
}

/// The counts of the tokens, and llama.cpp's times.
fn usage(body: &Value) -> Option<Usage> {
    let usage = body.get("usage").filter(|usage| usage.is_object())?;
    let (prompt, completion) = (&usage["prompt_tokens_details"], &usage["completion_tokens_details"]);
    let timings = &body["timings"];
    Some(Usage {
        prompt_tokens: usage["prompt_tokens"].as_u64().unwrap_or(0),
        completion_tokens: usage["completion_tokens"].as_u64().unwrap_or(0),
        cached_tokens: prompt["cached_tokens"].as_u64(),
        reasoning_tokens: completion["reasoning_tokens"].as_u64(),
        prompt_ms: timings["prompt_ms"].as_f64(),
        completion_ms: timings["predicted_ms"].as_f64(),
    })
}
