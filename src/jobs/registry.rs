//! The registry: every job by its id, and the start of a submitted one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::counts::{Counts, JobCounts};
use super::drain::{Drain, NOT_JOURNALLED, not_journalled};
use super::index::{Index, JobFilter, JobPage};
use super::job::{Job, JobHeader, JobId, JobState, OperationKind, StopReason};
use super::journal::{JournalState, Journals, RecallError, RecalledJob};
use super::limits::Limits;
use super::log::{Bounds, Log};
use super::run::{JobRun, NewJob, RunLimits};
use crate::config::{Config, Jobs};
use crate::error::{Code, Failure, Result};
use crate::events::Hub;
use crate::n;
use crate::narration::NarrationContext;
use crate::spawn;
use crate::time::{Instant, Pace};

/// The shortest time between two looks at every job for old ones.
const PRUNE_PAUSE: Duration = Duration::from_secs(1);

/// Every job of the hive.
#[derive(Debug)]
pub struct Registry {
    /// Held for short work in memory alone.
    index: Mutex<Index>,
    /// Held by a submission with an idempotency key while it looks for an earlier one and enters its own
    /// job, so that of two equal submissions one finds the other. Taken before `index`, never after it.
    keyed: Mutex<()>,
    limits: Limits,
    journals: Arc<Journals>,
    hub: Arc<Hub>,
    counts: Arc<Counts>,
    config: Jobs,
    /// How long and how much is kept; a reload changes it.
    retention: Mutex<Jobs>,
    progress_every: Duration,
    run_limits: RunLimits,
    closed: AtomicBool,
    /// The drains of jobs, from before their submission is accepted.
    drains: TaskTracker,
    pruning: Mutex<Pace>,
    /// Who is told of every new act.
    follower: Mutex<Option<mpsc::UnboundedSender<Arc<Job>>>>,
    /// The journals that could not be read, or not whole, when the hive started.
    not_understood: Vec<String>,
}

/// A submission's answer.
#[derive(Debug)]
pub struct Submitted {
    /// The job.
    pub job: Arc<Job>,
    /// Whether an earlier submission with the same key made it.
    pub repeated: bool,
}

impl Registry {
    /// Reads back the acts of earlier runs. Those that had not ended end now, as interrupted.
    ///
    /// # Errors
    /// If the folder of journals cannot be made or read. A journal that cannot be read, or that a newer
    /// version wrote, is logged and left as it is.
    pub fn open(config: &Config, hub: Arc<Hub>) -> Result<Self> {
        let bounds = Bounds { events: config.jobs.log_events, bytes: config.jobs.log_bytes };
        let mut registry = Self {
            index: Mutex::default(),
            keyed: Mutex::default(),
            limits: Limits::new(&config.jobs),
            journals: Arc::new(Journals::open(config.jobs_dir(), bounds)?),
            hub,
            counts: Arc::default(),
            config: config.jobs.clone(),
            retention: Mutex::new(config.jobs.clone()),
            progress_every: *config.timers.progress,
            run_limits: RunLimits::new(&config.timers),
            closed: AtomicBool::new(false),
            drains: TaskTracker::new(),
            pruning: Mutex::default(),
            follower: Mutex::default(),
            not_understood: Vec::new(),
        };
        let ids = registry.journals.ids()?;
        // The clock may have been set on or back since: history is as old as the clock says now, or as its
        // newest job says, whichever is less.
        let as_of = ids.last().map_or_else(Instant::now, |newest| newest.made_at().min(Instant::now()));
        for (i, id) in ids.into_iter().enumerate() {
            // In between, so that the logs are not all in memory at once.
            if i % 64 == 63 {
                registry.prune();
            }
            match registry.journals.recall(&id) {
                Ok(recalled) => registry.enter_recalled(recalled, as_of),
                Err(RecallError::Newer(what)) => {
                    tracing::warn!(job_id = %id, "{what}; it is left as it is: update rbee-hive to see this job");
                    registry.not_understood.push(what);
                }
                Err(RecallError::Unreadable(failure)) => {
                    tracing::warn!(job_id = %id, error = %failure, "this journal is left as it is");
                    registry.not_understood.push(failure.message);
                }
            }
        }
        registry.prune();
        Ok(registry)
    }

