//! The registry: from ids to jobs, and from a submission to a running job.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::drain::Drain;
use super::event::{Body, Event, Terminal};
use super::job::{Header, Job, JobId, Kind, State, StopReason, Summary};
use super::journal::{Journals, Recalled};
use super::limits::Limits;
use super::log::{Bounds, Log};
use super::run::Work;
use crate::app::AppState;
use crate::config::{Config, Jobs};
use crate::error::{Code, Failure, Result};
use crate::events::Hub;
use crate::narration::NarrationContext;
use crate::ops::{self, Submission};
use crate::spawn;
use crate::time::Instant;

/// Every job that the hive knows of.
#[derive(Debug)]
pub struct Registry {
    /// Held for short work in memory alone.
    book: Mutex<Book>,
    /// Held by a submission that has a key, from its look for an earlier one to its own entry: of
    /// two equal submissions one must find the other. Taken before `book`, never after it.
    keyed: Mutex<()>,
    limits: Limits,
    journals: Arc<Journals>,
    hub: Arc<Hub>,
    config: Jobs,
    progress_every: Duration,
    closed: AtomicBool,
    /// The drains of jobs, from before their submission is accepted.
    drains: TaskTracker,
    pruned_at: AtomicI64,
}

/// What a job takes in memory besides its events, roughly.
const JOB_BYTES: usize = 2048;

#[derive(Debug, Default)]
struct Book {
    jobs: BTreeMap<JobId, Arc<Job>>,
    keys: HashMap<String, JobId>,
}

/// A submission's answer.
#[derive(Debug)]
pub struct Submitted {
    /// The job.
    pub job: Arc<Job>,
    /// Whether an earlier submission with the same key had made it.
    pub repeated: bool,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only reads, or only acts.
    pub kind: Option<Kind>,
    /// Only those of this operation, in `snake_case`.
    pub operation: Option<String>,
    /// Only those older than this one.
    pub before: Option<JobId>,
}

/// One page of a listing, newest first.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<Summary>,
    /// `?cursor=` for the next page; null on the last.
    pub next_cursor: Option<JobId>,
}

impl Registry {
    /// Recalls the acts of earlier runs. Those that had not ended end now, as interrupted.
    ///
    /// # Errors
    /// Where the folder of journals cannot be made or read. A journal that cannot be read is
    /// reported and left alone.
    pub fn open(config: &Config, hub: Arc<Hub>) -> Result<Self> {
        let bounds = Bounds { events: config.jobs.log_events, bytes: config.jobs.log_bytes };
        let registry = Self {
            book: Mutex::default(),
            keyed: Mutex::default(),
            limits: Limits::new(&config.jobs),
            journals: Arc::new(Journals::open(config.jobs_dir(), bounds)?),
            hub,
            config: config.jobs.clone(),
            progress_every: *config.timers.progress,
            closed: AtomicBool::new(false),
            drains: TaskTracker::new(),
            pruned_at: AtomicI64::new(0),
        };
        for (i, id) in registry.journals.ids()?.into_iter().enumerate() {
            // Now and then, so that long logs are not all in memory at once.
            if i % 64 == 63 {
                registry.prune();
            }
            match registry.journals.recall(&id) {
                Ok(recalled) => registry.adopt(recalled),
                Err(failure) => tracing::warn!(%id, error = %failure, "left a journal alone"),
            }
        }
        registry.prune();
        Ok(registry)
    }

    fn adopt(&self, recalled: Recalled) {
        let Recalled { header, started_at, log } = recalled;
        if log.terminal().is_none() {
            let (at, terminal) = lost_end(&header, &log);
            log.append([Arc::new(Event { seq: log.last_seq() + 1, at, body: Body::Terminal(terminal) })]);
            if let Err(failure) = self.journals.rewrite(&header, started_at, &log) {
                tracing::warn!(job_id = %header.id, error = %failure, "the end of a job is not on disk");
            }
        }
        let job = Arc::new(Job::from_journal(header, started_at, &log));
        let mut book = self.book.lock();
        if let Some(key) = &job.header().idempotency_key {
            book.keys.insert(key.clone(), job.id().clone());
        }
        book.jobs.insert(job.id().clone(), job);
    }

