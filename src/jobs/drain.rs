//! The drain: the one task that moves a job's entries from its channel to its journal and its log.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use super::counts::Counts;
use super::event::{Body, Event, Terminal};
use super::job::{Job, JobSummary, OperationKind};
use super::journal::{Journal, Journals};
use super::log::Log;
use crate::error::Failure;
use crate::events::{Hub, Topic};
use crate::narration::{Entry, JobStep, Level, Narration, Progress};
use crate::time::{Instant, Pace};

/// The most entries that are written to the journal in one write and published together.
const BATCH: usize = 512;

/// The action of the narration that a job's journal cannot be written.
pub(super) const NOT_JOURNALLED: &str = "job_not_journalled";

/// The text of that narration.
pub(super) fn not_journalled(failure: &Failure) -> String {
    format!(
        "The job goes on, but its journal cannot be written: {failure}. If that fails at the end of the \
         job too, a restart of the hive forgets the job, or takes it for interrupted"
    )
}

/// The destinations of one job's entries.
pub(super) struct Drain {
    pub(super) job: Arc<Job>,
    pub(super) log: Arc<Log>,
    pub(super) journals: Arc<Journals>,
    pub(super) journal: Option<Journal>,
    pub(super) hub: Arc<Hub>,
    pub(super) counts: Arc<Counts>,
    /// The least time between two progress changes of one job on the hub.
    pub(super) progress_every: Duration,
}

/// What the drain remembers from batch to batch.
struct Written {
    seq: u64,
    at: Instant,
    result: Option<Arc<RawValue>>,
    progress: Pace,
}

/// A job on `/v1/events`.
#[derive(Serialize, ToSchema)]
#[schema(as = JobChangeEvent)]
pub(crate) struct JobChange<'a> {
    change: &'static str,
    job: JobSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<&'a Progress>,
}

