//! Passes an answer back to the client.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::attempt::{Awaited, Begun};
use super::events;
use super::problem::GatewayProblem;
use super::waits::Waits;
use crate::event_stream;
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
    recorder: Recorder,
) -> Response {
    let begun = tokio::select! {
        biased;
        begun = &mut answer => begun,
        comment = waits.comment(), if streams => {
            let job_id = waits.job_for_head();
            let events = events::waiting(comment, answer, waits, recorder);
            return with_job(stream(StatusCode::OK, HeaderMap::new(), Body::from_stream(events)), job_id);
        }
    };
    let job_id = waits.job_for_head();
    let response = match begun {
        Ok(Begun::Whole { status, headers, body, .. }) => {
            recorder.answered(status.as_u16(), &body);
            (status, passed_headers(&headers), body).into_response()
        }
        Ok(Begun::Events(answer)) => {
            let (status, passed) = (answer.status, passed_headers(&answer.headers));
            stream(status, passed, Body::from_stream(events::answering(answer, waits, recorder)))
        }
        Err(refused) => {
            recorder.failed(refused.failure());
            GatewayProblem::from(refused).into_response()
        }
    };
    with_job(response, job_id)
}

fn stream(status: StatusCode, passed: HeaderMap, body: Body) -> Response {
    let mut headers = HeaderMap::from_iter(event_stream::headers());
    headers.extend(passed);
    (status, headers, body).into_response()
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
