//! The gateway's refusals, which carry OpenAI's `error` object too.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::Failure;
use crate::http::problem::{Problem, openai_error};
use crate::residency::Refused;

/// "Service Unavailable" (RFC 9110 section 15.6.4).
const UNAVAILABLE: u16 = 503;

/// A problem of the gateway: `?` on a [`Failure`] makes one.
#[derive(Debug)]
pub(crate) struct GatewayProblem(Problem);

impl From<Failure> for GatewayProblem {
    fn from(failure: Failure) -> Self {
        Self(Problem::from(failure).openai())
    }
}

impl From<Refused> for GatewayProblem {
    fn from(refused: Refused) -> Self {
        let problem = Problem::from(Failure::clone(refused.failure())).openai().status(status(&refused));
        Self(match refused {
            Refused::Load { again_in, .. } => {
                problem.retry_after(again_in.as_secs_f64().ceil().max(1.0) as u64)
            }
            Refused::Plain(_) => problem,
        })
    }
}

impl IntoResponse for GatewayProblem {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl GatewayProblem {
    pub(super) fn failure(&self) -> &Failure {
        self.0.failure()
    }

    /// A problem with one field of the request.
    pub(super) fn at_field(field: &'static str, failure: Failure) -> Self {
        Self(Problem::from(failure).openai().param(field))
    }
}

/// The status of a refusal: not the request is at fault for a load that fails, whatever it fails of.
fn status(refused: &Refused) -> u16 {
    match refused {
        Refused::Load { .. } => UNAVAILABLE,
        Refused::Plain(failure) => failure.code.http_status(),
    }
}

/// The last event of a stream that ends with a refusal.
pub(super) fn error_event(refused: &Refused) -> Bytes {
    event(&json!({"error": openai_error(refused.failure(), status(refused), None)}))
}

/// An event that may follow on half of another.
pub(super) fn event(data: &Value) -> Bytes {
    // The blank line in front ends an event that the worker left incomplete.
    Bytes::from(format!("\n\ndata: {data}\n\n"))
}