impl Drain {
    /// Publishes what arrives until the job's end is known, then the rest, then the terminal event.
    pub(super) async fn run(
        mut self,
        mut entries: mpsc::UnboundedReceiver<Entry>,
        mut end: oneshot::Receiver<Terminal>,
    ) {
        let mut written = Written { seq: 0, at: Instant(0), result: None, progress: Pace::default() };
        let mut batch = Vec::with_capacity(16);
        let terminal = loop {
            tokio::select! {
                // The end first: work that outlives its job and keeps narrating must not delay it.
                biased;
                terminal = &mut end => {
                    // What was said before the end is in the channel already. What is said after it
                    // finds the channel closed, and is counted.
                    entries.close();
                    while let Ok(entry) = entries.try_recv() {
                        batch.push(entry);
                    }
                    self.publish(&mut written, &mut batch);
                    break terminal;
                }
                received = entries.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        // Every sender is gone: the end follows.
                        break (&mut end).await;
                    }
                    self.publish(&mut written, &mut batch);
                }
            }
        };
        let terminal = terminal.unwrap_or_else(|_| {
            Terminal::Failed(Arc::new(Failure::internal("the task that ran the job vanished")))
        });
        self.finish(written, terminal);
    }

    fn publish(&mut self, written: &mut Written, batch: &mut Vec<Entry>) {
        let mut events = Vec::with_capacity(batch.len());
        for entry in batch.drain(..) {
            let (narration, step) = match entry {
                Entry::Narration(narration) => (narration, None),
                Entry::Step { step, narration } => (narration, Some(step)),
                // Held back, so that it stands directly before the end.
                Entry::Result { data, .. } => {
                    written.result = Some(data.into());
                    continue;
                }
            };
            let Narration { at, level, action, message, progress } = narration;
            events.push(
                written.next(at, Body::Narration { level, action: action.into(), message, progress, step }),
            );
        }
        if events.is_empty() {
            return;
        }
        if let Some(note) = self.write(&events, written) {
            events.push(note);
        }
        self.counts.narrated(events.iter().filter_map(|event| event.level()));
        for event in &events {
            match event.step() {
                Some(JobStep::Queued) => self.publish_change("queued", None),
                Some(JobStep::Started) => {
                    // The event's own time, because that is the time in the journal.
                    self.job.start(event.at);
                    self.publish_change("start", None);
                }
                None => {}
            }
        }
        if let Some(event) = events.iter().rev().find(|event| is_progress(event))
            && written.progress.is_due(self.progress_every)
        {
            self.publish_change("progress", Some(event));
        }
        self.log.append(events);
    }

    fn finish(mut self, mut written: Written, terminal: Terminal) {
        if let Terminal::Failed(failure) = &terminal {
            log_failure(&self.job, failure);
        }
        let now = Instant::now();
        let result = written.result.take().filter(|_| matches!(terminal, Terminal::Done));
        let ending = |written: &mut Written| {
            let result = result.clone().map(|data| written.next(now, Body::Result(data)));
            let last = written.next(now, Body::Terminal(terminal.clone()));
            result.into_iter().chain([last]).collect::<Vec<_>>()
        };
        let before = written.seq;
        let mut events = ending(&mut written);
        // The note stands before the result, which takes its number anew: nobody has read it yet.
        let mut again = Written { seq: before, at: written.at, ..written };
        if let Some(note) = self.write(&events, &mut again) {
            events = [note].into_iter().chain(ending(&mut again)).collect();
        }
        let ended_at = again.at;
        let header = self.job.header();
        let took = Duration::from_millis(ended_at.since_ms(header.created_at));
        self.counts.ended(&header.operation, &terminal, took);
        // The state first: a reader of the terminal event finds the job ended.
        self.job.end(ended_at, &terminal, result);
        self.log.append(events);
        self.publish_change("end", None);
        if self.journal.take().is_some() {
            if self.log.is_elided()
                && let Err(failure) = self.journals.rewrite(self.job.id(), self.job.started_at(), &self.log)
            {
                tracing::warn!(
                    job_id = %self.job.id(),
                    error = %failure,
                    "the journal still has the events that the log dropped"
                );
            }
        } else if !self.job.is_journalled() {
            self.write_lost_journal();
        }
    }

    /// Writes to the journal. If that fails, the job goes on in memory alone; the event that says so is
    /// returned.
    fn write(&mut self, events: &[Arc<Event>], written: &mut Written) -> Option<Arc<Event>> {
        let failure = self.journal.as_mut()?.write(events).err()?;
        tracing::error!(job_id = %self.job.id(), error = %failure, "the journal of a job cannot be written");
        self.journal = None;
        self.job.journal_failed();
        let (level, action, message) = (Level::Warn, NOT_JOURNALLED.into(), not_journalled(&failure));
        let body = Body::Narration { level, action, message, progress: None, step: None };
        Some(written.next(Instant::now(), body))
    }

    /// Writes the whole journal of a job that ended without one: what it did may have made room. What is
    /// left of a journal without an end is removed otherwise, or the next run of the hive would take the
    /// job for interrupted.
    fn write_lost_journal(&self) {
        match self.journals.write_anew(self.job.header(), self.job.started_at(), &self.log) {
            Ok(()) => self.job.journal_written(),
            Err(failure) => {
                tracing::warn!(job_id = %self.job.id(), error = %failure, "a job has no journal");
                self.journals.remove_one(self.job.id());
            }
        }
    }

    /// Tells the readers of `/v1/events` about an act.
    fn publish_change(&self, change: &'static str, event: Option<&Event>) {
        if self.job.header().kind == OperationKind::Read {
            return;
        }
        let (message, progress) = match event.map(|event| &event.body) {
            Some(Body::Narration { message, progress, .. }) => (Some(message.as_str()), progress.as_ref()),
            _ => (None, None),
        };
        self.hub.publish(Topic::Job, &JobChange { change, job: self.job.summary(), message, progress });
    }
}

impl Written {
    fn next(&mut self, at: Instant, body: Body) -> Arc<Event> {
        self.seq += 1;
        // A thread may read the clock before another one and send after it; a job's times still ascend.
        self.at = self.at.max(at);
        Arc::new(Event { seq: self.seq, at: self.at, body })
    }
}

fn is_progress(event: &Event) -> bool {
    matches!(event.body, Body::Narration { progress: Some(_), .. })
}

/// Logs a job's failure with its private detail: the one place that does.
fn log_failure(job: &Job, failure: &Failure) {
    tracing::warn!(
        job_id = %job.id(),
        operation = job.header().operation,
        code = failure.code.name(),
        stage = failure.stage,
        causes = ?failure.causes,
        detail = failure.detail.as_ref().map(|detail| format!("{detail:#}")),
        "{failure}"
    );
}

#[cfg(test)]
mod tests;
