//! Passes one request to a worker, and the worker's answer back.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::Client;

use super::completion::Completion;
use super::events;
use super::exchange::{Answer, AnswerKind, Upstream, ask};
use super::whole;
use crate::error::Result;
use crate::event_stream;
use crate::requests::Recorder;

/// Sends the request to `path` of the worker and returns the answer. Events arrive as the worker writes them,
/// and comments where nothing arrives for `silence`; a JSON value arrives as a whole. `recorder` is told what
/// arrives. `guard` is dropped when the answer has ended or the client has disconnected.
///
/// # Errors
/// Those of [`ask`] and, for an answer in JSON, of [`whole::read`]. A client of a stream that has waited for
/// `silence` gets them as an event.
pub(super) async fn relay<G: Send + 'static>(
    client: &Client,
    upstream: Upstream,
    path: &str,
    completion: Completion,
    silence: Duration,
    recorder: Recorder,
    guard: G,
) -> Result<Response> {
    let (client, path) = (client.clone(), path.to_owned());
    let streams = completion.streams;
    let mut asked: BoxFuture<'static, Result<Answer>> =
        async move { ask(&client, upstream, &path, completion.body).await }.boxed();
    let mut answer = tokio::select! {
        answer = &mut asked => answer?,
        // Some engines say nothing until the first token is there, which takes minutes for a long prompt.
        () = tokio::time::sleep(silence), if streams => {
            return Ok(stream(StatusCode::OK, HeaderMap::new(), asked, silence, recorder, guard));
        }
    };
    let (status, passed) = (answer.status, passed_headers(&answer.headers));
    match answer.kind {
        AnswerKind::Json => {
            let body = whole::read(&mut answer).await?;
            recorder.answered(status.as_u16(), &body);
            Ok((status, passed, body).into_response())
        }
        AnswerKind::Events => {
            Ok(stream(status, passed, std::future::ready(Ok(answer)).boxed(), silence, recorder, guard))
        }
    }
}

fn stream<G: Send + 'static>(
    status: StatusCode,
    passed: HeaderMap,
    answer: BoxFuture<'static, Result<Answer>>,
    silence: Duration,
    recorder: Recorder,
    guard: G,
) -> Response {
    let mut headers = HeaderMap::from_iter(event_stream::headers());
    headers.extend(passed);
    (status, headers, Body::from_stream(events::relay(answer, silence, recorder, guard))).into_response()
}

/// The headers of the worker's answer that its client gets.
fn passed_headers(headers: &HeaderMap) -> HeaderMap {
    let passed = [CONTENT_TYPE, RETRY_AFTER].into_iter();
    passed.filter_map(|name| headers.get(&name).cloned().map(|value| (name, value))).collect()
}
