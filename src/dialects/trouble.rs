//! Errors in the form of each dialect.

use serde_json::{Map, Value, json};

use crate::error::Failure;

/// The dialects, by the form of their errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The hive's own API: RFC 9457 problems and nothing else.
    Hive,
    OpenAi,
    Anthropic,
    Ollama,
}

/// Why a request got no answer, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The HTTP status that it has or would have had.
    pub(crate) status: u16,
    pub(crate) code: String,
    /// The message and the hint are one text, because client libraries show nothing else.
    pub(crate) message: String,
    /// The field at fault.
    pub(crate) param: Option<String>,
}

impl Trouble {
    /// A failure that is answered with this status.
    pub(crate) fn of(failure: &Failure, status: u16) -> Self {
        let message = match &failure.hint {
            Some(hint) => format!("{}: {hint}", failure.message),
            None => failure.message.clone(),
        };
        Self { status, code: failure.code.name().to_owned(), message, param: None }
    }

    /// What an engine says, with this status; `None` where it says nothing. Older versions of vLLM and `SGLang` have
    /// the fields of the error at the top, and frameworks of Python have a `detail`.
    pub(crate) fn of_engine(status: u16, body: &Value) -> Option<Self> {
        let error = body.get("error").filter(|error| !error.is_null()).unwrap_or(body);
        let text = |name: &str| match error.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let detail = || error.get("detail").filter(|detail| detail.is_array()).map(Value::to_string);
        let message = error.as_str().map(str::to_owned).or_else(|| text("message"));
        let message = message.or_else(|| text("detail")).or_else(detail)?;
        let code = text("code").or_else(|| text("type")).unwrap_or_else(|| "worker_error".to_owned());
        Some(Self { status, code, message, param: text("param") })
    }
}

impl Dialect {
    /// The members by which clients of the dialect know an error.
    pub(crate) fn error(self, trouble: &Trouble) -> Map<String, Value> {
        let members = match self {
            Self::Hive => Value::Null,
            Self::OpenAi => json!({"error": {
                "message": trouble.message, "type": openai_type(trouble.status), "code": trouble.code,
                "param": trouble.param,
            }}),
            // <https://docs.anthropic.com/en/api/errors>
            Self::Anthropic => json!({"type": "error", "error": {
                "type": anthropic_type(trouble.status), "message": trouble.message,
            }}),
            Self::Ollama => json!({"error": trouble.message}),
        };
        match members {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }
}

fn openai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_says_is_found_wherever_it_stands() {
        for body in [
            json!({"error": "no"}),
            json!({"error": {"message": "no", "code": 400}}),
            json!({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}),
            json!({"error": null, "detail": "no"}),
        ] {
            let trouble = Trouble::of_engine(400, &body).unwrap();
            assert_eq!((trouble.status, trouble.message.as_str()), (400, "no"), "{body}");
        }
        let detail = json!({"detail": [{"loc": ["body"], "msg": "no"}]});
        assert!(Trouble::of_engine(422, &detail).unwrap().message.contains("\"msg\":\"no\""));
        assert_eq!(Trouble::of_engine(200, &json!({"choices": []})), None);
    }

    #[test]
    fn each_status_has_the_type_by_which_client_libraries_know_it() {
        let kinds = |status| {
            let trouble = Trouble { status, code: String::new(), message: String::new(), param: None };
            let kind =
                |dialect: Dialect| dialect.error(&trouble)["error"]["type"].as_str().map(str::to_owned);
            (kind(Dialect::OpenAi).unwrap(), kind(Dialect::Anthropic).unwrap())
        };
        for (status, openai, anthropic) in [
            (400, "invalid_request_error", "invalid_request_error"),
            (401, "authentication_error", "authentication_error"),
            (403, "permission_error", "permission_error"),
            (404, "invalid_request_error", "not_found_error"),
            (413, "invalid_request_error", "request_too_large"),
            (429, "rate_limit_error", "rate_limit_error"),
            (500, "server_error", "api_error"),
            (502, "server_error", "api_error"),
            (503, "server_error", "overloaded_error"),
            (504, "server_error", "timeout_error"),
        ] {
            assert_eq!(kinds(status), (openai.to_owned(), anthropic.to_owned()), "{status}");
        }
    }
}
