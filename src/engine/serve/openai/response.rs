//! The answer to a chat completion: one object, or chunks.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::generation::{Finish, FinishReason};

/// What all objects of one answer share.
pub(in crate::engine::serve) struct Reply {
    id: String,
    /// Seconds since the Unix epoch.
    created: i64,
    model: String,
    /// Whether the stream ends with a chunk of usage; the others then say `"usage": null`.
    include_usage: bool,
}

impl Reply {
    pub(in crate::engine::serve) fn new(model: &str, include_usage: bool) -> Self {
        Self {
            id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
            created: jiff::Timestamp::now().as_second(),
            model: model.to_owned(),
            include_usage,
        }
    }

    /// The whole answer.
    pub(in crate::engine::serve) fn completion(&self, text: &str, finish: &Finish) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": null,
                "finish_reason": reason(finish.reason),
            }],
            "usage": usage(finish),
            "timings": timings(finish),
        })
    }

    /// The first chunk of a stream.
    pub(in crate::engine::serve) fn role_chunk(&self) -> Value {
        self.chunk(json!({"role": "assistant", "content": ""}), Value::Null)
    }

    /// A chunk with text.
    pub(in crate::engine::serve) fn text_chunk(&self, text: &str) -> Value {
        self.chunk(json!({"content": text}), Value::Null)
    }

    /// The last chunk of a stream with a choice.
    pub(in crate::engine::serve) fn finish_chunk(&self, finish: &Finish) -> Value {
        let mut chunk = self.chunk(json!({}), reason(finish.reason).into());
        chunk["timings"] = timings(finish);
        chunk
    }

    /// What `stream_options.include_usage` adds after it.
    pub(in crate::engine::serve) fn usage_chunk(&self, finish: &Finish) -> Option<Value> {
        self.include_usage.then(|| {
            let mut chunk = self.chunk(Value::Null, Value::Null);
            chunk["choices"] = json!([]);
            chunk["usage"] = usage(finish);
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

fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// OpenAI's `usage`, in tokens.
fn usage(finish: &Finish) -> Value {
    json!({
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_tokens},
    })
}

/// llama.cpp's `timings`. `prompt_n` counts the tokens that were computed, without the cached ones.
fn timings(finish: &Finish) -> Value {
    let prompt_n = finish.prompt_tokens - finish.cached_tokens;
    json!({
        "cache_n": finish.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": ms(finish.prompt_time),
        "prompt_per_second": per_second(prompt_n, finish.prompt_time),
        "predicted_n": finish.completion_tokens,
        "predicted_ms": ms(finish.generation_time),
        "predicted_per_second": per_second(finish.completion_tokens, finish.generation_time),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Zero where no time passed: JSON has no infinity.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
fn per_second(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
