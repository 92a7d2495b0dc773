//! The way of one request to the first byte of its answer: it gets a worker, waiting for one if it must, and
//! asks that worker.
//!
//! Where the worker is lost before the client has a byte, the request goes to another worker, once: another
//! ready one, or the one that is loaded next. An engine may have computed for it already, but a completion
//! changes nothing, so it may be repeated.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::future::BoxFuture;
use reqwest::Client;
use tokio::sync::watch;
use tracing::Instrument;

use super::exchange::{Answer, AnswerKind, NoAnswer, Upstream, ask};
use super::whole;
use crate::config::KeepAlive;
use crate::error::Failure;
use crate::requests::Recorder;
use crate::residency::{Admission, Admissions, Asking, Refused, Settled, Watch};
use crate::settings::Defaults;
use crate::traces::TARGET;
use crate::workers::{Endpoint, Route, Supervisor};

/// How long the end of a lost worker may take to be known. Until then it would be chosen again.
const END_LIMIT: Duration = Duration::from_secs(3);

/// One request.
pub(super) struct Attempt {
    pub(super) admissions: Admissions,
    pub(super) workers: Supervisor,
    pub(super) client: Client,
    pub(super) asking: Asking,
    pub(super) route: Route,
    pub(super) body: Bytes,
    /// What it gets where its body does not say.
    pub(super) defaults: Defaults,
    /// How long the worker that answers stays without a request from now on.
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) shown: watch::Sender<Shown>,
    pub(super) recorder: Recorder,
}

/// What a request waits for, for its client.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// Its place in the queue, while it has one.
    pub(super) queued: Option<Watch>,
    /// The load that it has waited for.
    pub(super) job_id: Option<Arc<str>>,
}

/// An answer that has begun to arrive.
pub(super) enum Begun {
    /// All of it.
    Whole { pid: u32, status: StatusCode, headers: HeaderMap, body: Bytes },
    /// Its head and its first bytes.
    Events(Box<Answer>),
}

/// An answer that is awaited.
pub(super) type Awaited = BoxFuture<'static, Result<Begun, Refused>>;

impl Attempt {
    /// The answer, as soon as its first byte is there.
    pub(super) async fn answer(mut self) -> Result<Begun, Refused> {
        let endpoint = self.worker().await?;
        let (pid, gone) = (endpoint.pid, endpoint.guard.gone());
        let lost = match self.ask(endpoint).await? {
            Err(NoAnswer::WorkerLost(failure)) => failure,
            answer => return answer.map_err(|invalid| Failure::from(invalid).into()),
        };
        tracing::info!(pid, model = %self.asking.model, failure = %lost, "a request goes to another worker");
        // A worker that lives all the same may be asked again.
        let _is_known = tokio::time::timeout(END_LIMIT, gone).await;
        self.asking.preference.avoided = Some(pid);
        let Ok(other) = self.worker().await else { return Err(lost.into()) };
        self.ask(other).await?.map_err(|failed| Failure::from(failed).into())
    }

    /// Asks this worker.
    async fn ask(&self, endpoint: Endpoint) -> Result<Result<Begun, NoAnswer>, Refused> {
        let body = match self.route {
            Route::Chat | Route::Completions | Route::ApplyTemplate => {
                self.defaults.fill(&self.body, endpoint.has_llama_cpp_fields)
            }
            _ => self.body.clone(),
        };
        let upstream = Upstream::new(endpoint, self.route, &self.admissions)?;
        Ok(begin(&self.client, upstream, body).instrument(self.recorder.span()).await)
    }

    /// A worker for the request, as soon as it is its turn.
    async fn worker(&self) -> Result<Endpoint, Refused> {
        let span = tracing::debug_span!(target: TARGET, "queue", model = &*self.asking.model);
        let admission = span.in_scope(|| self.admissions.admit(&self.asking));
        let endpoint = match admission? {
            Admission::Now(endpoint) => endpoint,
            Admission::Waiting(waiter) => {
                self.shown.send_modify(|shown| shown.queued = Some(waiter.watch()));
                let Settled { outcome, job_id } = waiter.instrument(span).await;
                if let Some(job_id) = &job_id {
                    self.recorder.waited_for(job_id);
                }
                self.shown.send_modify(|shown| {
                    shown.queued = None;
                    shown.job_id = job_id.or(shown.job_id.take());
                });
                outcome?
            }
        };
        self.recorder.sent(endpoint.served_by());
        if let Some(keep_alive) = self.keep_alive {
            self.workers.keep(endpoint.pid, keep_alive);
        }
        Ok(endpoint)
    }
}

/// Asks a worker and waits for the first byte of its answer, or for all of an answer in JSON.
pub(super) async fn begin(client: &Client, upstream: Upstream, body: Bytes) -> Result<Begun, NoAnswer> {
    let mut answer = ask(client, upstream, body).await?;
    match answer.kind {
        AnswerKind::Json => {
            let body = whole::read(&mut answer, whole::MAX_ANSWER).await?;
            Ok(Begun::Whole { pid: answer.pid, status: answer.status, headers: answer.headers, body })
        }
        AnswerKind::Events => {
            answer.begin().await?;
            Ok(Begun::Events(Box::new(answer)))
        }
    }
}
