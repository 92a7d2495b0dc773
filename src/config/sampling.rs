//! How an answer is sampled where its request does not say.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Defaults of the fields of a request that steer sampling. Their names are those of llama.cpp's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 always takes the likeliest token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The likeliest tokens whose probabilities sum up to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// So many of the likeliest tokens; 0 is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Tokens at least so many times as likely as the likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Makes recent tokens less likely; 1 does nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f64>,
    /// Makes tokens that were generated less likely.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// The same, with each time that they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Makes the answers to one request alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// The most tokens of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

/// More tokens than any model's context holds, and more than any vocabulary has.
const TOKENS: f64 = 16_777_216.0;

impl Sampling {
    /// llama.cpp's defaults. Those that do nothing are left out.
    ///
    /// Source: `--temp`, `--top-k`, `--top-p` and `--min-p` in
    /// <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>.
    pub const LLAMA_CPP: Self = Self {
        temperature: Some(0.8),
        top_p: Some(0.95),
        top_k: Some(40),
        min_p: Some(0.05),
        repeat_penalty: None,
        presence_penalty: None,
        frequency_penalty: None,
        seed: None,
        max_tokens: None,
    };

    /// These, with those of `other` where these have none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            temperature: self.temperature.or(other.temperature),
            top_p: self.top_p.or(other.top_p),
            top_k: self.top_k.or(other.top_k),
            min_p: self.min_p.or(other.min_p),
            repeat_penalty: self.repeat_penalty.or(other.repeat_penalty),
            presence_penalty: self.presence_penalty.or(other.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(other.frequency_penalty),
            seed: self.seed.or(other.seed),
            max_tokens: self.max_tokens.or(other.max_tokens),
        }
    }

    /// The names of those that are set.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(fields)) => fields.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// The first value that is out of its range, and its range. The ranges are those of requests.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let (top_k, max_tokens) = (self.top_k.map(f64::from), self.max_tokens.map(f64::from));
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("top_k", top_k, 0.0, TOKENS),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 10.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("max_tokens", max_tokens, 1.0, TOKENS),
        ];
        let (name, value, least, most) = ranges.into_iter().find_map(|(name, value, least, most)| {
            value.filter(|value| !(least..=most).contains(value)).map(|value| (name, value, least, most))
        })?;
        Some((name, format!("cannot be {value}: {least} to {most} may be set")))
    }
}
