//! The last answers of one worker, and their averages.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::record::{Outcome, Record, Times, Tokens, ms, rounded};

/// How many answers count.
const ANSWERS: usize = 32;

/// The last answers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<Answer>>);

#[derive(Debug)]
struct Answer {
    queue: Option<Duration>,
    first_token: Option<Duration>,
    tokens: Tokens,
}

/// Averages over the last answers; unset where none of them tells.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = RecentAverages)]
pub struct Averages {
    /// The wait for a worker.
    #[serde(serialize_with = "ms", rename = "queue_ms")]
    #[schema(value_type = Option<f64>)]
    pub queue: Option<Duration>,
    /// From the acceptance of a request to its first token.
    #[serde(serialize_with = "ms", rename = "time_to_first_token_ms")]
    #[schema(value_type = Option<f64>)]
    pub time_to_first_token: Option<Duration>,
    /// Tokens that are generated in a second, for one request.
    #[serde(serialize_with = "rounded")]
    pub tokens_per_second: Option<f64>,
    /// Tokens of a prompt, cached ones included.
    #[serde(serialize_with = "rounded")]
    pub prompt_tokens: Option<f64>,
    /// Those of them that the worker had computed before.
    #[serde(serialize_with = "rounded")]
    pub cached_tokens: Option<f64>,
}

impl Recent {
    pub(super) fn add(&self, record: &Record) {
        if record.outcome != Some(Outcome::Completed) {
            return;
        }
        let mut answers = self.0.lock();
        if answers.len() == ANSWERS {
            answers.pop_front();
        }
        let Times { queue, first_token, .. } = record.times;
        answers.push_back(Answer { queue, first_token, tokens: record.tokens.clone() });
    }

    pub(crate) fn averages(&self) -> Averages {
        let answers = self.0.lock();
        let time = |which: fn(&Answer) -> Option<Duration>| {
            let seconds = answers.iter().map(|answer| which(answer).map(|time| time.as_secs_f64()));
            average(seconds).map(Duration::from_secs_f64)
        };
        #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
        let tokens = |which: fn(&Tokens) -> Option<u64>| {
            average(answers.iter().map(|answer| which(&answer.tokens).map(|tokens| tokens as f64)))
        };
        Averages {
            queue: time(|answer| answer.queue),
            time_to_first_token: time(|answer| answer.first_token),
            tokens_per_second: average(answers.iter().map(|answer| answer.tokens.per_second)),
            prompt_tokens: tokens(|tokens| tokens.prompt),
            cached_tokens: tokens(|tokens| tokens.cached),
        }
    }
}

/// The average of what is known.
fn average(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values.flatten().fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
