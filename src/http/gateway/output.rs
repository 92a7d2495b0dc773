//! What a client gets of the bytes of an engine: the same bytes, or what its dialect writes for them.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::call::Form;
use super::exchange::{Answerer, invalid};
use super::problem::trouble;
use crate::dialects::embeddings;
use crate::dialects::engine::{self, Reader};
use crate::dialects::trouble::{Dialect, Trouble};
use crate::dialects::writer::{Writer, comment};
use crate::fields::FieldError;
use crate::http::problem::Problem;

/// The answer to one client.
pub(super) enum Output {
    Untouched,
    /// Untouched but for the length of its embeddings.
    Embeddings(usize),
    Written(Box<Written>),
}

/// An answer that a dialect writes.
pub(super) struct Written {
    reader: Reader,
    writer: Box<dyn Writer>,
    has_begun: bool,
}

impl From<Form> for Output {
    fn from(form: Form) -> Self {
        match form {
            Form::Untouched => Self::Untouched,
            Form::Embeddings(dimensions) => Self::Embeddings(dimensions),
            Form::Written(writer) => {
                Self::Written(Box::new(Written { reader: Reader::default(), writer, has_begun: false }))
            }
        }
    }
}

impl Output {
    /// The content type of a stream.
    pub(super) fn content_type(&self) -> &'static str {
        match self {
            Self::Written(written) => written.writer.content_type(),
            _ => "text/event-stream",
        }
    }

    /// What keeps a silent stream open, if its form has such a thing.
    pub(super) fn waiting(&self, text: &str) -> Option<Bytes> {
        match self {
            Self::Written(written) => written.writer.waiting(text),
            _ => Some(Bytes::from(comment(text) + "\n")),
        }
    }

    /// Whether a silent stream can be kept open at any time: a dialect writes whole events alone.
    pub(super) fn writes_whole_events(&self) -> bool {
        matches!(self, Self::Written(_))
    }

    /// The next bytes of the engine's stream. Empty where they say nothing to the client.
    pub(super) fn pass(&mut self, bytes: Bytes) -> Bytes {
        let Self::Written(written) = self else { return bytes };
        let pieces = written.reader.read(&bytes);
        let begun = written.begin();
        if pieces.is_empty() {
            return begun;
        }
        joined(begun, written.writer.pieces(pieces))
    }

    /// The end of a stream that is complete.
    pub(super) fn end(&mut self) -> Bytes {
        match self {
            Self::Written(written) => joined(written.begin(), written.writer.end()),
            _ => Bytes::new(),
        }
    }

    /// The end of a stream that breaks off.
    pub(super) fn fail(&mut self, trouble: &Trouble) -> Bytes {
        match self {
            Self::Written(written) => written.writer.fail(trouble),
            _ => last_event(&Dialect::OpenAi.error(trouble).into()),
        }
    }

    /// The end of a stream that breaks off with an error of the engine's, in its words. Untouched, it has passed.
    pub(super) fn fail_as_told(&mut self, by: &Answerer, error: &[u8]) -> Bytes {
        match self {
            Self::Written(written) => written.writer.fail(&told(by, 500, error)),
            _ => Bytes::new(),
        }
    }

    /// The response for an answer that has arrived as a whole, with the headers that pass.
    pub(super) fn whole(
        &mut self,
        by: &Answerer,
        status: StatusCode,
        mut passed: HeaderMap,
        body: Bytes,
    ) -> Response {
        let written = match self {
            Self::Written(written) => written,
            Self::Embeddings(dimensions) if status.is_success() => {
                let shortened = shortened(&body, *dimensions).map(|body| (status, passed, body));
                return shortened.map_err(Problem::from).into_response();
            }
            _ => return (status, passed, body).into_response(),
        };
        let answer = match status.is_success() {
            true => serde_json::from_slice(&body).ok().and_then(|body: Value| engine::answer(&body)),
            false => None,
        };
        let (status, value) = match answer {
            Some(answer) => (status, written.writer.whole(answer)),
            None => {
                let trouble = told(by, status.as_u16(), &body);
                let status = StatusCode::from_u16(trouble.status).unwrap_or(StatusCode::BAD_GATEWAY);
                let mut members = written.writer.dialect().error(&trouble);
                members.insert("code".to_owned(), trouble.code.into());
                (status, Value::Object(members))
            }
        };
        passed.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        (status, passed, value.to_string()).into_response()
    }

    /// What ends the stream of a client that has been sent the head of one, where the engine answers no stream.
    pub(super) fn refusal(&mut self, by: &Answerer, status: u16, body: &[u8]) -> Bytes {
        match self {
            Self::Written(written) => written.writer.fail(&told(by, status, body)),
            _ => {
                let error = serde_json::from_slice::<Value>(body).unwrap_or_default();
                match error.get("error") {
                    Some(error) if !error.is_null() => last_event(&json!({"error": error})),
                    _ => self.fail(&told(by, status, body)),
                }
            }
        }
    }
}

