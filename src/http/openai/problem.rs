//! The gateway's refusals, which carry OpenAI's `error` object too.

use axum::response::{IntoResponse, Response};

use crate::error::Failure;
use crate::http::problem::Problem;

/// A problem of the gateway: `?` on a [`Failure`] makes one.
#[derive(Debug)]
pub(crate) struct GatewayProblem(Problem);

impl From<Failure> for GatewayProblem {
    fn from(failure: Failure) -> Self {
        Self(Problem::from(failure).openai())
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