    /// Makes a job of a submission and starts it.
    ///
    /// # Errors
    /// [`Code::ShuttingDown`], [`Code::QueueFull`], [`Code::IdempotencyConflict`], or where the
    /// journal of an act cannot be made.
    pub fn submit(&self, app: &AppState, submission: Submission, key: Option<String>) -> Result<Submitted> {
        // Taken before the look at `closed`: a shutdown in between waits for this job's end too.
        let drained = self.drains.token();
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::new(Code::ShuttingDown, "the hive is shutting down and takes no more jobs")
                .hint("submit it again once the hive is back"));
        }
        self.prune_now_and_then();
        let Submission { row, call, hive_id, request } = submission;
        let header = Header {
            id: JobId::new(),
            operation: row.wire_name.to_owned(),
            kind: row.kind,
            request,
            created_at: Instant::now(),
            idempotency_key: key,
        };
        let turn = header.idempotency_key.is_some().then(|| self.keyed.lock());
        if let Some(job) = self.book.lock().repeated(&header)? {
            return Ok(Submitted { job, repeated: true });
        }
        let claim = self.limits.claim(row.class)?;
        let journal = match row.kind {
            Kind::Act => Some(self.journals.create(&header)?),
            Kind::Read => None,
        };
        let log = Arc::new(Log::new(Bounds { events: self.config.log_events, bytes: self.config.log_bytes }));
        let job = Arc::new(Job::queued(header, Arc::clone(&log)));
        self.book.lock().enter(&job);
        drop(turn);

        let (entries, receiver) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let drain = Drain {
            job: Arc::clone(&job),
            log,
            journals: Arc::clone(&self.journals),
            journal,
            hub: Arc::clone(&self.hub),
            progress_every_ms: u64::try_from(self.progress_every.as_millis()).unwrap_or(u64::MAX),
        };
        spawn::detached(async move {
            drain.run(receiver, ended).await;
            drop(drained);
        });
        let context = NarrationContext::new(job.id().to_string(), row.wire_name, entries);
        self.start(
            Work { app: Arc::clone(app), job: Arc::clone(&job), row, call, hive_id, claim },
            context,
            end,
        );
        Ok(Submitted { job, repeated: false })
    }

    fn start(&self, work: Work, context: NarrationContext, end: oneshot::Sender<Terminal>) {
        // Closed between the check and the entry: the shutdown may have missed this job.
        if self.closed.load(Ordering::Acquire) {
            work.job.stop(StopReason::Shutdown);
        }
        spawn::detached(async move {
            let terminal = ops::route_operation(work, context).await;
            // The drain outlives every job; without it nobody is left to tell.
            let _told = end.send(terminal);
        });
    }

    /// The job of that id.
    ///
    /// # Errors
    /// [`Code::JobNotFound`]
    pub fn get(&self, id: &str) -> Result<Arc<Job>> {
        JobId::parse(id).and_then(|id| self.book.lock().jobs.get(&id).cloned()).ok_or_else(|| {
            Failure::new(Code::JobNotFound, format!("no job has the id '{}'", crate::text::excerpt(id)))
                .hint("GET /v1/jobs lists the jobs that are kept; reads are kept for minutes, acts for days")
        })
    }

    /// The log of a job, read back from its journal where it is there alone.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn log(&self, job: &Job) -> Result<Arc<Log>> {
        let journals = Arc::clone(&self.journals);
        job.log(async move |header: &Header| {
            let id = header.id.clone();
            spawn::blocking(move || journals.recall(&id))
                .await
                .map_err(|error| Failure::internal("reading a journal panicked").detail(error))?
                .map(|recalled| recalled.log)
        })
        .await
    }

    /// Cancels a job and waits for its end.
    ///
    /// # Errors
    /// [`Code::JobEnded`] where it had ended, or came to its end by itself before it noticed.
    pub async fn cancel(&self, job: &Job) -> Result<()> {
        let had_ended = job.state().is_ended();
        job.stop(StopReason::Cancel);
        job.ended().await;
        match job.state() {
            State::Cancelled if !had_ended => Ok(()),
            state => Err(Failure::new(
                Code::JobEnded,
                format!("the job had ended before it could be cancelled: it {}", past_tense(state)),
            )
            .hint("GET /v1/jobs/{job_id} shows its outcome")),
        }
    }

    /// A page of jobs, newest first.
    #[must_use]
    pub fn list(&self, filter: &Filter, limit: usize) -> Page {
        let book = self.book.lock();
        let wanted = |job: &&Arc<Job>| {
            filter.before.as_ref().is_none_or(|before| job.id() < before)
                && filter.state.is_none_or(|state| job.state() == state)
                && filter.kind.is_none_or(|kind| job.header().kind == kind)
                && filter.operation.as_ref().is_none_or(|operation| job.header().operation == *operation)
        };
        let mut jobs: Vec<_> = book
            .jobs
            .values()
            .rev()
            .filter(wanted)
            .take(limit.saturating_add(1))
            .map(|job| job.summary())
            .collect();
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        let next_cursor = jobs.last().filter(|_| more).map(|job| job.job_id.clone());
        Page { jobs, next_cursor }
    }

    /// Jobs that have not ended.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Job>> {
        self.book.lock().jobs.values().filter(|job| !job.state().is_ended()).cloned().collect()
    }

    /// Takes no more jobs, tells all that run to stop and waits until each has ended, with its end
    /// in its journal, in its log and on the hub.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for job in self.running() {
            job.stop(StopReason::Shutdown);
        }
        self.drains.close();
        self.drains.wait().await;
    }

    /// Prunes, at most once a second: looking at every job is not for every submission.
    fn prune_now_and_then(&self) {
        let now = Instant::now();
        let before = self.pruned_at.load(Ordering::Relaxed);
        let due = now.since_ms(Instant(before)) >= 1000;
        if due && self.pruned_at.compare_exchange(before, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.prune();
        }
    }

    /// Forgets jobs beyond what is kept: reads by age and memory, acts by age and count; leaves
    /// the logs of older acts to their journals.
    pub fn prune(&self) {
        let now = Instant::now();
        let mut book = self.book.lock();
        let mut forgotten = Vec::new();
        let (mut acts, mut acts_bytes, mut reads_bytes) = (0, 0, 0);
        for job in book.jobs.values().rev() {
            let Some(ended_at) = job.ended_at() else { continue };
            let age = Duration::from_millis(now.since_ms(ended_at));
            match job.header().kind {
                Kind::Read => {
                    reads_bytes += job.resident_bytes() + JOB_BYTES;
                    if age > *self.config.keep_reads_for || reads_bytes > self.config.reads_memory_bytes {
                        forgotten.push(Arc::clone(job));
                    }
                }
                Kind::Act => {
                    acts += 1;
                    if age > *self.config.keep_acts_for || acts > self.config.keep_acts {
                        forgotten.push(Arc::clone(job));
                        continue;
                    }
                    acts_bytes += job.resident_bytes();
                    if acts_bytes > self.config.acts_memory_bytes {
                        job.leave_to_journal();
                    }
                }
            }
        }
        for job in &forgotten {
            book.forget(job);
        }
        drop(book);
        // Their logs are freed here too, after the lock: thousands of reads may go at once.
        let acts = forgotten.iter().filter(|job| job.header().kind == Kind::Act);
        self.journals.remove(&acts.map(|job| job.id()).collect());
    }
}

