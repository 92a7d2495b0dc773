//! One request, as logs, events and readers see it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::time::Instant;

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RequestState)]
pub(crate) enum State {
    /// Nothing of the answer is there.
    Started,
    /// The first token is there.
    Answering,
    Ended,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The whole answer was there.
    Completed,
    /// It was not answered, or not to the end, and the request is not to blame.
    Failed,
    /// It was not as it has to be, or there was no room for it in the queue.
    Refused,
    /// The client did not wait for the end.
    ClientGone,
}

impl Outcome {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::ClientGone => "client_gone",
        }
    }
}

/// One request. Its fields have the order of the wire.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Request)]
pub(crate) struct Record {
    #[schema(value_type = String)]
    pub(crate) request_id: Arc<str>,
    pub(crate) state: State,
    /// When the hive accepted it.
    pub(crate) started_at: Instant,
    /// Who sent it.
    pub(crate) caller: Arc<str>,
    /// The id of the model; unset where the request named none that the hive knows.
    #[schema(value_type = Option<String>)]
    pub(crate) model: Option<Arc<str>>,
    /// The hive that it was sent to last, where that is another one of the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) hive: Option<Arc<str>>,
    /// The process id of the worker that it was sent to last.
    pub(crate) worker: Option<u32>,
    /// The job of the load that it waited for.
    #[schema(value_type = Option<String>)]
    pub(crate) job_id: Option<Arc<str>>,
    /// Whether it asked for a stream.
    pub(crate) streams: bool,
    /// Whether its worker had answered the beginning of the conversation before.
    pub(crate) continues: bool,
    pub(crate) outcome: Option<Outcome>,
    /// The code of the error that ended it.
    #[schema(value_type = Option<String>)]
    pub(crate) code: Option<Arc<str>>,
    #[serde(flatten)]
    pub(crate) times: Times,
    #[serde(flatten)]
    pub(crate) tokens: Tokens,
    /// How many workers it was sent to before the last one.
    pub(crate) retries: u32,
}

/// Where its time went. Unset is unknown, or has not happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = RequestTimes)]
pub(crate) struct Times {
    /// The wait for a worker, once its model was known, without the load of that worker.
    #[serde(rename = "queue_ms", serialize_with = "ms")]
    #[schema(value_type = Option<f64>)]
    pub(crate) queue: Option<Duration>,
    /// The part of the wait in which its worker loaded the model.
    #[serde(rename = "load_ms", serialize_with = "ms")]
    #[schema(value_type = Option<f64>)]
    pub(crate) load: Option<Duration>,
    /// From its acceptance to the first token, or to where it was sent plus what the engine says that the prompt
    /// took.
    #[serde(rename = "time_to_first_token_ms", serialize_with = "ms")]
    #[schema(value_type = Option<f64>)]
    pub(crate) first_token: Option<Duration>,
    /// The evaluation of the prompt.
    #[serde(rename = "prompt_ms", serialize_with = "ms")]
    #[schema(value_type = Option<f64>)]
    pub(crate) prompt: Option<Duration>,
    /// From the first token to the last.
    #[serde(rename = "generation_ms", serialize_with = "ms")]
    #[schema(value_type = Option<f64>)]
    pub(crate) generation: Option<Duration>,
    /// From its acceptance to its end, or until now.
    #[serde(rename = "total_ms", serialize_with = "some_ms")]
    #[schema(value_type = f64)]
    pub(crate) total: Duration,
}

/// What was counted. Unset is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = RequestTokens)]
pub(crate) struct Tokens {
    /// Tokens of the prompt, cached ones included.
    #[serde(rename = "prompt_tokens")]
    pub(crate) prompt: Option<u64>,
    /// Those of them that the worker had computed for an earlier request.
    #[serde(rename = "cached_tokens")]
    pub(crate) cached: Option<u64>,
    #[serde(rename = "completion_tokens")]
    pub(crate) completion: Option<u64>,
    /// Whether the engine did not count the tokens of the completion: they are the pieces of the stream.
    #[serde(rename = "tokens_are_estimated")]
    pub(crate) are_estimated: bool,
    /// Tokens that were generated in a second.
    #[serde(rename = "tokens_per_second", serialize_with = "rounded")]
    pub(crate) per_second: Option<f64>,
}

/// Milliseconds with one decimal.
pub(crate) fn in_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn some_ms<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(in_ms(*time))
}

pub(super) fn ms<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(in_ms).serialize(serializer)
}

pub(super) fn rounded<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(|number| (number * 10.0).round() / 10.0).serialize(serializer)
}
