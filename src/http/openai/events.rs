//! Answers of server-sent events, passed on as they arrive.
//!
//! Invariants:
//! - A stream that does not end with `[DONE]` ends with an `error` object in OpenAI's form, so that no client
//!   takes half an answer for a whole one.
//! - Where nothing arrives for a while, a comment keeps the connection open. It never stands inside an event.
//! - What passes is looked at and never changed.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::exchange::{Answer, AnswerKind, not_valid};
use super::whole;
use crate::error::{Failure, Result};
use crate::http::problem::openai_error;
use crate::requests::Recorder;

/// The longest line that is looked at as a whole, in bytes. What is counted stands in shorter ones.
const LINE: usize = 16 << 10;

/// A stream of events to a client.
struct Events<G> {
    source: Source,
    /// How long nothing may arrive before a comment is sent.
    silence: Duration,
    progress: Progress,
    recorder: Recorder,
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

/// The events of `answer`, which the worker may not have begun. `recorder` is told what passes. `guard` is dropped
/// with the stream.
pub(super) fn relay<G: Send + 'static>(
    answer: BoxFuture<'static, Result<Answer>>,
    silence: Duration,
    recorder: Recorder,
    guard: G,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    let (source, progress) = (Source::Asked(answer), Progress::default());
    let events = Events { source, silence, progress, recorder, _guard: guard };
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
                        self.recorder.broke_off(error.to_string().as_bytes());
                        return Some(event(&error));
                    }
                    Err(failure) => break failure,
                },
                Source::Answering(answer) => match answer.chunk().await {
                    Ok(Some(bytes)) => {
                        self.progress.see(&bytes, &self.recorder);
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
        self.recorder.failed(&failure);
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

    /// Looks at the next bytes. A line that comes as a whole is not copied.
    fn see(&mut self, bytes: &[u8], recorder: &Recorder) {
        for segment in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = segment.strip_suffix(b"\n") else {
                self.keep(segment);
                continue;
            };
            if self.line.is_empty() {
                self.see_line(text, recorder);
                continue;
            }
            self.keep(text);
            let mut line = std::mem::take(&mut self.line);
            self.see_line(&line, recorder);
            line.clear();
            self.line = line;
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn see_line(&mut self, line: &[u8], recorder: &Recorder) {
        let line = line.trim_ascii_end();
        self.in_event = !line.is_empty();
        let data = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii_start);
        // `error:` is llama.cpp's older form.
        let error = data.filter(|data| data.starts_with(b"{\"error\"")).or(line.strip_prefix(b"error:"));
        if data == Some(b"[DONE]") {
            self.has_ended = true;
            recorder.completed();
        } else if error.is_some() || line == b"event: error" {
            self.has_ended = true;
            recorder.broke_off(error.unwrap_or_default());
        } else if let Some(data) = data {
            recorder.piece(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::{Ledger, Outcome};

    fn recorder() -> Recorder {
        Recorder::new(&Ledger::default(), "somebody".into())
    }

    #[test]
    fn what_a_stream_says_of_itself_is_read_however_it_is_cut() {
        let long = "x".repeat(2 * LINE);
        let stream = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"\"}}}}]}}\n\n\
             data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}}}}]}}\r\n\r\n\
             : {long}\n\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":2}}}}\n\n\
             data: [DONE]\n\n"
        );
        for cut in (1..stream.len()).filter(|cut| !(200..stream.len() - 150).contains(cut)) {
            let ledger = Ledger::default();
            let (mut progress, recorder) = (Progress::default(), Recorder::new(&ledger, "somebody".into()));
            let (first, second) = stream.split_at(cut);
            progress.see(first.as_bytes(), &recorder);
            progress.see(second.as_bytes(), &recorder);
            assert!(progress.line.capacity() <= LINE, "bounded memory");
            let record = ledger.find(recorder.id()).unwrap();
            let tokens = &record.tokens;
            assert_eq!((tokens.prompt, tokens.completion, tokens.are_estimated), (Some(7), Some(2), false));
            assert!(
                record.outcome == Some(Outcome::Completed) && record.times.first_token.is_some(),
                "{cut}"
            );
        }
    }

    #[test]
    fn the_end_of_a_stream_is_seen_however_it_is_cut() {
        let stream = "data: {\"text\": \"data: [DONE]\"}\r\n\r\n: comment\n\ndata: [DONE]\n\n";
        for cut in 1..stream.len() {
            let (mut progress, recorder) = (Progress::default(), recorder());
            let (first, second) = stream.split_at(cut);
            progress.see(first.as_bytes(), &recorder);
            assert_eq!(progress.has_ended, cut >= stream.len() - 1, "{first}");
            assert_eq!(
                progress.is_between_events(),
                first.ends_with("\n\r\n") || first.ends_with("\n\n"),
                "{first:?}"
            );
            progress.see(second.as_bytes(), &recorder);
            assert!(progress.has_ended && progress.is_between_events());
        }
        for error in ["data: {\"error\": {}}\n\n", "error: {\"code\":500}\n\n", "event: error\ndata: {}\n\n"]
        {
            let mut progress = Progress::default();
            progress.see(error.as_bytes(), &recorder());
            assert!(progress.has_ended, "{error}");
        }
    }
}
