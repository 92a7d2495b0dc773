//! One request to a worker or to another hive, and what arrives of the answer.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::{Client, RequestBuilder, Response, Url};

use super::forwarded::{CALL, Forwarded, REFUSAL};
use crate::error::{Code, Failure};
use crate::fleet::{Others, Peer, Sent};
use crate::outgoing::Unreached;
use crate::residency::{Admissions, Refused};
use crate::traces;
use crate::workers::{Endpoint, Route};

/// Who answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answerer {
    /// The worker with that process id.
    Worker(u32),
    /// Another hive of the fleet.
    Hive(Arc<str>),
}

impl fmt::Display for Answerer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(pid) => write!(f, "worker {pid}"),
            Self::Hive(name) => write!(f, "hive '{name}'"),
        }
    }
}

impl Answerer {
    /// Where to look for what it did.
    fn where_to_look(&self) -> String {
        match self {
            Self::Worker(pid) => format!("GET /v1/workers/{pid}/log shows the end of its log"),
            Self::Hive(name) => format!("`rbee-hive jobs --hive {name}` and its log may say why"),
        }
    }
}

/// A request to who serves the model, but for its body.
pub(super) struct Upstream {
    pub(super) by: Answerer,
    /// The address, for why it could not be reached.
    pub(super) url: Url,
    pub(super) request: RequestBuilder,
    /// Is ready once it no longer responds.
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
    pub(super) fn of_worker(
        endpoint: Endpoint,
        route: Route,
        admissions: &Admissions,
        client: &Client,
    ) -> Result<Self, Failure> {
        let path = endpoint.path(route);
        let Endpoint { pid, model, url, secret, guard, .. } = endpoint;
        let unresponsive = guard.unresponsive();
        let guard = Box::new(admissions.slot(&model.as_str().into(), guard));
        let path = path.ok_or_else(|| {
            Failure::new(Code::NotOffered, format!("the engine of '{model}' answers no such question"))
                .hint("load the model with another engine: docs/CONFIGURATION.md has them")
        })?;
        let url = Url::parse(&format!("{}{path}", url.trim_end_matches('/')))
            .map_err(|error| Failure::internal(format!("worker {pid} has no valid address")).detail(error))?;
        let request = client.post(url.clone()).bearer_auth(secret.expose());
        Ok(Self { by: Answerer::Worker(pid), url, request, unresponsive, guard })
    }

    /// Another hive, whose queue the request enters.
    pub(super) fn of_hive(
        peer: &Peer,
        others: Others,
        call: &Forwarded,
        sent: Sent,
    ) -> Result<Self, Failure> {
        let request = peer.request(Method::POST, "/ask").header(CALL, call.header()?);
        let url = Url::parse(&peer.url)
            .map_err(|error| Failure::internal("a hive has no valid address").detail(error))?;
        let unresponsive = others.silent(peer.clone()).boxed();
        Ok(Self {
            by: Answerer::Hive(peer.hive.as_str().into()),
            url,
            request,
            unresponsive,
            guard: Box::new(sent),
        })
    }
}

/// The kinds of answers that are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerKind {
    Json,
    Events,
    /// A hive tells why it does not answer.
    Refusal,
}

/// An answer. Dropping it closes the connection to who answers.
pub(super) struct Answer {
    pub(super) by: Answerer,
    pub(super) kind: AnswerKind,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Bytes of the body that have been read ahead.
    ahead: Option<Bytes>,
    response: Response,
    unresponsive: BoxFuture<'static, ()>,
    _guard: Guard,
}

/// Why there is no answer, or no more of it.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It is gone or does not respond. Another one may answer.
    Lost(Failure),
    /// The other hive does not answer the request, and tells why.
    Refused(Refused),
    /// Its answer cannot be passed on.
    Invalid(Failure),
}

impl From<NoAnswer> for Refused {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::Lost(failure) | NoAnswer::Invalid(failure) => failure.into(),
            NoAnswer::Refused(refused) => refused,
        }
    }
}

/// Sends the request.
///
/// # Errors
/// [`Code::WorkerUnreachable`] or [`Code::HiveUnreachable`] if no answer comes, [`Code::WorkerUnresponsive`] if the
/// worker stops responding, [`Code::WorkerError`] if the answer is neither JSON nor an event stream.
pub(super) async fn ask(upstream: Upstream, body: Bytes) -> Result<Answer, NoAnswer> {
    let Upstream { by, url, request, mut unresponsive, guard } = upstream;
    let sent = request.headers(traces::headers()).header(CONTENT_TYPE, "application/json").body(body).send();
    let mut response =
        within(&by, &mut unresponsive, sent).await?.map_err(|error| unreached(&by, error, &url))?;
    let status = response.status();
    let passes = status.is_success() || status.is_client_error() || status.is_server_error();
    match (&by, kind(response.headers())) {
        (Answerer::Hive(_), Some(AnswerKind::Refusal)) => Err(refusal(&by, response).await),
        (_, Some(kind @ (AnswerKind::Json | AnswerKind::Events))) if passes => {
            let headers = std::mem::take(response.headers_mut());
            Ok(Answer { by, kind, status, headers, ahead: None, response, unresponsive, _guard: guard })
        }
        _ => Err(not_valid(&by, format_args!("{} with something other than JSON", status.as_u16()))),
    }
}

