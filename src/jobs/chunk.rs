//! A piece of a job's log, as one hive gives it to another: lines of JSON, of which the first is about the job and each
//! further one is an event as in a journal.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::{Body, Event};
use super::job::{JobHeader, JobState};
use super::log::{Batch, Elision};
use crate::text::json;

/// A piece of a job's log.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// What never changes about the job. The first piece and the last one have it.
    pub(crate) job: Option<JobHeader>,
    /// What the log had dropped before these events.
    pub(crate) elision: Option<Elision>,
    /// The events, in order.
    pub(crate) events: Vec<Arc<Event>>,
    /// How many events of the piece this version of the hive does not know.
    pub(crate) unknown: usize,
}

#[derive(Serialize, Deserialize)]
struct First<J> {
    #[serde(default = "nothing", skip_serializing_if = "Option::is_none")]
    job: Option<J>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elided: Option<Elision>,
}

const fn nothing<J>() -> Option<J> {
    None
}

impl Chunk {
    /// Pieces of the batch whose lines are not longer than `most` bytes, unless a single event is.
    pub(crate) fn of(batch: Batch, operation: &str, most: usize) -> Vec<Self> {
        let mut chunks = vec![Self { elision: batch.elision, ..Self::default() }];
        let mut length = 0;
        for event in batch.events {
            let line = event.to_line(operation).len() + 1;
            length += line;
            if length > most && chunks.last().is_some_and(|chunk| !chunk.events.is_empty()) {
                chunks.push(Self::default());
                length = line;
            }
            if let Some(chunk) = chunks.last_mut() {
                chunk.events.push(event);
            }
        }
        chunks
    }

    /// The piece as lines. `operation` is that of the job.
    pub(crate) fn encode(&self, operation: &str) -> String {
        let mut text = json(&First { job: self.job.as_ref(), elided: self.elision });
        for event in &self.events {
            text.push('\n');
            text.push_str(&event.to_line(operation));
        }
        text
    }

    /// Reads the piece from its lines. An event that this version does not know is counted.
    ///
    /// # Errors
    /// The first line is not about a job.
    pub(crate) fn decode(text: &[u8]) -> serde_json::Result<Self> {
        let mut lines = text.split(|byte| *byte == b'\n');
        let First { job, elided } = serde_json::from_slice(lines.next().unwrap_or_default())?;
        let mut chunk = Self { job, elision: elided, ..Self::default() };
        for line in lines {
            match Event::from_line(line) {
                Ok(event) => chunk.events.push(Arc::new(event)),
                Err(_) => chunk.unknown += 1,
            }
        }
        Ok(chunk)
    }

    /// The number of the last event; 0 where there is none.
    pub(crate) fn last_seq(&self) -> u64 {
        self.events.last().map_or(0, |event| event.seq)
    }

    /// The state in which the job is after the last event, where it has ended.
    pub(crate) fn end(&self) -> Option<JobState> {
        match &self.events.last()?.body {
            Body::Terminal(terminal) => Some(JobState::from(terminal)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::event::Terminal;
    use crate::time::Instant;

    #[test]
    fn a_piece_is_read_as_it_was_written() {
        let end = Arc::new(Event { seq: 9, at: Instant(7), body: Body::Terminal(Terminal::Cancelled) });
        let chunk = Chunk {
            elision: Some(Elision { from: 2, to: 8, count: 3 }),
            events: vec![end],
            ..Chunk::default()
        };
        let text = chunk.encode("test");
        let read = Chunk::decode(text.as_bytes()).unwrap();
        assert_eq!(read.encode("test"), text);
        assert_eq!((read.last_seq(), read.end(), read.unknown), (9, Some(JobState::Cancelled), 0));
        let newer = format!("{text}\n{{\"event\":\"paused\",\"data\":{{}}}}");
        assert_eq!(Chunk::decode(newer.as_bytes()).unwrap().unknown, 1);
        assert!(Chunk::decode(b"").is_err());
    }
}
