//! One request to a worker, and what arrives of its answer.

use std::future::Future;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::future::BoxFuture;
use reqwest::{Client, Response, Url};

use crate::error::{Code, Failure};
use crate::outgoing::Unreached;
use crate::residency::Admissions;
use crate::traces;
use crate::workers::{Endpoint, Route};

/// A worker that serves the model.
pub(super) struct Upstream {
    /// Its process id.
    pub(super) pid: u32,
    /// Its address, such as `http://127.0.0.1:4242`.
    pub(super) url: String,
    /// The path under which it answers.
    pub(super) path: String,
    /// Its bearer token.
    pub(super) secret: String,
    /// Is ready once the worker no longer responds.
    pub(super) unresponsive: BoxFuture<'static, ()>,
    /// Counts the request as in flight. It is dropped with the answer.
    pub(super) guard: Guard,
}

/// What lives as long as an answer.
pub(super) type Guard = Box<dyn Send + Sync>;

impl Upstream {
    /// The worker of an endpoint. Its slot is the next request's once the answer has ended.
    ///
    /// # Errors
    /// [`Code::NotOffered`] where its engine does not answer such a question.
    pub(super) fn new(endpoint: Endpoint, route: Route, admissions: &Admissions) -> Result<Self, Failure> {
        let path = endpoint.path(route);
        let Endpoint { pid, model, url, secret, guard, .. } = endpoint;
        let (secret, unresponsive) = (secret.expose().to_owned(), guard.unresponsive());
        let guard = Box::new(admissions.slot(&model.as_str().into(), guard));
        let path = path.ok_or_else(|| {
            Failure::new(Code::NotOffered, format!("the engine of '{model}' answers no such question"))
                .hint("load the model with another engine: docs/CONFIGURATION.md has them")
        })?;
        Ok(Self { pid, url, path, secret, unresponsive, guard })
    }
}

/// The kinds of answers that are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerKind {
    Json,
    Events,
}

/// A worker's answer. Dropping it closes the connection to the worker.
pub(super) struct Answer {
    pub(super) pid: u32,
    pub(super) kind: AnswerKind,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Bytes of the body that have been read ahead.
    ahead: Option<Bytes>,
    response: Response,
    unresponsive: BoxFuture<'static, ()>,
    _guard: Guard,
}

/// Why a worker gave no answer, or no more of it.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It is gone or does not respond. Another one may answer.
    WorkerLost(Failure),
    /// Its answer cannot be passed on.
    Invalid(Failure),
}

impl From<NoAnswer> for Failure {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::WorkerLost(failure) | NoAnswer::Invalid(failure) => failure,
        }
    }
}

/// Sends the request.
///
/// # Errors
/// [`Code::WorkerUnreachable`] if no answer comes, [`Code::WorkerUnresponsive`] if the worker stops
/// responding, [`Code::WorkerError`] if the answer is neither JSON nor an event stream.
pub(super) async fn ask(client: &Client, upstream: Upstream, body: Bytes) -> Result<Answer, NoAnswer> {
    let Upstream { pid, url, path, secret, mut unresponsive, guard } = upstream;
    let asked = Url::parse(&format!("{}{path}", url.trim_end_matches('/'))).map_err(|error| {
        NoAnswer::Invalid(Failure::internal(format!("worker {pid} has no valid address")).detail(error))
    })?;
    let sent = client
        .post(asked.clone())
        .bearer_auth(secret)
        .headers(traces::headers())
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .send();
    let mut response = within(pid, &mut unresponsive, sent).await?.map_err(|error| {
        // The address of a worker is nobody's business.
        let why = Unreached::new(error, &asked, None).calling_it("it").into_failure(Code::WorkerUnreachable);
        let failure = Failure::new(Code::WorkerUnreachable, format!("worker {pid} did not answer: {why}"))
            .hint("the worker's log and GET /v1/jobs may say why; load the model again with ModelLoad")
            .detail(anyhow::anyhow!("{}", why.causes.join(": ")));
        NoAnswer::WorkerLost(failure)
    })?;
    let status = response.status();
    let passes = status.is_success() || status.is_client_error() || status.is_server_error();
    match kind(response.headers()) {
        Some(kind) if passes => {
            let headers = std::mem::take(response.headers_mut());
            Ok(Answer { pid, kind, status, headers, ahead: None, response, unresponsive, _guard: guard })
        }
        _ => Err(not_valid(pid, format_args!("{} with something other than JSON", status.as_u16()))),
    }
}

impl Answer {
    /// The next bytes of the body; `None` at its end. No byte is lost where the future is dropped.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        if self.ahead.is_some() {
            return Ok(self.ahead.take());
        }
        let chunk = within(self.pid, &mut self.unresponsive, self.response.chunk()).await?;
        chunk.map_err(|error| {
            let message = format!("worker {} disconnected in the middle of its answer", self.pid);
            let failure = Failure::new(Code::WorkerUnreachable, message)
                .hint(format!("GET /v1/workers/{}/log shows the end of its log", self.pid))
                .detail(error.without_url());
            NoAnswer::WorkerLost(failure)
        })
    }

    /// Waits for the first bytes of the body, which [`chunk`](Self::chunk) then gives.
    pub(super) async fn begin(&mut self) -> Result<(), NoAnswer> {
        self.ahead = self.chunk().await?;
        Ok(())
    }
}

/// Awaits a worker for as long as it responds.
async fn within<T>(
    pid: u32,
    unresponsive: &mut BoxFuture<'static, ()>,
    work: impl Future<Output = T>,
) -> Result<T, NoAnswer> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = unresponsive => {
            let message = format!("worker {pid} stopped responding: it neither answers nor computes");
            let failure = Failure::new(Code::WorkerUnresponsive, message)
                .hint(format!("GET /v1/workers/{pid}/log may show why; ModelLoad replaces the worker"));
            Err(NoAnswer::WorkerLost(failure))
        }
    }
}

/// The failure of an answer that cannot be passed on.
pub(super) fn not_valid(pid: u32, what: impl std::fmt::Display) -> NoAnswer {
    let failure = Failure::new(Code::WorkerError, format!("worker {pid} answered {what}"))
        .hint(format!("GET /v1/workers/{pid}/log shows what it was doing"));
    NoAnswer::Invalid(failure)
}

/// The kind of a worker's answer, by its content type.
fn kind(headers: &HeaderMap) -> Option<AnswerKind> {
    let essence = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/problem+json" => Some(AnswerKind::Json),
        "text/event-stream" => Some(AnswerKind::Events),
        _ => None,
    }
}