impl Written {
    /// The beginning of the stream, once.
    fn begin(&mut self) -> Bytes {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first { self.writer.begin() } else { Bytes::new() }
    }
}

/// What the engine says went wrong, or that it says nothing that can be read. A request at fault keeps the engine's
/// status; a success that has no answer is the engine's failure.
fn told(by: &Answerer, status: u16, body: &[u8]) -> Trouble {
    let failed = if status < 400 { 502 } else { status };
    let said = serde_json::from_slice::<Value>(body).ok();
    said.and_then(|body| Trouble::of_engine(failed, &body)).unwrap_or_else(|| {
        let nothing = invalid(by, format_args!("{status} with no chat completion"));
        let told = trouble(&nothing.into());
        Trouble { status: if failed < 500 { failed } else { told.status }, ..told }
    })
}

/// An answer whose embeddings have this length.
fn shortened(body: &[u8], dimensions: usize) -> Result<String, FieldError> {
    let mut answer: Value = serde_json::from_slice(body).unwrap_or_default();
    embeddings::shorten(&mut answer, dimensions)?;
    Ok(answer.to_string())
}

/// An event that may follow on half of another: the blank line in front ends what the worker left incomplete.
fn last_event(data: &Value) -> Bytes {
    Bytes::from(format!("\n\ndata: {data}\n\n"))
}

fn joined(first: Bytes, then: Bytes) -> Bytes {
    match (first.is_empty(), then.is_empty()) {
        (true, _) => then,
        (_, true) => first,
        _ => [first, then].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::anthropic::MessageWriter;
    use crate::dialects::chat::Chat;
    use crate::dialects::ollama::{Form as Of, OllamaWriter};

    #[test]
    fn a_stream_begins_once_also_where_it_ends_with_nothing() {
        let output = || Output::from(Form::Written(Box::new(MessageWriter::new(&Chat::default()))));
        let begins = |bytes: &Bytes| bytes.starts_with(b"event: message_start\n");
        let (mut empty, mut silent) = (output(), output());
        assert!(begins(&empty.end()));
        assert!(begins(&silent.pass(Bytes::from_static(b": comment\n\n"))));
        assert!(silent.end().starts_with(b"event: message_delta\n"));
    }

    #[test]
    fn an_error_never_has_the_status_of_a_success() {
        for (status, body, expected) in [
            (200, r#"{"choices": []}"#, 502),
            (200, r#"{"error": {"message": "no"}}"#, 502),
            (400, r#"{"detail": "no"}"#, 400),
            (422, r#"{"nothing": 1}"#, 422),
            (500, r#"{"message": "no"}"#, 500),
        ] {
            let mut output = Output::from(Form::Written(Box::new(OllamaWriter::new(Of::Chat, "m"))));
            let response = output.whole(
                &Answerer::Worker(1),
                StatusCode::from_u16(status).unwrap(),
                HeaderMap::new(),
                body.into(),
            );
            assert_eq!(response.status(), expected, "{status} {body}");
        }
    }
}
