//! Errors in OpenAI's shape: `{"error":{"message","type","param","code"}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Code, Failure};
use crate::fields::FieldError;

/// An error response in OpenAI's shape.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field at fault, such as `messages[0].content`.
    param: Option<String>,
    code: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: code.to_owned() }
    }

    /// A field that is missing, of the wrong type, out of range or not supported.
    pub(crate) fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        FieldError::new(field, problem).into()
    }

    /// A failure that is the fault of this field, if it is the caller's.
    pub(crate) fn about(field: &str, failure: Failure) -> Self {
        let error = Self::from(failure);
        Self { param: error.param.map(|_| field.to_owned()), ..error }
    }

    /// The body of the response, which is also the last event of a stream that fails.
    pub(crate) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<FieldError> for ApiError {
    /// A field that is missing, of the wrong type, out of range or not supported.
    fn from(error: FieldError) -> Self {
        let code = Code::InvalidField.name();
        Self {
            param: Some(error.field.clone()),
            ..Self::new(StatusCode::BAD_REQUEST, code, error.to_string())
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let status =
            StatusCode::from_u16(failure.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() && failure.code != Code::ShuttingDown {
            tracing::error!(code = %failure.code, causes = ?failure.causes, detail = ?failure.detail, "{failure}");
        }
        let message = match &failure.hint {
            Some(hint) => format!("{}; {hint}", failure.message),
            None => failure.message.clone(),
        };
        // After parsing, only the messages can be at fault: the template refuses them, they cannot be
        // encoded, or they are too long.
        let of_messages = [Code::InvalidField, Code::ContextLengthExceeded].contains(&failure.code);
        let param = of_messages.then(|| "messages".to_owned());
        Self { status, message, param, code: failure.code.name().to_owned() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
