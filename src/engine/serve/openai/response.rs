//! The response to a chat completion: one object, or the chunks of a stream.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::generation::{FinishReason, GenerationSummary};

/// Builds the JSON objects of one response.
pub(crate) struct ChatResponse {
    id: String,
    /// Seconds since the Unix epoch.
    created: i64,
    model: String,
    /// Whether the stream ends with a chunk of usage. The other chunks then have `"usage": null`.
    include_usage: bool,
    /// The fields of the request that were ignored, which the answer names.
    ignored: Vec<String>,
}

impl ChatResponse {
    pub(crate) fn new(model: &str, include_usage: bool, ignored: Vec<String>) -> Self {
        Self {
            id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
            created: jiff::Timestamp::now().as_second(),
            model: model.to_owned(),
            include_usage,
            ignored,
        }
    }

    /// The complete response, for a request without streaming.
    pub(crate) fn completion(&self, text: &str, summary: &GenerationSummary) -> Value {
        let mut completion = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": null,
                "finish_reason": finish_reason(summary.reason),
            }],
            "usage": usage(summary),
            "timings": timings(summary),
        });
        self.name_ignored(&mut completion);
        completion
    }

    fn name_ignored(&self, answer: &mut Value) {
        if !self.ignored.is_empty() {
            answer["ignored_fields"] = json!(self.ignored);
        }
    }

    /// The first chunk of a stream, with the role.
    pub(crate) fn role_chunk(&self) -> Value {
        self.chunk(json!({"role": "assistant", "content": ""}), Value::Null)
    }

    /// A chunk with text.
    pub(crate) fn text_chunk(&self, text: &str) -> Value {
        self.chunk(json!({"content": text}), Value::Null)
    }

    /// The chunk with the finish reason.
    pub(crate) fn finish_chunk(&self, summary: &GenerationSummary) -> Value {
        let mut chunk = self.chunk(json!({}), finish_reason(summary.reason).into());
        chunk["timings"] = timings(summary);
        self.name_ignored(&mut chunk);
        chunk
    }

    /// The last chunk, if the request has `stream_options.include_usage`.
    pub(crate) fn usage_chunk(&self, summary: &GenerationSummary) -> Option<Value> {
        self.include_usage.then(|| {
            let mut chunk = self.chunk(Value::Null, Value::Null);
            chunk["choices"] = json!([]);
            chunk["usage"] = usage(summary);
            chunk
        })
    }

    fn chunk(&self, delta: Value, finish_reason: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}],
        });
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// OpenAI's `usage`, in tokens.
fn usage(summary: &GenerationSummary) -> Value {
    json!({
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
        "total_tokens": summary.prompt_tokens + summary.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": summary.cached_tokens},
    })
}

/// llama.cpp's `timings`. `prompt_n` counts the evaluated tokens of the prompt, without the cached ones.
fn timings(summary: &GenerationSummary) -> Value {
    let prompt_n = summary.prompt_tokens - summary.cached_tokens;
    json!({
        "cache_n": summary.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": ms(summary.prompt_time),
        "prompt_per_second": per_second(prompt_n, summary.prompt_time),
        "predicted_n": summary.completion_tokens,
        "predicted_ms": ms(summary.generation_time),
        "predicted_per_second": per_second(summary.completion_tokens, summary.generation_time),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// 0 if no time passed, because JSON has no infinity.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
fn per_second(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
