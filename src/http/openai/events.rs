//! Answers of server-sent events, passed on as they arrive.
//!
//! Invariants:
//! - A stream that does not end with `[DONE]` ends with an `error` object in OpenAI's form, so that no client
//!   takes half an answer for a whole one.
//! - Where nothing arrives for a while, a comment keeps the connection open. It never stands inside an event.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::exchange::{Answer, AnswerKind, not_valid};
use super::whole;
use crate::error::{Failure, Result};
use crate::http::problem::openai_error;

/// The longest line that is looked at, in bytes.
const LINE: usize = 64;

/// A stream of events to a client.
struct Events<G> {
    source: Source,
    /// How long nothing may arrive before a comment is sent.
    silence: Duration,
    progress: Progress,
    /// Dropped with the stream.
    _guard: G,
}

enum Source {
    /// The worker has not begun to answer.
    Asked(BoxFuture<'static, Result<Answer>>),
    /// The worker answers.
    Answering(Box<Answer>),
    /// The worker answers with JSON, which is read as a whole.
    Refusing(BoxFuture<'static, Result<Value>>),
    Ended,
}

/// The events of `answer`, which the worker may not have begun. `guard` is dropped with the stream.
pub(super) fn relay<G: Send + 'static>(
    answer: BoxFuture<'static, Result<Answer>>,
    silence: Duration,
    guard: G,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    let events =
        Events { source: Source::Asked(answer), silence, progress: Progress::default(), _guard: guard };
    futures::stream::unfold(events, |mut events| async move { Some((Ok(events.next().await?), events)) })
}

impl<G> Events<G> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match tokio::time::timeout(self.silence, self.step()).await {
                Ok(bytes) => return bytes,
                Err(_) if self.progress.is_between_events() => {
                    return Some(Bytes::from_static(b": waiting\n\n"));
                }
                Err(_) => {}
            }
        }
    }

    /// The next bytes; `None` at the end. Where this is dropped at an await, the next call goes on from
    /// there.
    async fn step(&mut self) -> Option<Bytes> {
        let failure = loop {
            match &mut self.source {
                Source::Ended => return None,
                Source::Asked(answer) => match answer.await {
                    Ok(answer) => self.source = Source::of(answer),
                    Err(failure) => break failure,
                },
                Source::Refusing(error) => match error.await {
                    Ok(error) => {
                        self.source = Source::Ended;
                        return Some(event(&error));
                    }
                    Err(failure) => break failure,
                },
                Source::Answering(answer) => match answer.chunk().await {
                    Ok(Some(bytes)) => {
                        self.progress.see(&bytes);
                        return Some(bytes);
                    }
                    Ok(None) if self.progress.has_ended => {
                        self.source = Source::Ended;
                        return None;
                    }
                    Ok(None) => break not_valid(answer.pid, "with a stream that breaks off"),
                    Err(failure) => break failure,
                },
            }
        };
        self.source = Source::Ended;
        tracing::error!(%failure, detail = ?failure.detail, "an answer broke off");
        Some(error_event(&failure))
    }
}

impl Source {
    fn of(mut answer: Answer) -> Self {
        match answer.kind {
            AnswerKind::Events => Self::Answering(Box::new(answer)),
            AnswerKind::Json => Self::Refusing(Box::pin(async move { refusal(&mut answer).await })),
        }
    }
}

/// The error object of an answer in JSON to a request for a stream that the client has been sent the head of.
async fn refusal(answer: &mut Answer) -> Result<Value> {
    let body: Value = serde_json::from_slice(&whole::read(answer).await?).unwrap_or_default();
    Ok(match body.get("error") {
        Some(error) if !error.is_null() => json!({"error": error}),
        _ => {
            let failure = not_valid(answer.pid, format_args!("{} without a stream", answer.status.as_u16()));
            json!({"error": openai_error(&failure, None)})
        }
    })
}

fn error_event(failure: &Failure) -> Bytes {
    event(&json!({"error": openai_error(failure, None)}))
}

fn event(data: &Value) -> Bytes {
    // The blank line in front ends an event that the worker left incomplete.
    Bytes::from(format!("\n\ndata: {data}\n\n"))
}

/// What has passed of a stream.
#[derive(Default)]
struct Progress {
    /// The beginning of the line that has not ended yet.
    line: Vec<u8>,
    /// Whether a line of an event has passed, and not the blank one after it.
    in_event: bool,
    /// Whether `[DONE]` or an error has passed: the client knows that nothing is missing.
    has_ended: bool,
}

impl Progress {
    fn is_between_events(&self) -> bool {
        !self.in_event && self.line.is_empty()
    }

    fn see(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() < LINE {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line);
            let line = line.trim_end();
            self.in_event = !line.is_empty();
            // `error:` is llama.cpp's older form.
            let data = line.strip_prefix("data:").map(str::trim_start);
            self.has_ended |= data == Some("[DONE]")
                || data.is_some_and(|data| data.starts_with("{\"error\""))
                || line.starts_with("error:")
                || line == "event: error";
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_stream_is_seen_however_it_is_cut() {
        let stream = "data: {\"text\": \"data: [DONE]\"}\r\n\r\n: comment\n\ndata: [DONE]\n\n";
        for cut in 1..stream.len() {
            let mut progress = Progress::default();
            let (first, second) = stream.split_at(cut);
            progress.see(first.as_bytes());
            assert_eq!(progress.has_ended, cut >= stream.len() - 1, "{first}");
            assert_eq!(
                progress.is_between_events(),
                first.ends_with("\n\r\n") || first.ends_with("\n\n"),
                "{first:?}"
            );
            progress.see(second.as_bytes());
            assert!(progress.has_ended && progress.is_between_events());
        }
        for error in ["data: {\"error\": {}}\n\n", "error: {\"code\":500}\n\n", "event: error\ndata: {}\n\n"]
        {
            let mut progress = Progress::default();
            progress.see(error.as_bytes());
            assert!(progress.has_ended, "{error}");
        }
    }
}