    fn enter_recalled(&mut self, recalled: RecalledJob, as_of: Instant) {
        let RecalledJob { header, started_at, log, journal } = &recalled;
        let mut is_left_alone = *journal == JournalState::LeftAlone;
        let mended = match journal {
            JournalState::Whole => Ok(()),
            JournalState::WithoutEnd => self.journals.rewrite(&header.id, *started_at, log),
            JournalState::Damaged => {
                tracing::warn!(job_id = %header.id, damage = ?header.journal_damage, "a journal is damaged");
                self.journals.replace_damaged(&recalled)
            }
            JournalState::LeftAlone => {
                let what = format!("the journal of {} has events that this version does not know", header.id);
                tracing::warn!("{what}; it is left as it is");
                self.not_understood.push(what);
                Ok(())
            }
        };
        if let Err(failure) = mended {
            // The next start of the hive tries it again.
            is_left_alone = true;
            tracing::warn!(job_id = %header.id, error = %failure, "the end of a job is not on disk");
        }
        let RecalledJob { header, started_at, log, .. } = recalled;
        let job = Job::from_journal(header, started_at, &log, is_left_alone, as_of);
        self.index.lock().add(&Arc::new(job));
    }

    /// What is wrong with the history on disk: the damaged journals that were set aside, and what this
    /// version did not understand when it started.
    ///
    /// # Errors
    /// If the folder of journals cannot be read.
    pub fn damage(&self) -> Result<(Vec<PathBuf>, &[String])> {
        Ok((self.journals.damaged()?, &self.not_understood))
    }