impl Book {
    /// The job that an earlier submission with the same key made.
    fn repeated(&self, header: &Header) -> Result<Option<Arc<Job>>> {
        let Some(key) = &header.idempotency_key else { return Ok(None) };
        let Some(job) = self.keys.get(key).and_then(|id| self.jobs.get(id)) else { return Ok(None) };
        if job.header().request.get() == header.request.get() {
            return Ok(Some(Arc::clone(job)));
        }
        Err(Failure::new(
            Code::IdempotencyConflict,
            format!("the Idempotency-Key '{}' was used for another request", crate::text::excerpt(key)),
        )
        .hint("use a new key for a new request, and the same body with the same key"))
    }

    fn enter(&mut self, job: &Arc<Job>) {
        if let Some(key) = &job.header().idempotency_key {
            self.keys.insert(key.clone(), job.id().clone());
        }
        self.jobs.insert(job.id().clone(), Arc::clone(job));
    }

    fn forget(&mut self, job: &Job) {
        self.jobs.remove(job.id());
        if let Some(key) = &job.header().idempotency_key
            && self.keys.get(key) == Some(job.id())
        {
            self.keys.remove(key);
        }
    }
}

/// The end of a job whose journal has none.
fn lost_end(header: &Header, log: &Log) -> (Instant, Terminal) {
    // A result is written together with the end that follows it, and only where that is `done`.
    if let Some(last) = log.snapshot().1.last()
        && matches!(last.body, Body::Result(_))
    {
        return (last.at, Terminal::Done);
    }
    let failure =
        Failure::new(Code::Interrupted, format!("the hive ended while {} was under way", header.operation))
            .hint("submit it again");
    tracing::warn!(job_id = %header.id, "{failure}");
    (Instant::now(), Terminal::Failed(Arc::new(failure)))
}

const fn past_tense(state: State) -> &'static str {
    match state {
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "was cancelled",
        State::Queued | State::Running => "is still under way",
    }
}
