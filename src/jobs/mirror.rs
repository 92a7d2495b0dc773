//! A job of another hive, as this one knows it: the same log, filled from elsewhere. Readers cannot tell it from one of
//! this hive.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::chunk::Chunk;
use super::event::{Body, Event, Terminal};
use super::job::{Job, JobHeader};
use super::log::{Bounds, Log};
use crate::error::Failure;
use crate::narration::JobStep;
use crate::time::Instant;

/// A job of another hive.
#[derive(Debug)]
pub(crate) struct Mirror {
    job: Arc<Job>,
    log: Arc<Log>,
    /// The result, which may come before its end.
    result: Mutex<Option<Arc<RawValue>>>,
}

impl Mirror {
    /// A job of which no event has come.
    pub(crate) fn new(header: JobHeader, bounds: Bounds) -> Self {
        let log = Arc::new(Log::new(bounds));
        Self { job: Arc::new(Job::queued(header, Arc::clone(&log))), log, result: Mutex::default() }
    }

    /// The job.
    pub(crate) const fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// Its log.
    pub(crate) const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The number of the last event that has come.
    pub(crate) fn last_seq(&self) -> u64 {
        self.log.last_seq()
    }

    /// Whether its end has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.log.terminal().is_some()
    }

    /// Whether events are missing between those that have come and these.
    pub(crate) fn lacks_some_before(&self, chunk: &Chunk) -> bool {
        let Some(first) = chunk.events.first() else { return false };
        let last = self.last_seq();
        let is_elided =
            chunk.elision.is_some_and(|elision| elision.from <= last + 1 && elision.to + 1 >= first.seq);
        first.seq > last + 1 && !is_elided && chunk.unknown == 0
    }

    /// Takes events that have come. Those that it has already are left out.
    pub(crate) fn take(&self, chunk: Chunk) {
        if self.has_ended() {
            return;
        }
        let last = self.last_seq();
        if let Some(elision) = chunk.elision.filter(|elision| elision.to > last) {
            self.log.restore_elision(elision);
        }
        let new: Vec<_> = chunk.events.into_iter().filter(|event| event.seq > last).collect();
        for event in &new {
            match &event.body {
                Body::Narration { step: Some(JobStep::Started), .. } => self.job.start(event.at),
                Body::Narration { .. } => {}
                Body::Result(data) => *self.result.lock() = Some(Arc::clone(data)),
                // Before the event is in the log: a reader of it finds the job ended.
                Body::Terminal(terminal) => self.job.end(event.at, terminal, self.result.lock().take()),
            }
        }
        if !new.is_empty() {
            self.log.append(new);
        }
    }

    /// Ends it here, because its hive will not tell how it ended.
    pub(crate) fn fail(&self, failure: Failure) {
        let terminal = Terminal::Failed(Arc::new(failure));
        let event = Event { seq: self.last_seq() + 1, at: Instant::now(), body: Body::Terminal(terminal) };
        self.take(Chunk { events: vec![Arc::new(event)], ..Chunk::default() });
    }
}
