//! The way of one request to the first byte of its answer: it gets a worker, waiting for one if it must, and
//! asks that worker. In a fleet it may be another hive that is asked, whose gateway does the same there.
//!
//! Where the worker or the hive is lost before the client has a byte, the request goes to another one, once: another
//! ready one, or the one that is loaded next. An engine may have computed for it already, but a completion
//! changes nothing, so it may be repeated.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tracing::Instrument;

use super::context::grow;
use super::elsewhere::{Elsewhere, Place};
use super::exchange::{Answer, AnswerKind, Answerer, NoAnswer, Upstream, ask};
use super::forwarded::Forwarded;
use super::whole;
use crate::app::AppState;
use crate::config::KeepAlive;
use crate::error::Failure;
use crate::fleet::{HiveName, Holder};
use crate::requests::Recorder;
use crate::residency::{Admission, Asking, Refused, Settled, Watch};
use crate::traces::TARGET;
use crate::workers::{Endpoint, Route};

/// How long the end of a lost worker may take to be known. Until then it would be chosen again.
const END_LIMIT: Duration = Duration::from_secs(3);

/// One request.
pub(super) struct Attempt {
    pub(super) app: AppState,
    pub(super) asking: Asking,
    pub(super) route: Route,
    pub(super) body: Bytes,
    /// The least context in tokens that its worker is to have.
    pub(super) least_context: Option<u64>,
    /// How long the worker that answers stays without a request from now on.
    pub(super) keep_alive: Option<KeepAlive>,
    /// The other hives, where this one is in a fleet.
    pub(super) elsewhere: Option<Elsewhere>,
    pub(super) shown: watch::Sender<Shown>,
    pub(super) recorder: Recorder,
}

/// Who answers a request.
enum Chosen {
    Worker(Endpoint),
    Hive(Holder),
}

/// What a request waits for, for its client.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// Its place in the queue, while it has one.
    pub(super) queued: Option<Watch>,
    /// The load that it has waited for.
    pub(super) job_id: Option<Arc<str>>,
    /// The hive that is to answer, where that is another one.
    pub(super) hive: Option<Arc<str>>,
}

/// An answer that has begun to arrive.
pub(super) enum Begun {
    /// All of it.
    Whole { by: Answerer, status: StatusCode, headers: HeaderMap, body: Bytes },
    /// Its head and its first bytes.
    Events(Box<Answer>),
}

/// An answer that is awaited.
pub(super) type Awaited = BoxFuture<'static, Result<Begun, Refused>>;

impl Attempt {
    /// The answer, as soon as its first byte is there.
    pub(super) async fn answer(mut self) -> Result<Begun, Refused> {
        let lost = match self.choose().await {
            Ok(chosen) => match self.ask(chosen).await? {
                Err(NoAnswer::Lost(failure)) => Refused::from(failure),
                answer => return answer.map_err(Refused::from),
            },
            // It cannot be loaded here: perhaps it can elsewhere.
            Err(refused @ Refused::Load { .. }) if self.elsewhere.is_some() => {
                self.tried(None);
                refused
            }
            Err(refused) => return Err(refused),
        };
        tracing::info!(model = %self.asking.model, failure = %lost.failure(), "a request goes to another worker");
        let Ok(other) = self.choose().await else { return Err(lost) };
        self.ask(other).await?.map_err(Refused::from)
    }

