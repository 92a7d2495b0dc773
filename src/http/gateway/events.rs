//! Answers of server-sent events, passed on as they arrive.
//!
//! Invariants:
//! - A stream that does not end with `[DONE]` ends with an error in the form of its dialect, so that no client
//!   takes half an answer for a whole one.
//! - Where nothing arrives for a while, a comment keeps the connection open. It never stands inside an event.
//! - What passes untouched is looked at and never changed.

use std::convert::Infallible;

use bytes::Bytes;
use futures::Stream;

use super::attempt::{Awaited, Begun};
use super::exchange::{Answer, Answerer, invalid};
use super::output::Output;
use super::problem::trouble;
use super::waits::Waits;
use crate::requests::Recorder;
use crate::residency::Refused;

/// The longest line that is looked at as a whole, in bytes. What is counted stands in shorter ones.
const LINE: usize = 16 << 10;

/// A stream of events to a client.
pub(super) struct Events {
    /// A comment that goes out first.
    pub(super) first: Option<Bytes>,
    pub(super) source: Source,
    pub(super) waits: Waits,
    pub(super) output: Output,
    pub(super) progress: Progress,
    /// Is told what passes.
    pub(super) recorder: Recorder,
}

pub(super) enum Source {
    /// No answer has begun.
    Awaited(Awaited),
    /// The worker answers.
    Answering(Box<Answer>),
    Ended,
}

impl Events {
    pub(super) fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        futures::stream::unfold(self, |mut events| async move { Some((Ok(events.next().await?), events)) })
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.first.is_some() {
            return self.first.take();
        }
        loop {
            let bytes = self.more().await?;
            // A body must not have an empty chunk in its middle: it would end it.
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
    }

    /// The next bytes, which may be none.
    async fn more(&mut self) -> Option<Bytes> {
        match &mut self.source {
            Source::Ended => None,
            Source::Awaited(answer) => {
                let begun = tokio::select! {
                    biased;
                    begun = answer => begun,
                    comment = self.waits.comment() => return Some(self.output.waiting(&comment).unwrap_or_default()),
                };
                match begun {
                    Ok(Begun::Events(answer)) => {
                        self.source = Source::Answering(answer);
                        Some(Bytes::new())
                    }
                    Ok(Begun::Whole { by, status, body, .. }) => {
                        self.source = Source::Ended;
                        self.recorder.broke_off(&body);
                        Some(self.output.refusal(&by, status.as_u16(), &body))
                    }
                    Err(refused) => Some(self.fail(&refused)),
                }
            }
            Source::Answering(answer) => {
                let next = tokio::time::timeout(self.waits.silence(), answer.chunk()).await;
                let by = answer.by.clone();
                match next {
                    Ok(Ok(Some(bytes))) => {
                        self.progress.see(&bytes, &self.recorder);
                        Some(self.output.pass(bytes))
                    }
                    Ok(Ok(None)) => {
                        let Some(end) = self.progress.end.take() else {
                            return Some(self.fail(&breaks_off(&by)));
                        };
                        self.source = Source::Ended;
                        Some(end.told(&by, &mut self.output))
                    }
                    Ok(Err(failed)) => Some(self.fail(&failed.into())),
                    Err(_) if self.output.writes_whole_events() || self.progress.is_between_events() => {
                        Some(self.output.waiting("waiting").unwrap_or_default())
                    }
                    Err(_) => Some(Bytes::new()),
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
        self.output.fail(&trouble(refused))
    }
}

fn breaks_off(by: &Answerer) -> Refused {
    invalid(by, "with a stream that breaks off").into()
}

/// How a stream has ended, as it says: the client knows that nothing is missing.
#[derive(Debug)]
pub(super) enum End {
    /// `[DONE]`.
    Done,
    /// An error.
    Error(Vec<u8>),
}

impl End {
    /// What the client gets at this end.
    fn told(&self, by: &Answerer, output: &mut Output) -> Bytes {
        match self {
            Self::Done => output.end(),
            Self::Error(error) => output.fail_as_told(by, error),
        }
    }
}

/// What has passed of a stream.
#[derive(Default)]
pub(super) struct Progress {
    /// The beginning of the line that has not ended yet.
    line: Vec<u8>,
    /// Whether a line of an event has passed, and not the blank one after it.
    in_event: bool,
    /// How it has ended, once it has.
    end: Option<End>,
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
            // vLLM ends every stream so, also one that has broken off with an error.
            if self.end.is_none() {
                self.end = Some(End::Done);
                recorder.completed();
            }
        } else if error.is_some() || line == b"event: error" {
            let error = error.unwrap_or_default();
            self.end = Some(End::Error(error.to_vec()));
            recorder.broke_off(error);
        } else if let Some(data) = data {
            recorder.piece(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call;
    use super::*;
    use crate::dialects::ollama::{Form, OllamaWriter};
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
    fn an_error_stays_the_end_of_a_stream_whatever_follows() {
        let mut progress = Progress::default();
        progress.see(b"data: {\"error\": {\"message\": \"out of memory\"}}\n\ndata: [DONE]\n\n", &recorder());
        let writer = Box::new(OllamaWriter::new(Form::Chat, "m"));
        let told =
            progress.end.unwrap().told(&Answerer::Worker(1), &mut Output::from(call::Form::Written(writer)));
        assert_eq!(&told[..], b"{\"error\":\"out of memory\"}\n");
    }

    #[test]
    fn the_end_of_a_stream_is_seen_however_it_is_cut() {
        let stream = "data: {\"text\": \"data: [DONE]\"}\r\n\r\n: comment\n\ndata: [DONE]\n\n";
        for cut in 1..stream.len() {
            let (mut progress, recorder) = (Progress::default(), recorder());
            let (first, second) = stream.split_at(cut);
            progress.see(first.as_bytes(), &recorder);
            assert_eq!(progress.end.is_some(), cut >= stream.len() - 1, "{first}");
            assert_eq!(
                progress.is_between_events(),
                first.ends_with("\n\r\n") || first.ends_with("\n\n"),
                "{first:?}"
            );
            progress.see(second.as_bytes(), &recorder);
            assert!(progress.end.is_some() && progress.is_between_events());
        }
        for error in ["data: {\"error\": {}}\n\n", "error: {\"code\":500}\n\n", "event: error\ndata: {}\n\n"]
        {
            let mut progress = Progress::default();
            progress.see(error.as_bytes(), &recorder());
            assert!(progress.end.is_some(), "{error}");
        }
    }
}
