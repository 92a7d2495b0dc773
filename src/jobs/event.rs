//! What a job's log holds, and its JSON.
//!
//! A typed stream's event and a journal's line carry the same JSON, so that a job reads the same before
//! and after a restart.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::error::Failure;
use crate::narration::{JobStep, Level, Progress};
use crate::text::json;
use crate::time::Instant;

/// One event of a job.
#[derive(Debug)]
pub struct Event {
    /// Its number within the job, from 1.
    pub seq: u64,
    /// When it happened.
    pub at: Instant,
    /// What it reports.
    pub body: Body,
}

/// What an event reports.
#[derive(Clone, Debug)]
pub enum Body {
    /// A narration.
    Narration {
        /// Its level.
        level: Level,
        /// What the job was doing, in `snake_case`.
        action: Cow<'static, str>,
        /// The text for people.
        message: String,
        /// The progress, for a progress narration.
        progress: Option<Progress>,
        /// The step of the job that it reports.
        step: Option<JobStep>,
    },
    /// The operation's result; stands directly before the terminal event.
    Result(Arc<RawValue>),
    /// The end: the last event of every job.
    Terminal(Terminal),
}

/// How a job ended.
#[derive(Clone, Debug)]
pub enum Terminal {
    /// It succeeded.
    Done,
    /// It failed.
    Failed(Arc<Failure>),
    /// A caller cancelled it.
    Cancelled,
}

/// The `event:` name of a typed event and of a journal's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// [`Body::Narration`]
    Narration,
    /// [`Body::Result`]
    Result,
    /// [`Terminal::Done`]
    Done,
    /// [`Terminal::Failed`]
    Failed,
    /// [`Terminal::Cancelled`]
    Cancelled,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Narration, Self::Result, Self::Done, Self::Failed, Self::Cancelled];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Narration => "narration",
            Self::Result => "result",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a journal's line is no event.
#[derive(Debug)]
pub enum LineError {
    /// It is the beginning of JSON: its write was cut off.
    Torn,
    /// It is not JSON: it is damaged.
    Damaged,
    /// It is complete JSON, in a form that this version of the hive does not know.
    Unknown(serde_json::Error),
}

/// The JSON of an event. Its [`EventKind`] decides which fields it has.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = JobEvent)]
pub(crate) struct Data<'a> {
    seq: u64,
    at: Instant,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<Level>,
    #[schema(value_type = String)]
    operation: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    action: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Progress>)]
    progress: Option<Cow<'a, Progress>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Cow<'a, RawValue>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = JobFailedEvent)]
