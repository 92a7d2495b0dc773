//! Passes one request to a worker, and the worker's answer back as it arrives.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use reqwest::Client;
use serde_json::json;

use super::completion::Completion;
use crate::error::{Code, Failure, Result};
use crate::event_stream;
use crate::http::problem::openai_error;
use crate::workers::{Endpoint, InFlight};

/// A worker that serves the model.
pub(super) struct Upstream {
    /// Its process id.
    pub(super) pid: u32,
    /// Its address, such as `http://127.0.0.1:4242`.
    pub(super) url: String,
    /// Its bearer token.
    pub(super) secret: String,
    /// Is ready once the worker no longer responds.
    pub(super) unresponsive: BoxFuture<'static, ()>,
}

impl From<Endpoint> for (Upstream, InFlight) {
    fn from(endpoint: Endpoint) -> Self {
        let Endpoint { pid, url, secret, guard, .. } = endpoint;
        let (secret, unresponsive) = (secret.expose().to_owned(), guard.unresponsive());
        (Upstream { pid, url, secret, unresponsive }, guard)
    }
}

/// The kinds of answers that are passed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerKind {
    Json,
    Events,
}

/// Sends the request to `path` of the worker and returns the answer, whose body arrives as the worker writes
/// it. `guard` is dropped when the answer has ended or the client has disconnected.
///
/// # Errors
/// [`Code::WorkerUnreachable`] if no answer comes, [`Code::WorkerUnresponsive`] if the worker stops responding,
/// [`Code::WorkerError`] if it is neither JSON nor an event
/// stream.
pub(super) async fn relay<G: Send + Unpin + 'static>(
    client: &Client,
    upstream: Upstream,
    path: &str,
    completion: Completion,
    guard: G,
) -> Result<Response> {
    let Upstream { pid, url, secret, mut unresponsive } = upstream;
    let sent = client
        .post(format!("{}{path}", url.trim_end_matches('/')))
        .bearer_auth(secret)
        .header(CONTENT_TYPE, "application/json")
        .body(completion.body)
        .send();
    let answer = tokio::select! {
        answer = sent => answer.map_err(|error| {
            Failure::new(Code::WorkerUnreachable, format!("worker {pid} did not answer"))
                .hint("the worker's log and GET /v1/jobs may say why; load the model again with ModelLoad")
                .detail(error.without_url())
        })?,
        () = &mut unresponsive => return Err(stopped_responding(pid)),
    };
    let status = answer.status();
    let kind = kind(answer.headers());
    let passes = status.is_success() || status.is_client_error() || status.is_server_error();
    let (true, Some(kind)) = (passes, kind) else {
        return Err(Failure::new(
            Code::WorkerError,
            format!("worker {pid} answered {} with something other than JSON", status.as_u16()),
        )
        .hint(format!("GET /v1/workers/{pid}/log shows what it was doing")));
    };
    let body = RelayBody { pid, kind, body: None, unresponsive, guard: Some(guard) };
    Ok(respond(status, answer, body))
}

fn respond<G: Send + Unpin + 'static>(
    status: StatusCode,
    answer: reqwest::Response,
    mut body: RelayBody<G>,
) -> Response {
    let mut headers = match body.kind {
        AnswerKind::Events => HeaderMap::from_iter(event_stream::headers()),
        AnswerKind::Json => HeaderMap::new(),
    };
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = answer.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    body.body = Some(answer.into());
    (status, headers, Body::new(body)).into_response()
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

/// The body of the worker's answer. Dropping it closes the connection to the worker.
struct RelayBody<G> {
    pid: u32,
    kind: AnswerKind,
    /// `None` once it has ended.
    body: Option<reqwest::Body>,
    unresponsive: BoxFuture<'static, ()>,
    /// Dropped with the body.
    guard: Option<G>,
}

impl<G> RelayBody<G> {
    fn end(&mut self) {
        self.body = None;
        self.guard = None;
    }
}

impl<G: Unpin> HttpBody for RelayBody<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let failure = match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => {
                this.end();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => disconnected(this.pid).detail(error.without_url()),
            Poll::Pending => {
                ready!(this.unresponsive.as_mut().poll(context));
                stopped_responding(this.pid)
            }
        };
        this.end();
        tracing::error!(pid = this.pid, %failure, detail = ?failure.detail, "an answer broke off");
        Poll::Ready(Some(match this.kind {
            // An event in OpenAI's form tells the client what happened. No `[DONE]` follows, so that
            // clients do not take the answer for complete.
            AnswerKind::Events => Ok(Frame::data(broken_off(&failure))),
            AnswerKind::Json => Err(axum::Error::new(failure)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, self.kind) {
            (Some(body), AnswerKind::Json) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

fn disconnected(pid: u32) -> Failure {
    let message = format!("worker {pid} disconnected in the middle of its answer");
    Failure::new(Code::WorkerUnreachable, message)
        .hint(format!("GET /v1/workers/{pid}/log shows the end of its log"))
}

fn stopped_responding(pid: u32) -> Failure {
    let message = format!("worker {pid} stopped responding: it neither answers nor computes");
    Failure::new(Code::WorkerUnresponsive, message)
        .hint(format!("GET /v1/workers/{pid}/log may show why; ModelLoad replaces the worker"))
}

fn broken_off(failure: &Failure) -> Bytes {
    // The blank line in front ends an event that the worker left incomplete.
    Bytes::from(format!("\n\ndata: {}\n\n", json!({"error": openai_error(failure, None)})))
}
