//! Where the time of some requests went, on average.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::requests::Record;

/// Averages over some requests. The times add up to `total_ms`.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = TimeAverages)]
pub(crate) struct Averages {
    pub(crate) queue_ms: f64,
    pub(crate) load_ms: f64,
    pub(crate) prompt_ms: f64,
    pub(crate) generation_ms: f64,
    /// What is in none of the others, or was not told.
    pub(crate) other_ms: f64,
    pub(crate) total_ms: f64,
    pub(crate) time_to_first_token_ms: Option<f64>,
    pub(crate) prompt_tokens: Option<f64>,
    pub(crate) cached_tokens: Option<f64>,
    pub(crate) completion_tokens: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
}

impl Averages {
    /// The averages over the requests that have ended, or over all where none has; `None` without any.
    pub(super) fn over(records: &[Arc<Record>]) -> Option<Self> {
        let ended: Vec<_> = records.iter().filter(|record| record.outcome.is_some()).collect();
        let records = if ended.is_empty() { records.iter().collect() } else { ended };
        let average = |value: fn(&Record) -> Option<f64>| {
            let values: Vec<f64> = records.iter().filter_map(|record| value(record)).collect();
            #[expect(clippy::cast_precision_loss, reason = "there are at most a few hundred")]
            let count = values.len() as f64;
            (count > 0.0).then(|| rounded(values.iter().sum::<f64>() / count))
        };
        let total_ms = average(|record| Some(ms(record.times.total)))?;
        // What nobody told counts as 0 here, so that the parts add up.
        let part = |value: fn(&Record) -> Option<Duration>| {
            let sum: f64 = records.iter().filter_map(|record| value(record)).map(ms).sum();
            #[expect(clippy::cast_precision_loss, reason = "there are at most a few hundred")]
            rounded(sum / records.len() as f64)
        };
        let queue_ms = part(|record| record.times.queue);
        let load_ms = part(|record| record.times.load);
        let prompt_ms = part(|record| record.times.prompt);
        let generation_ms = part(|record| record.times.generation);
        #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
        Some(Self {
            queue_ms,
            load_ms,
            prompt_ms,
            generation_ms,
            other_ms: rounded(total_ms - queue_ms - load_ms - prompt_ms - generation_ms).max(0.0),
            total_ms,
            time_to_first_token_ms: average(|record| record.times.first_token.map(ms)),
            prompt_tokens: average(|record| record.tokens.prompt.map(|tokens| tokens as f64)),
            cached_tokens: average(|record| record.tokens.cached.map(|tokens| tokens as f64)),
            completion_tokens: average(|record| record.tokens.completion.map(|tokens| tokens as f64)),
            tokens_per_second: average(|record| record.tokens.per_second),
        })
    }

    /// The share of the whole time that this part takes.
    pub(super) fn share(&self, part_ms: f64) -> f64 {
        if self.total_ms > 0.0 { ((part_ms / self.total_ms).min(1.0) * 100.0).round() / 100.0 } else { 0.0 }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// With one decimal.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
