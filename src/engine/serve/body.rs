//! The body of a request.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde_json::Value;

use super::error::ApiError;
use crate::config::MAX_BODY_LIMIT;
use crate::error::Code;

/// Largest body of a request, in bytes: the most that `[gateway] body_limit` may be, as the hive has checked it, and
/// room for what the hive adds.
pub(super) const MAX_BODY: usize = {
    let most = MAX_BODY_LIMIT.as_u64() + (64 << 20);
    if most > usize::MAX as u64 { usize::MAX } else { most as usize }
};

/// The body, if it could be read.
///
/// # Errors
/// `body_too_large`, or `invalid_request` where it breaks off.
pub(super) fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let problem = format!("the body is larger than {} MiB", MAX_BODY >> 20);
            ApiError::new(rejection.status(), Code::BodyTooLarge.name(), problem)
        }
        status => ApiError::new(status, Code::InvalidRequest.name(), "the body could not be read"),
    })
}

/// The body as JSON. This may take long: not for an async task.
///
/// # Errors
/// `invalid_json`.
pub(super) fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            Code::InvalidJson.name(),
            format!("the body is not valid JSON: {error}"),
        )
    })
}
