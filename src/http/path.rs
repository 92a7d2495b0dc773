//! The parameter in the path of a route.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::problem::Problem;
use crate::error::{Code, Failure};

/// The one parameter of a path, percent-decoded. Unlike axum's [`Path`], it is refused with a problem.
#[derive(Debug)]
pub(crate) struct Parameter(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Parameter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let decoded = Path::from_request_parts(parts, state).await;
        decoded.map(|Path(text)| Self(text)).map_err(|rejection| {
            Failure::new(Code::InvalidRequest, "the path is not UTF-8 once it is percent-decoded")
                .hint("write an id as the hive shows it, percent-encoded as UTF-8")
                .detail(rejection)
                .into()
        })
    }
}