/// Why no answer came.
fn unreached(by: &Answerer, error: reqwest::Error, url: &Url) -> NoAnswer {
    let (code, hint) = match by {
        Answerer::Worker(_) => (
            Code::WorkerUnreachable,
            "the worker's log and GET /v1/jobs may say why; load the model again with ModelLoad",
        ),
        Answerer::Hive(_) => (Code::HiveUnreachable, "`rbee-hive fleet status` shows the hives"),
    };
    // The address of a worker is nobody's business.
    let why = Unreached::new(error, url, None).calling_it("it").into_failure(code);
    let failure = Failure::new(code, format!("{by} did not answer: {why}"))
        .hint(hint)
        .detail(anyhow::anyhow!("{}", why.causes.join(": ")));
    NoAnswer::Lost(failure)
}

/// What another hive answers in the place of an answer.
async fn refusal(by: &Answerer, response: Response) -> NoAnswer {
    let status = response.status().as_u16();
    let again_in = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.bytes().await.unwrap_or_default();
    let Ok(failure) = serde_json::from_slice::<Failure>(&body) else {
        return not_valid(by, format_args!("{status} with a refusal that cannot be understood"));
    };
    match failure.code {
        // It has changed since this hive heard of it: another one may do.
        Code::ShuttingDown
        | Code::ModelNotFound
        | Code::ModelNotLoaded
        | Code::Unauthorized
        | Code::QueueFull
        | Code::WorkerUnreachable
        | Code::WorkerUnresponsive => NoAnswer::Lost(failure),
        // The status is not that of the code where a load has failed.
        _ => NoAnswer::Refused(match again_in {
            Some(seconds) if failure.code.http_status() != status => {
                Refused::Load { failure: failure.into(), again_in: Duration::from_secs(seconds) }
            }
            _ => failure.into(),
        }),
    }
}

impl Answer {
    /// The next bytes of the body; `None` at its end. No byte is lost where the future is dropped.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        if self.ahead.is_some() {
            return Ok(self.ahead.take());
        }
        let chunk = within(&self.by, &mut self.unresponsive, self.response.chunk()).await?;
        chunk.map_err(|error| {
            let message = format!("{} disconnected in the middle of its answer", self.by);
            let failure = Failure::new(Code::WorkerUnreachable, message)
                .hint(self.by.where_to_look())
                .detail(error.without_url());
            NoAnswer::Lost(failure)
        })
    }

    /// Waits for the first bytes of the body, which [`chunk`](Self::chunk) then gives.
    pub(super) async fn begin(&mut self) -> Result<(), NoAnswer> {
        self.ahead = self.chunk().await?;
        Ok(())
    }
}

/// Awaits who answers for as long as it responds.
async fn within<T>(
    by: &Answerer,
    unresponsive: &mut BoxFuture<'static, ()>,
    work: impl Future<Output = T>,
) -> Result<T, NoAnswer> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = unresponsive => {
            let message = match by {
                Answerer::Worker(_) => format!("{by} stopped responding: it neither answers nor computes"),
                Answerer::Hive(_) => format!("{by} stopped responding: it gives no signs of life"),
            };
            let failure = Failure::new(Code::WorkerUnresponsive, message).hint(by.where_to_look());
            Err(NoAnswer::Lost(failure))
        }
    }
}

/// The failure of an answer that cannot be passed on.
pub(super) fn not_valid(by: &Answerer, what: impl fmt::Display) -> NoAnswer {
    NoAnswer::Invalid(invalid(by, what))
}

/// The same, as a failure.
pub(super) fn invalid(by: &Answerer, what: impl fmt::Display) -> Failure {
    Failure::new(Code::WorkerError, format!("{by} answered {what}")).hint(by.where_to_look())
}

/// The kind of an answer, by its content type.
fn kind(headers: &HeaderMap) -> Option<AnswerKind> {
    let essence = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/problem+json" => Some(AnswerKind::Json),
        "text/event-stream" => Some(AnswerKind::Events),
        REFUSAL => Some(AnswerKind::Refusal),
        _ => None,
    }
}
