//! Passes an answer back to the client.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::attempt::{Awaited, Begun};
use super::events::{Events, Progress, Source};
use super::output::Output;
use super::waits::Waits;
use crate::event_stream;
use crate::http::problem::Problem;
use crate::requests::Recorder;

/// The header that names the load that a request has waited for.
const JOB_ID: HeaderName = HeaderName::from_static("x-rbee-job-id");

/// The response for an answer. Events arrive as the worker writes them; a JSON value arrives as a whole. A client
/// that `streams` gets a head with the first comment that `waits` has for it, and then the failure, too, as an
/// event. `recorder` is told what arrives.
pub(super) async fn relay(
    mut answer: Awaited,
    streams: bool,
    mut waits: Waits,
    mut output: Output,
    recorder: Recorder,
) -> Response {
    let keeps_open = streams && output.waiting("waiting").is_some();
    let begun = tokio::select! {
        biased;
        begun = &mut answer => begun,
        comment = waits.comment(), if keeps_open => {
            let (job_id, first) = (waits.job_for_head(), output.waiting(&comment));
            let (source, progress) = (Source::Awaited(answer), Progress::default());
            let events = Events { first, source, waits, output, progress, recorder };
            return with_job(stream(StatusCode::OK, HeaderMap::new(), events), job_id);
        }
    };
    let job_id = waits.job_for_head();
    let response = match begun {
        Ok(Begun::Whole { by, status, headers, body }) => {
            recorder.answered(status.as_u16(), &body);
            output.whole(&by, status, passed_headers(&headers), body)
        }
        Ok(Begun::Events(answer)) => {
            let (status, passed) = (answer.status, passed_headers(&answer.headers));
            let (source, progress) = (Source::Answering(answer), Progress::default());
            stream(status, passed, Events { first: None, source, waits, output, progress, recorder })
        }
        Err(refused) => {
            recorder.failed(refused.failure());
            Problem::from(refused).into_response()
        }
    };
    with_job(response, job_id)
}

fn stream(status: StatusCode, passed: HeaderMap, events: Events) -> Response {
    let mut headers = HeaderMap::from_iter(event_stream::headers());
    headers.extend(passed);
    if events.output.writes_whole_events() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(events.output.content_type()));
    }
    (status, headers, Body::from_stream(events.stream())).into_response()
}

fn with_job(mut response: Response, job_id: Option<Arc<str>>) -> Response {
    if let Some(job_id) = job_id.and_then(|job_id| HeaderValue::from_str(&job_id).ok()) {
        response.headers_mut().insert(JOB_ID, job_id);
    }
    response
}

/// The headers of the worker's answer that its client gets.
fn passed_headers(headers: &HeaderMap) -> HeaderMap {
    let passed = [CONTENT_TYPE, RETRY_AFTER].into_iter();
    passed.filter_map(|name| headers.get(&name).cloned().map(|value| (name, value))).collect()
}
