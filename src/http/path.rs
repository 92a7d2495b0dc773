//! The parameters in the path of a route.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::error::{Code, Failure};

/// The one parameter of a path, or a tuple of all, percent-decoded. Unlike axum's [`Path`], it is refused with a
/// problem.
#[derive(Debug)]
pub(crate) struct Parameter<T = String>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Parameter<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let decoded = Path::from_request_parts(parts, state).await;
        decoded.map(|Path(decoded)| Self(decoded)).map_err(|rejection| {
            Failure::new(Code::InvalidRequest, "the path is not UTF-8 once it is percent-decoded")
                .hint("write an id as the hive shows it, percent-encoded as UTF-8")
                .detail(rejection)
                .into()
        })
    }
}