    /// Makes a job and starts it.
    ///
    /// # Errors
    /// [`Code::ShuttingDown`], [`Code::QueueFull`], [`Code::IdempotencyConflict`], or if the journal of
    /// an act cannot be made.
    pub fn submit(&self, new: NewJob) -> Result<Submitted> {
        // Taken before the look at `closed`: a shutdown in between waits for this job's end too.
        let drained = self.drains.token();
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::new(Code::ShuttingDown, "the hive is shutting down and takes no more jobs")
                .hint("submit it again once the hive is back"));
        }
        self.prune_if_due();
        let NewJob { operation, kind, class, runs_unjournalled, request, idempotency_key, run } = new;
        let header = JobHeader {
            id: JobId::new(),
            operation: operation.to_owned(),
            kind,
            request,
            created_at: Instant::now(),
            idempotency_key,
            journal_damage: None,
        };
        let keyed = header.idempotency_key.is_some().then(|| self.keyed.lock());
        if let Some(job) = self.index.lock().repeated(&header)? {
            return Ok(Submitted { job, repeated: true });
        }
        let claim = self.limits.claim(class)?;
        let (journal, not_written) = match kind {
            OperationKind::Act => match self.journals.create(&header) {
                Ok(journal) => (Some(journal), None),
                Err(failure) if runs_unjournalled => (None, Some(failure)),
                Err(failure) => return Err(failure),
            },
            OperationKind::Read => (None, None),
        };
        let log = Arc::new(Log::new(self.bounds()));
        let job = Arc::new(Job::queued(header, Arc::clone(&log)).of_class(class));
        {
            let mut index = self.index.lock();
            index.add(&job);
            if kind == OperationKind::Act
                && let Some(follower) = &*self.follower.lock()
            {
                // Nobody follows any more.
                let _sent = follower.send(Arc::clone(&job));
            }
        }
        drop(keyed);

        let (entries, receiver) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let drain = Drain {
            job: Arc::clone(&job),
            log,
            journals: Arc::clone(&self.journals),
            journal,
            hub: Arc::clone(&self.hub),
            counts: Arc::clone(&self.counts),
            progress_every: self.progress_every,
        };
        spawn::detached(async move {
            drain.run(receiver, ended).await;
            drop(drained);
        });
        // Closed since the check above: the shutdown may have missed this job.
        if self.closed.load(Ordering::Acquire) {
            job.stop(StopReason::Shutdown);
        }
        let context = NarrationContext::new(job.id().to_string(), operation, entries);
        if let Some(failure) = not_written {
            job.journal_failed();
            context.clone().enter(|| n!(warn: NOT_JOURNALLED, "{}", not_journalled(&failure)));
        }
        let running = run(JobRun::new(Arc::clone(&job), claim, self.run_limits), context);
        spawn::detached(async move {
            let terminal = running.await;
            // The drain outlives every job, so it receives this.
            let _sent = end.send(terminal);
        });
        Ok(Submitted { job, repeated: false })
    }

    /// The job of that id.
    ///
    /// # Errors
    /// [`Code::JobNotFound`]
    pub fn get(&self, id: &str) -> Result<Arc<Job>> {
        JobId::parse(id).and_then(|id| self.index.lock().get(&id).cloned()).ok_or_else(|| {
            Failure::new(Code::JobNotFound, format!("no job has the id '{}'", crate::text::excerpt(id)))
                .hint("GET /v1/jobs lists the jobs that are kept; reads are kept for minutes, acts for days")
        })
    }

    /// The log of a job, read back from its journal if it is not in memory.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn log(&self, job: &Job) -> Result<Arc<Log>> {
        let journals = Arc::clone(&self.journals);
        job.log(async move |header: &JobHeader| {
            let id = header.id.clone();
            Ok(spawn::blocking(move || journals.recall(&id)).await??.log)
        })
        .await
    }

    /// The acts that there are, oldest first, and then each new one. There is one follower: a later one takes its place.
    pub(crate) fn follow_acts(&self) -> (Vec<Arc<Job>>, mpsc::UnboundedReceiver<Arc<Job>>) {
        let (sender, new) = mpsc::unbounded_channel();
        let index = self.index.lock();
        *self.follower.lock() = Some(sender);
        (index.acts(), new)
    }

    /// Makes an ended act what `log` has of it: the fleet has recorded another end.
    ///
    /// # Errors
    /// If its journal cannot be written; the job is changed in memory then.
    pub(crate) fn adopt(&self, job: &Arc<Job>, log: &Arc<Log>) -> Result<()> {
        let before = job.resident_log().map_or(0, |before| before.last_seq());
        tracing::warn!(
            job_id = %job.id(),
            events_here = before,
            events_there = log.last_seq(),
            "the fleet ended a job of this hive while it was out of reach; that end counts"
        );
        job.become_what(log);
        let written = self.journals.write_anew(job.header(), job.started_at(), log);
        match &written {
            Ok(()) => job.journal_written(),
            Err(_) => job.journal_failed(),
        }
        written
    }

    /// How much of a job's log is kept.
    pub(crate) const fn bounds(&self) -> Bounds {
        Bounds { events: self.config.log_events, bytes: self.config.log_bytes }
    }

    /// Cancels a job and waits for its end.
    ///
    /// # Errors
    /// [`Code::JobEnded`] if it had ended, or ended by itself before it noticed.
    pub async fn cancel(&self, job: &Job) -> Result<()> {
        let had_ended = job.state().is_ended();
        job.stop(StopReason::Cancel);
        job.ended().await;
        match job.state() {
            JobState::Cancelled if !had_ended => Ok(()),
            state => Err(Failure::new(
                Code::JobEnded,
                format!("the job had ended before it could be cancelled: it {}", past_tense(state)),
            )
            .hint("GET /v1/jobs/{job_id} shows its outcome")),
        }
    }

    /// A page of jobs, newest first.
    #[must_use]
    pub fn list(&self, filter: &JobFilter, limit: usize) -> JobPage {
        self.index.lock().list(filter, limit)
    }

    /// What was counted of all jobs since the hive started.
    pub(crate) fn counts(&self) -> JobCounts {
        self.counts.now()
    }

    /// Jobs that have not ended.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Job>> {
        self.index.lock().running()
    }

    /// Takes no more jobs, tells those that run to stop and waits for the end of each: in its journal, in
    /// its log and on the hub.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for job in self.running() {
            job.stop(StopReason::Shutdown);
        }
        self.drains.close();
        self.drains.wait().await;
    }

    /// Prunes after a pause: a submission should not have to look at every job.
    fn prune_if_due(&self) {
        let is_due = self.pruning.lock().is_due(PRUNE_PAUSE);
        if is_due {
            self.prune();
        }
    }

    /// Takes over how long and how much is to be kept.
    pub fn keep(&self, retention: &Jobs) {
        *self.retention.lock() = retention.clone();
        self.prune();
    }

    /// Writes the journals of ended acts that could not be written before.
    pub fn write_missing_journals(&self) {
        let missing = self.index.lock().ended_without_journal();
        for job in missing {
            if let Some(log) = job.resident_log()
                && self.journals.write_anew(job.header(), job.started_at(), &log).is_ok()
            {
                job.journal_written();
            }
        }
    }

    /// Forgets the jobs that the settings do not keep, and removes their journals.
    pub fn prune(&self) {
        let retention = self.retention.lock().clone();
        let removed = self.index.lock().prune(&retention);
        // The logs of thousands of reads may be freed below, which is why the lock is released before.
        let acts = removed.iter().filter(|job| job.header().kind == OperationKind::Act && job.owns_journal());
        self.journals.remove(&acts.map(|job| job.id()).collect());
    }
}

const fn past_tense(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "was cancelled",
        JobState::Queued | JobState::Running => "is still under way",
    }
}
