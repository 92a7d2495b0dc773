//! Answers of server-sent events, passed on as they arrive.
//!
//! Invariants:
//! - A stream that does not end with `[DONE]` ends with an `error` object in OpenAI's form, so that no client
//!   takes half an answer for a whole one.
//! - Where nothing arrives for a while, a comment keeps the connection open. It never stands inside an event.
//! - What passes is looked at and never changed.

use std::convert::Infallible;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};

use super::attempt::{Awaited, Begun};
use super::exchange::{Answer, not_valid};
use super::problem::{error_event, event};
use super::waits::Waits;
use crate::error::Failure;
use crate::http::problem::openai_error;
use crate::requests::Recorder;
use crate::residency::Refused;

/// The longest line that is looked at as a whole, in bytes. What is counted stands in shorter ones.
const LINE: usize = 16 << 10;

/// A stream of events to a client.
struct Events {
    /// A comment that goes out first.
    first: Option<Bytes>,
    source: Source,
    waits: Waits,
    progress: Progress,
    recorder: Recorder,
}

enum Source {
    /// No answer has begun.
    Awaited(Awaited),
    /// The worker answers.
    Answering(Box<Answer>),
    Ended,
}

/// The events of an answer that has begun. `recorder` is told what passes.
pub(super) fn answering(
    answer: Box<Answer>,
    waits: Waits,
    recorder: Recorder,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream(None, Source::Answering(answer), waits, recorder)
}

/// The same of an answer that has not begun, after a first comment.
pub(super) fn waiting(
    comment: Bytes,
    answer: Awaited,
    waits: Waits,
    recorder: Recorder,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream(Some(comment), Source::Awaited(answer), waits, recorder)
}

fn stream(
    first: Option<Bytes>,
    source: Source,
    waits: Waits,
    recorder: Recorder,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let events = Events { first, source, waits, progress: Progress::default(), recorder };
    futures::stream::unfold(events, |mut events| async move { Some((Ok(events.next().await?), events)) })
}

impl Events {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.first.is_some() {
            return self.first.take();
        }
        loop {
            match &mut self.source {
                Source::Ended => return None,
                Source::Awaited(answer) => {
                    let begun = tokio::select! {
                        biased;
                        begun = answer => begun,
                        comment = self.waits.comment() => return Some(comment),
                    };
                    match begun {
                        Ok(Begun::Events(answer)) => self.source = Source::Answering(answer),
                        Ok(Begun::Whole { pid, status, body, .. }) => {
                            self.source = Source::Ended;
                            let refusal = refusal(pid, status.as_u16(), &body);
                            self.recorder.broke_off(refusal.to_string().as_bytes());
                            return Some(event(&refusal));
                        }
                        Err(refused) => return Some(self.fail(&refused)),
                    }
                }
                Source::Answering(answer) => {
                    match tokio::time::timeout(self.waits.silence(), answer.chunk()).await {
                        Ok(Ok(Some(bytes))) => {
                            self.progress.see(&bytes, &self.recorder);
                            return Some(bytes);
                        }
                        Ok(Ok(None)) if self.progress.has_ended => {
                            self.source = Source::Ended;
                            return None;
                        }
                        Ok(Ok(None)) => {
                            let breaks_off = not_valid(answer.pid, "with a stream that breaks off");
                            return Some(self.fail(&Failure::from(breaks_off).into()));
                        }
                        Ok(Err(failed)) => return Some(self.fail(&Failure::from(failed).into())),
                        Err(_) if self.progress.is_between_events() => {
                            return Some(Bytes::from_static(b": waiting\n\n"));
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Ends the stream with a failure.
    fn fail(&mut self, refused: &Refused) -> Bytes {
        self.source = Source::Ended;
        let failure = refused.failure();
        self.recorder.failed(failure);
        tracing::error!(%failure, detail = ?failure.detail, "an answer broke off");
        error_event(refused)
    }
}

/// The error object of an answer in JSON to a request for a stream whose client has been sent the head of one.
fn refusal(pid: u32, status: u16, body: &[u8]) -> Value {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match body.get("error") {
        Some(error) if !error.is_null() => json!({"error": error}),
        _ => {
            let failure = Failure::from(not_valid(pid, format_args!("{status} without a stream")));
            json!({"error": openai_error(&failure, failure.code.http_status(), None)})
        }
    }
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
