//! What a worker's answer says about itself: `usage` of OpenAI's API, `timings` of llama.cpp's server, and
//! whether there is text.
//!
//! The built-in engine and llama.cpp's server send `timings` with the last piece of every stream, whether or not
//! the client asked for `usage`. So nothing has to be asked for in the client's name, and nothing has to be taken
//! out of its stream again.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What one piece of an answer says. Unset is what it does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counted {
    /// Whether it has a part of the text, of the reasoning or of a call.
    pub(super) has_text: bool,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) cached_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
    /// How long the evaluation of the prompt took.
    pub(super) prompt_time: Option<Duration>,
    /// How long the generation took.
    pub(super) generation_time: Option<Duration>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    timings: Option<Timings>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<f64>,
    #[serde(default)]
    completion_tokens: Option<f64>,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<f64>,
}

/// llama.cpp's times. `prompt_n` is without the tokens that were in the cache, which are `cache_n`.
#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    cache_n: Option<f64>,
    #[serde(default)]
    prompt_n: Option<f64>,
    #[serde(default)]
    prompt_ms: Option<f64>,
    #[serde(default)]
    predicted_n: Option<f64>,
    #[serde(default)]
    predicted_ms: Option<f64>,
}

/// Reads a whole answer, or the data of one event of a stream; `None` where it is nothing of the kind.
pub(super) fn read(json: &[u8]) -> Option<Counted> {
    let Answer { choices, usage, timings } = serde_json::from_slice(json).ok()?;
    let mut counted =
        Counted { has_text: choices.unwrap_or_default().iter().any(Choice::has_text), ..Counted::default() };
    if let Some(usage) = usage {
        counted.prompt_tokens = usage.prompt_tokens.and_then(count);
        counted.completion_tokens = usage.completion_tokens.and_then(count);
        counted.cached_tokens = usage.prompt_tokens_details.and_then(|d| d.cached_tokens).and_then(count);
    }
    if let Some(Timings { cache_n, prompt_n, prompt_ms, predicted_n, predicted_ms }) = timings {
        let (cached, computed) = (cache_n.and_then(count), prompt_n.and_then(count));
        // Older versions of the server do not tell `cache_n`: then what is not `prompt_n` is unknown.
        let prompt = cached.zip(computed).map(|(cached, computed)| cached + computed);
        counted.prompt_tokens = counted.prompt_tokens.or(prompt);
        counted.cached_tokens = counted.cached_tokens.or(cached).or_else(|| {
            counted.prompt_tokens.zip(computed).map(|(prompt, computed)| prompt.saturating_sub(computed))
        });
        counted.completion_tokens = counted.completion_tokens.or(predicted_n.and_then(count));
        counted.prompt_time = prompt_ms.and_then(time);
        counted.generation_time = predicted_ms.and_then(time);
    }
    Some(counted)
}

impl Choice<'_> {
    fn has_text(&self) -> bool {
        let says_something = |value: &RawValue| !matches!(value.get(), "\"\"" | "null" | "[]" | "{}");
        let delta = self.delta.as_ref().map_or([None; 5], |delta| {
            [delta.content, delta.reasoning_content, delta.reasoning, delta.refusal, delta.tool_calls]
        });
        delta.into_iter().chain([self.text]).flatten().any(says_something)
    }
}

impl Counted {
    /// Takes over what a later piece says.
    pub(super) fn take(&mut self, later: Self) {
        let Self { has_text, prompt_tokens, cached_tokens, completion_tokens, prompt_time, generation_time } =
            later;
        self.has_text |= has_text;
        self.prompt_tokens = prompt_tokens.or(self.prompt_tokens);
        self.cached_tokens = cached_tokens.or(self.cached_tokens);
        self.completion_tokens = completion_tokens.or(self.completion_tokens);
        self.prompt_time = prompt_time.or(self.prompt_time);
        self.generation_time = generation_time.or(self.generation_time);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a count")]
fn count(number: f64) -> Option<u64> {
    (0.0..9e15).contains(&number).then_some(number as u64)
}

/// A time that may be one: a defective engine's is unknown.
fn time(ms: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(ms / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_json(answer: &Value) -> Counted {
        read(answer.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn usage_and_timings_tell_the_same_counts() {
        let usage = json!({"usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15,
                                     "prompt_tokens_details": {"cached_tokens": 8}}});
        let timings = json!({"choices": [], "timings": {"cache_n": 8, "prompt_n": 4, "prompt_ms": 20.5,
                                                        "predicted_n": 3, "predicted_ms": 30}});
        let counts = |c: &Counted| (c.prompt_tokens, c.cached_tokens, c.completion_tokens);
        let (usage, timings) = (read_json(&usage), read_json(&timings));
        assert_eq!(counts(&usage), (Some(12), Some(8), Some(3)));
        assert_eq!(counts(&usage), counts(&timings));
        assert_eq!(timings.prompt_time, Some(Duration::from_micros(20_500)));
        assert_eq!(timings.generation_time, Some(Duration::from_millis(30)));
        assert_eq!(usage.prompt_time, None);

        // Servers that do not tell `cache_n`.
        let older = json!({"timings": {"prompt_n": 4, "predicted_n": 3, "prompt_ms": -1.0}});
        let older = read_json(&older);
        assert_eq!((counts(&older), older.prompt_time), ((None, None, Some(3)), None));
        let older = json!({"usage": {"prompt_tokens": 12}, "timings": {"prompt_n": 4}});
        assert_eq!(read_json(&older).cached_tokens, Some(8));
    }

    #[test]
    fn the_role_is_no_text_and_reasoning_and_calls_are() {
        for (delta, has_text) in [
            (json!({"role": "assistant", "content": ""}), false),
            (json!({"role": "assistant", "content": null}), false),
            (json!({"tool_calls": []}), false),
            (json!({}), false),
            (json!({"content": " "}), true),
            (json!({"reasoning_content": "hm"}), true),
            (json!({"tool_calls": [{"index": 0}]}), true),
        ] {
            assert_eq!(read_json(&json!({"choices": [{"delta": delta}]})).has_text, has_text, "{delta}");
        }
        assert!(read_json(&json!({"choices": [{"text": "a"}]})).has_text);
        assert!(!read_json(&json!({"choices": null, "usage": null})).has_text);
    }

    #[test]
    fn what_is_no_answer_says_nothing() {
        for nothing in ["", "[DONE]", "{\"choices\":7}", "{\"choices\":[", "\"text\""] {
            assert_eq!(read(nothing.as_bytes()), None, "{nothing}");
        }
        let odd = json!({"usage": {"prompt_tokens": -1, "completion_tokens": 1e300}});
        assert_eq!(read_json(&odd), Counted::default());
    }
}
