//! A request under way: what has happened so far.

use std::sync::Arc;
use std::time::{Duration, Instant as Moment};

use tracing::Span;
use tracing::field::Empty;

use super::counted::Counted;
use super::recent::Recent;
use super::record::{Outcome, Record, State, Times, Tokens};
use crate::time::{Instant, monotonic};
use crate::traces::TARGET;

/// The worker that a request is sent to.
#[derive(Clone, Debug)]
pub(crate) struct ServedBy {
    /// Its process id.
    pub(crate) pid: u32,
    /// When it began to load and when it was ready, if this hive loaded it.
    pub(crate) loaded_within: Option<(Moment, Moment)>,
    /// Whether it has answered the beginning of the conversation before.
    pub(crate) knows_conversation: bool,
    /// Its last answers.
    pub(crate) recent: Arc<Recent>,
}

/// What has happened so far.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Arc<str>,
    caller: Arc<str>,
    started_at: Instant,
    began: Moment,
    pub(super) model: Option<Arc<str>>,
    pub(super) streams: bool,
    /// The job of the load that it waited for.
    pub(super) job_id: Option<Arc<str>>,
    pub(super) served_by: Option<ServedBy>,
    /// The hive that it is sent to, where that is another one.
    pub(super) hive: Option<Arc<str>>,
    /// When its model was known.
    pub(super) asked: Option<Moment>,
    /// When it was first sent to a worker.
    pub(super) first_sent: Option<Moment>,
    /// How long it waited while its worker loaded.
    pub(super) load: Duration,
    /// How many workers it was sent to.
    pub(super) sends: u32,
    pub(super) sent: Option<Moment>,
    pub(super) first_token: Option<Moment>,
    pub(super) ended: Option<Moment>,
    pub(super) outcome: Option<Outcome>,
    pub(super) code: Option<Arc<str>>,
    pub(super) counted: Counted,
    /// Pieces of a stream that had text.
    pub(super) pieces: u64,
    /// The answer of the worker, for traces.
    pub(super) span: Span,
}

/// An id for a request.
pub(crate) fn new_request_id() -> String {
    format!("req-{}", uuid::Uuid::now_v7())
}

impl Request {
    pub(super) fn new(caller: Arc<str>) -> Self {
        Self {
            id: new_request_id().into(),
            caller,
            started_at: Instant::now(),
            began: monotonic(),
            model: None,
            streams: false,
            job_id: None,
            served_by: None,
            hive: None,
            asked: None,
            first_sent: None,
            load: Duration::ZERO,
            sends: 0,
            sent: None,
            first_token: None,
            ended: None,
            outcome: None,
            code: None,
            counted: Counted::default(),
            pieces: 0,
            span: Span::none(),
        }
    }

    /// What is known of it at this moment.
    pub(super) fn record(&self) -> Record {
        let state = match (self.ended, self.first_token) {
            (Some(_), _) => State::Ended,
            (None, Some(_)) => State::Answering,
            (None, None) => State::Started,
        };
        let times = self.times();
        Record {
            request_id: Arc::clone(&self.id),
            state,
            started_at: self.started_at,
            caller: Arc::clone(&self.caller),
            model: self.model.clone(),
            hive: self.hive.clone(),
            worker: self.served_by.as_ref().map(|worker| worker.pid),
            job_id: self.job_id.clone(),
            streams: self.streams,
            continues: self.served_by.as_ref().is_some_and(|worker| worker.knows_conversation),
            outcome: self.outcome,
            code: self.code.clone(),
            tokens: self.tokens(&times),
            times,
            retries: self.sends.saturating_sub(1),
        }
    }

    /// It goes to this worker.
    pub(super) fn send(&mut self, worker: ServedBy) {
        let now = monotonic();
        if self.first_sent.is_none() {
            self.first_sent = Some(now);
            // The part of the wait in which the worker loaded.
            self.load = worker.loaded_within.zip(self.asked).map_or(Duration::ZERO, |((from, to), asked)| {
                to.min(now).saturating_duration_since(from.max(asked))
            });
        }
        self.span = tracing::debug_span!(
            target: TARGET, "engine", otel.kind = "client", model = self.model.as_deref(), worker = worker.pid,
            outcome = Empty, prompt_tokens = Empty, cached_tokens = Empty, completion_tokens = Empty
        );
        (self.sent, self.served_by, self.hive) = (Some(now), Some(worker), None);
        self.sends += 1;
    }

    /// It goes to another hive.
    pub(super) fn send_to_hive(&mut self, hive: Arc<str>) {
        let now = monotonic();
        self.first_sent.get_or_insert(now);
        self.span = tracing::debug_span!(
            target: TARGET, "engine", otel.kind = "client", model = self.model.as_deref(), hive = &*hive,
            outcome = Empty, prompt_tokens = Empty, cached_tokens = Empty, completion_tokens = Empty
        );
        (self.sent, self.served_by, self.hive) = (Some(now), None, Some(hive));
        self.sends += 1;
    }

    /// Ends the span of the worker's answer with what was counted.
    pub(super) fn end_span(&mut self, record: &Record) {
        let span = std::mem::replace(&mut self.span, Span::none());
        span.record("outcome", record.outcome.map(Outcome::name));
        span.record("prompt_tokens", record.tokens.prompt);
        span.record("cached_tokens", record.tokens.cached);
        span.record("completion_tokens", record.tokens.completion);
    }

    fn times(&self) -> Times {
        let until = |from: Option<Moment>, to: Option<Moment>| Some(to?.saturating_duration_since(from?));
        let now = self.ended.unwrap_or_else(monotonic);
        let is_awaited = self.streams && self.first_token.is_none() && self.ended.is_none();
        let prompt = self.counted.prompt_time.or_else(|| {
            // An answer that comes as a whole does not show its first token.
            until(self.sent, if is_awaited { Some(now) } else { self.first_token })
        });
        let seen = until(Some(self.began), self.first_token);
        let told = until(Some(self.began), self.sent).zip(self.counted.prompt_time).map(|(a, b)| a + b);
        Times {
            queue: until(self.asked, self.first_sent.or(Some(now)))
                .map(|wait| wait.saturating_sub(self.load)),
            load: self.first_sent.map(|_| self.load),
            first_token: seen.or(told),
            prompt,
            generation: self.counted.generation_time.or_else(|| until(self.first_token, Some(now))),
            total: now.saturating_duration_since(self.began),
        }
    }

    fn tokens(&self, times: &Times) -> Tokens {
        let Counted { prompt_tokens, cached_tokens, completion_tokens, generation_time, .. } = self.counted;
        let are_estimated = completion_tokens.is_none() && self.pieces > 0;
        let completion = completion_tokens.or(are_estimated.then_some(self.pieces));
        let per_second = completion.zip(times.generation).and_then(|(tokens, time)| {
            // As the hive sees it, the time of the first token is that of the prompt.
            let tokens = if generation_time.is_some() { tokens } else { tokens.saturating_sub(1) };
            per_second(tokens, time)
        });
        Tokens { prompt: prompt_tokens, cached: cached_tokens, completion, are_estimated, per_second }
    }
}

/// `None` where there is nothing to divide.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
fn per_second(tokens: u64, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}