    fn tried(&mut self, hive: Option<HiveName>) {
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.tried.push(hive);
        }
    }

    /// Who answers, as soon as it is this request's turn.
    async fn choose(&mut self) -> Result<Chosen, Refused> {
        if let Some(elsewhere) = &mut self.elsewhere
            && let Place::There(holder) = elsewhere.choose(&self.app, &self.asking.model).await?
        {
            return Ok(Chosen::Hive(holder));
        }
        if let Some(least) = self.least_context {
            let waits_for = |job_id: Arc<str>| {
                self.recorder.waited_for(&job_id);
                self.shown.send_modify(|shown| shown.job_id = Some(job_id));
            };
            grow(&self.app, &self.asking, least, self.keep_alive, waits_for).await?;
        }
        self.worker().await.map(Chosen::Worker)
    }

    /// Asks whom was chosen. Who is lost is not chosen again.
    async fn ask(&mut self, chosen: Chosen) -> Result<Result<Begun, NoAnswer>, Refused> {
        match chosen {
            Chosen::Worker(endpoint) => self.ask_worker(endpoint).await,
            Chosen::Hive(holder) => Ok(self.ask_hive(holder).await),
        }
    }

    async fn ask_worker(&mut self, endpoint: Endpoint) -> Result<Result<Begun, NoAnswer>, Refused> {
        let (pid, gone) = (endpoint.pid, endpoint.guard.gone());
        let body = match self.route {
            Route::Chat | Route::Completions | Route::ApplyTemplate => {
                self.app.defaults(&self.asking.model).fill(&self.body, endpoint.has_llama_cpp_fields)
            }
            _ => self.body.clone(),
        };
        let (admissions, client) = (self.app.residency.admissions(), &self.app.gateway);
        let upstream = Upstream::of_worker(endpoint, self.route, admissions, client)?;
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.others.remember(&self.asking.model, &self.asking.preference.conversation, None);
        }
        let begun = begin(upstream, body).instrument(self.recorder.span()).await;
        if matches!(begun, Err(NoAnswer::Lost(_))) {
            // A worker that lives all the same may be asked again.
            let _is_known = tokio::time::timeout(END_LIMIT, gone).await;
            self.asking.preference.avoided = Some(pid);
        }
        Ok(begun)
    }

    async fn ask_hive(&mut self, holder: Holder) -> Result<Begun, NoAnswer> {
        let Some(elsewhere) = &self.elsewhere else {
            return Err(NoAnswer::Invalid(Failure::internal(
                "a hive without a fleet was to ask another one",
            )));
        };
        let others = elsewhere.others.clone();
        let hive = holder.hive.clone();
        self.recorder.sent_to_hive(hive.as_str());
        self.shown.send_modify(|shown| shown.hive = Some(hive.as_str().into()));
        let call = Forwarded { model: holder.served_id.clone(), ..elsewhere.call.clone() };
        let begun = async {
            let peer = others.peer(&hive).map_err(NoAnswer::Lost)?;
            let sent = others.send(&holder);
            others.remember(&self.asking.model, &call.conversation, Some(hive.clone()));
            let upstream =
                Upstream::of_hive(&peer, others.clone(), &call, sent).map_err(NoAnswer::Invalid)?;
            begin(upstream, self.body.clone()).instrument(self.recorder.span()).await
        };
        let begun = begun.await;
        if matches!(begun, Err(NoAnswer::Lost(_))) {
            self.shown.send_modify(|shown| shown.hive = None);
            self.tried(Some(hive));
        }
        begun
    }

    /// A worker for the request, as soon as it is its turn.
    async fn worker(&self) -> Result<Endpoint, Refused> {
        let span = tracing::debug_span!(target: TARGET, "queue", model = &*self.asking.model);
        let admission = span.in_scope(|| self.app.residency.admissions().admit(&self.asking));
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
            self.app.workers.keep(endpoint.pid, keep_alive);
        }
        Ok(endpoint)
    }
}

/// Asks and waits for the first byte of the answer, or for all of an answer in JSON.
pub(super) async fn begin(upstream: Upstream, body: Bytes) -> Result<Begun, NoAnswer> {
    let mut answer = ask(upstream, body).await?;
    match answer.kind {
        AnswerKind::Events => {
            answer.begin().await?;
            Ok(Begun::Events(Box::new(answer)))
        }
        AnswerKind::Json | AnswerKind::Refusal => {
            let body = whole::read(&mut answer, whole::MAX_ANSWER).await?;
            let Answer { by, status, headers, .. } = answer;
            Ok(Begun::Whole { by, status, headers, body })
        }
    }
}