pub(crate) struct FailedData<'a> {
    seq: u64,
    at: Instant,
    operation: &'a str,
    #[serde(flatten)]
    failure: &'a Failure,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    event: EventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<JobStep>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Event {
    /// The event's kind.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match &self.body {
            Body::Narration { .. } => EventKind::Narration,
            Body::Result(_) => EventKind::Result,
            Body::Terminal(Terminal::Done) => EventKind::Done,
            Body::Terminal(Terminal::Failed(_)) => EventKind::Failed,
            Body::Terminal(Terminal::Cancelled) => EventKind::Cancelled,
        }
    }

    /// The event's JSON, as the data of a typed stream carries it.
    #[must_use]
    pub fn to_json(&self, operation: &str) -> String {
        let Self { seq, at, body } = self;
        let mut data = Data {
            seq: *seq,
            at: *at,
            level: None,
            operation: Cow::Borrowed(operation),
            action: None,
            message: None,
            progress: None,
            data: None,
        };
        match body {
            Body::Narration { level, action, message, progress, .. } => {
                data.level = Some(*level);
                data.action = Some(Cow::Borrowed(action));
                data.message = Some(Cow::Borrowed(message));
                data.progress = progress.as_ref().map(Cow::Borrowed);
            }
            Body::Result(result) => data.data = Some(Cow::Borrowed(result)),
            Body::Terminal(Terminal::Failed(failure)) => {
                return json(&FailedData { seq: *seq, at: *at, operation, failure });
            }
            Body::Terminal(Terminal::Done | Terminal::Cancelled) => {}
        }
        json(&data)
    }

    /// The level of the narration, if the event is one.
    pub(super) const fn level(&self) -> Option<Level> {
        match &self.body {
            Body::Narration { level, .. } => Some(*level),
            _ => None,
        }
    }

    /// The step of the job that the event reports.
    #[must_use]
    pub const fn step(&self) -> Option<JobStep> {
        match &self.body {
            Body::Narration { step, .. } => *step,
            _ => None,
        }
    }

    /// The event as one line of a journal, without its line end.
    #[must_use]
    pub fn to_line(&self, operation: &str) -> String {
        let (event, data) = (self.kind().name(), self.to_json(operation));
        match self.step() {
            Some(step) => format!(r#"{{"event":"{event}","step":"{}","data":{data}}}"#, step.name()),
            None => format!(r#"{{"event":"{event}","data":{data}}}"#),
        }
    }

    /// Reads a journal's line. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`LineError`] if it is not a line that [`Event::to_line`] writes.
    pub fn from_line(line: &[u8]) -> Result<Self, LineError> {
        Self::parse_line(line).map_err(|error| match serde_json::from_slice::<IgnoredAny>(line) {
            Ok(_) => LineError::Unknown(error),
            Err(error) if error.is_eof() => LineError::Torn,
            Err(_) => LineError::Damaged,
        })
    }

    fn parse_line(line: &[u8]) -> serde_json::Result<Self> {
        let line: Line<'_> = serde_json::from_slice(line)?;
        Self::parse(line.event, line.data.get(), line.step)
    }

    /// Reads an event of a typed stream, whose data [`Event::to_json`] writes. Unknown fields are ignored;
    /// an event of another name is `None`.
    ///
    /// # Errors
    /// The data is not what an event of that name has.
    pub fn from_typed(name: &str, data: &str) -> serde_json::Result<Option<Self>> {
        let kind = EventKind::ALL.into_iter().find(|kind| kind.name() == name);
        kind.map(|kind| Self::parse(kind, data, None)).transpose()
    }

    fn parse(event: EventKind, json: &str, step: Option<JobStep>) -> serde_json::Result<Self> {
        let data: Data<'_> = serde_json::from_str(json)?;
        let missing = |field: &str| serde::de::Error::custom(format!("missing field `{field}`"));
        let body = match event {
            EventKind::Narration => Body::Narration {
                level: data.level.ok_or_else(|| missing("level"))?,
                action: Cow::Owned(data.action.ok_or_else(|| missing("action"))?.into_owned()),
                message: data.message.ok_or_else(|| missing("message"))?.into_owned(),
                progress: data.progress.map(Cow::into_owned),
                step,
            },
            EventKind::Result => Body::Result(data.data.ok_or_else(|| missing("data"))?.into_owned().into()),
            EventKind::Done => Body::Terminal(Terminal::Done),
            EventKind::Failed => Body::Terminal(Terminal::Failed(Arc::new(serde_json::from_str(json)?))),
            EventKind::Cancelled => Body::Terminal(Terminal::Cancelled),
        };
        Ok(Self { seq: data.seq, at: data.at, body })
    }

    /// About how many bytes of memory the event takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let text = match &self.body {
            Body::Narration { message, progress, .. } => {
                message.len() + if progress.is_some() { size_of::<Progress>() } else { 0 }
            }
            Body::Result(data) => data.get().len(),
            Body::Terminal(Terminal::Failed(failure)) => {
                failure.message.len() + failure.log_tail.iter().map(String::len).sum::<usize>()
            }
            Body::Terminal(_) => 0,
        };
        text + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn round_trip(body: Body) -> (String, String) {
        let event = Event { seq: 7, at: Instant(1_763_899_200_123), body };
        let line = event.to_line("model_load");
        let again = Event::from_line(line.as_bytes()).unwrap().to_line("model_load");
        (line, again)
    }

    #[test]
    fn a_narration_has_the_json_of_the_contract() {
        let (line, again) = round_trip(Body::Narration {
            level: Level::Info,
            action: "model_download_progress".into(),
            message: "25 %".into(),
            progress: Some(Progress {
                done: 1,
                total: Some(4),
                unit: "bytes".into(),
                rate_per_second: Some(2),
                eta_seconds: Some(1),
                ..Progress::default()
            }),
            step: None,
        });
        assert_eq!(
            line,
            concat!(
                r#"{"event":"narration","data":{"seq":7,"at":"2025-11-23T12:00:00.123Z","level":"info","#,
                r#""operation":"model_load","action":"model_download_progress","message":"25 %","#,
                r#""progress":{"done":1,"total":4,"unit":"bytes","rate_per_second":2,"eta_seconds":1}}}"#
            )
        );
        assert_eq!(line, again);
    }

    #[test]
    fn every_kind_of_event_is_read_back_from_its_line() {
        let result = serde_json::value::to_raw_value(&serde_json::json!({"z": 1, "a": [2]})).unwrap();
        let failure = Failure::new(Code::ModelCorrupt, "no").hint("yes").stage("load");
        for body in [
            Body::Result(result.into()),
            Body::Terminal(Terminal::Done),
            Body::Terminal(Terminal::Failed(Arc::new(failure))),
            Body::Terminal(Terminal::Cancelled),
        ] {
            let (line, again) = round_trip(body);
            assert_eq!(line, again);
        }
    }

    #[test]
    fn an_event_of_a_typed_stream_is_read_back() {
        let event = Event { seq: 3, at: Instant(0), body: Body::Terminal(Terminal::Done) };
        let read = Event::from_typed("done", &event.to_json("x")).unwrap().unwrap();
        assert_eq!(read.to_line("x"), event.to_line("x"));
        assert!(Event::from_typed("elision", "{}").unwrap().is_none());
        assert!(Event::from_typed("narration", &event.to_json("x")).is_err());
    }

    #[test]
    fn a_journal_line_has_the_step_and_a_stream_does_not() {
        let event = Event {
            seq: 2,
            at: Instant(0),
            body: Body::Narration {
                level: Level::Debug,
                action: "job_started".into(),
                message: String::new(),
                progress: None,
                step: Some(JobStep::Started),
            },
        };
        assert!(!event.to_json("x").contains("step"));
        assert_eq!(Event::from_line(event.to_line("x").as_bytes()).unwrap().step(), Some(JobStep::Started));
    }

    #[test]
    fn a_torn_line_and_an_unknown_one_are_told_apart() {
        let line = Event { seq: 1, at: Instant(0), body: Body::Terminal(Terminal::Done) }.to_line("x");
        let read = |line: &str| Event::from_line(line.as_bytes());
        for end in 0..line.len() {
            assert!(matches!(read(&line[..end]), Err(LineError::Torn)));
        }
        for damaged in [line.replace('}', "]"), format!("{line}x"), line.replace('"', "\0")] {
            assert!(matches!(read(&damaged), Err(LineError::Damaged)), "{damaged}");
        }
        assert!(matches!(read(&line.replace("done", "paused")), Err(LineError::Unknown(_))));
        assert!(read(&line.replace("{\"seq", "{\"more\":[1],\"seq")).is_ok());
    }

    #[test]
    fn a_failure_with_a_code_of_a_newer_version_keeps_its_words() {
        let line = r#"{"event":"failed","data":{"seq":1,"at":"2026-11-23T12:00:00.123Z",
            "operation":"x","code":"of_a_later_version","message":"the words","hint":"the hint"}}"#;
        let Body::Terminal(Terminal::Failed(failure)) = Event::from_line(line.as_bytes()).unwrap().body
        else {
            panic!("it failed")
        };
        assert_eq!((failure.code, failure.message.as_str()), (Code::OutcomeUnknown, "the words"));
        assert_eq!(failure.hint.as_deref(), Some("the hint"));
    }
}
