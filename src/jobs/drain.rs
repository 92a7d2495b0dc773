//! The drain: the one task that empties a job's channel into its journal and its log.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::event::{Body, Event, Terminal};
use super::job::{Job, Kind, Summary};
use super::journal::{Journal, Journals, QUEUED, STARTED};
use super::log::Log;
use crate::error::Failure;
use crate::events::{Hub, Topic};
use crate::narration::{Entry, Narration, Progress};
use crate::time::Instant;

/// So many entries are published in one go, and written to the journal in one write.
const BATCH: usize = 512;

/// Where one job's entries go.
pub(super) struct Drain {
    pub(super) job: Arc<Job>,
    pub(super) log: Arc<Log>,
    pub(super) journals: Arc<Journals>,
    pub(super) journal: Option<Journal>,
    pub(super) hub: Arc<Hub>,
    /// The least time between two progress events of one job on the hub.
    pub(super) progress_every_ms: u64,
}

/// What changes from batch to batch.
struct Written {
    seq: u64,
    at: Instant,
    result: Option<Arc<RawValue>>,
    told_progress_at: Instant,
}

/// A job on `/v1/events`.
#[derive(Serialize)]
struct JobChange<'a> {
    change: &'static str,
    job: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<&'a Progress>,
}

impl Drain {
    /// Publishes what arrives until the end is known, then the rest, then the terminal event.
    pub(super) async fn run(
        mut self,
        mut entries: mpsc::UnboundedReceiver<Entry>,
        mut end: oneshot::Receiver<Terminal>,
    ) {
        let mut written = Written { seq: 0, at: Instant(0), result: None, told_progress_at: Instant(0) };
        let mut batch = Vec::with_capacity(16);
        let terminal = loop {
            tokio::select! {
                // The end first: work that outlives its job and never falls silent must not put it off.
                biased;
                terminal = &mut end => {
                    // Whatever was said before the end is in the channel already; whoever speaks
                    // after it is told so by the closed channel.
                    entries.close();
                    while let Ok(entry) = entries.try_recv() {
                        batch.push(entry);
                    }
                    self.publish(&mut written, &mut batch);
                    break terminal;
                }
                received = entries.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        // Every sender is gone; the end must be on its way.
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
            match entry {
                Entry::Narration(Narration { at, level, action, message, progress }) => {
                    let body = Body::Narration { level, action: action.into(), message, progress };
                    events.push(written.next(at, body));
                }
                // Held back, so that it stands right before the end.
                Entry::Result { data, .. } => written.result = Some(data.into()),
            }
        }
        if events.is_empty() {
            return;
        }
        self.write(&events);
        for event in &events {
            match action(event) {
                Some(QUEUED) => self.tell_hub("queued", None),
                Some(STARTED) => {
                    // The event's own time: it is what the journal tells after a restart.
                    self.job.start(event.at);
                    self.tell_hub("start", None);
                }
                _ => {}
            }
        }
        if let Some(event) = events.iter().rev().find(|event| is_progress(event))
            && event.at.since_ms(written.told_progress_at) >= self.progress_every_ms
        {
            written.told_progress_at = event.at;
            self.tell_hub("progress", Some(event));
        }
        self.log.append(events);
    }

    fn finish(mut self, mut written: Written, terminal: Terminal) {
        if let Terminal::Failed(failure) = &terminal {
            log_failure(&self.job, failure);
        }
        let now = Instant::now();
        let result = written.result.take().filter(|_| matches!(terminal, Terminal::Done));
        let mut events = Vec::with_capacity(2);
        if let Some(data) = &result {
            events.push(written.next(now, Body::Result(Arc::clone(data))));
        }
        let last = written.next(now, Body::Terminal(terminal.clone()));
        let ended_at = last.at;
        events.push(last);
        self.write(&events);
        // The state first: whoever has read the terminal event finds the job ended.
        self.job.end(ended_at, &terminal, result);
        self.log.append(events);
        self.tell_hub("end", None);
        if self.journal.take().is_some()
            && self.log.is_elided()
            && let Err(failure) = self.journals.rewrite(self.job.header(), self.job.started_at(), &self.log)
        {
            tracing::warn!(job_id = %self.job.id(), error = %failure, "the journal keeps what the log gave up");
        }
    }

    /// Writes to the journal. Where that fails the job goes on, in memory alone.
    fn write(&mut self, events: &[Arc<Event>]) {
        if let Some(journal) = &mut self.journal
            && let Err(failure) = journal.write(events)
        {
            tracing::error!(job_id = %self.job.id(), error = %failure, "this job will not survive a restart");
            self.journal = None;
            self.job.journal_failed();
        }
    }

    fn tell_hub(&self, change: &'static str, event: Option<&Event>) {
        if self.job.header().kind == Kind::Read {
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
        // Threads race between reading the clock and sending; within a job time does not go back.
        self.at = self.at.max(at);
        Arc::new(Event { seq: self.seq, at: self.at, body })
    }
}

fn action(event: &Event) -> Option<&str> {
    match &event.body {
        Body::Narration { action, .. } => Some(action),
        _ => None,
    }
}

fn is_progress(event: &Event) -> bool {
    matches!(event.body, Body::Narration { progress: Some(_), .. })
}

/// The one place where a job's failure reaches the hive's own log, with its private detail.
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
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::jobs::JobId;
    use crate::jobs::job::Header;
    use crate::jobs::log::Bounds;
    use crate::narration::Level;
    use crate::spawn;

    const BOUNDS: Bounds = Bounds { events: 1000, bytes: 1 << 20 };

    fn drain(dir: &std::path::Path) -> Drain {
        let header = Header {
            id: JobId::new(),
            operation: "test".into(),
            kind: Kind::Act,
            request: RawValue::from_string("{}".into()).unwrap(),
            created_at: Instant::now(),
            idempotency_key: None,
        };
        let journals = Arc::new(Journals::open(dir.to_owned(), BOUNDS).unwrap());
        let log = Arc::new(Log::new(BOUNDS));
        Drain {
            journal: Some(journals.create(&header).unwrap()),
            job: Arc::new(Job::queued(header, Arc::clone(&log))),
            log,
            journals,
            hub: Arc::new(Hub::new(16)),
            progress_every_ms: 0,
        }
    }

    #[tokio::test]
    async fn a_job_has_the_times_that_its_journal_tells() {
        let dir = tempfile::tempdir().unwrap();
        let drain = drain(dir.path());
        let (job, journals) = (Arc::clone(&drain.job), Arc::clone(&drain.journals));
        let (entries, receiver) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        // The second is ahead of the clock, as where that was set back: time stands still until then.
        let ahead = Instant(Instant::now().0 + 60_000);
        for (at, action) in [(Instant(5), STARTED), (ahead, "work")] {
            let said = Narration { at, level: Level::Debug, action, message: String::new(), progress: None };
            entries.send(Entry::Narration(said)).unwrap();
        }
        end.send(Terminal::Done).unwrap();
        drain.run(receiver, ended).await;
        let recalled = journals.recall(job.id()).unwrap();
        let recalled = Job::from_journal(recalled.header, recalled.started_at, &recalled.log);
        for job in [&*job, &recalled] {
            assert_eq!((job.started_at(), job.ended_at()), (Some(Instant(5)), Some(ahead)));
        }
    }

    #[tokio::test]
    async fn the_end_comes_however_loud_the_work_that_outlives_it() {
        let dir = tempfile::tempdir().unwrap();
        let drain = drain(dir.path());
        let log = Arc::clone(&drain.log);
        let (entries, receiver) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let quiet = Arc::new(AtomicBool::new(false));
        let loud: Vec<_> = (0..4)
            .map(|_| {
                let (entries, quiet) = (entries.clone(), Arc::clone(&quiet));
                let say = move || {
                    let message = String::new();
                    let (at, level) = (Instant(0), Level::Info);
                    let said = Narration { at, level, action: "loud", message, progress: None };
                    entries.send(Entry::Narration(said)).is_ok() && !quiet.load(Ordering::Relaxed)
                };
                spawn::thread("loud", move || while say() {}).unwrap()
            })
            .collect();
        end.send(Terminal::Done).unwrap();
        let drained = tokio::time::timeout(Duration::from_secs(20), drain.run(receiver, ended)).await;
        quiet.store(true, Ordering::Relaxed);
        for thread in loud {
            thread.join().unwrap();
        }
        assert!(drained.is_ok() && log.terminal().is_some(), "the terminal event was put off");
    }
}
