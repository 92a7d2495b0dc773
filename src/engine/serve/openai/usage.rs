//! What an answer cost: OpenAI's `usage`, and llama.cpp's `timings`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::generation::GenerationSummary;

/// The tokens of an answer. A prompt that several choices answer counts once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    prompt_tokens: usize,
    cached_tokens: usize,
    completion_tokens: usize,
}

impl Usage {
    /// Counts a choice, and its prompt if it is the first choice of that.
    pub(super) fn add(&mut self, summary: &GenerationSummary, first: bool) {
        if first {
            self.prompt_tokens += summary.prompt_tokens;
            self.cached_tokens += summary.cached_tokens;
        }
        self.completion_tokens += summary.completion_tokens;
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        })
    }
}

/// llama.cpp's `timings` of a choice. `prompt_n` counts the evaluated tokens of the prompt, without the cached
/// ones.
pub(super) fn timings(summary: &GenerationSummary) -> Value {
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
