//! One job: its request, its state, and where its log is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::event::{Body, Terminal};
use super::log::Log;
use crate::error::{Failure, Result};
use crate::narration::Progress;
use crate::time::{Instant, monotonic};

/// The id of a job: `job-` and a UUID of version 7, so that ids sort by age (RFC 9562, section
/// 5.7).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(pattern = "^job-[0-9a-f-]{36}$", examples("job-01a20948-3250-768d-ae65-db21c6f1dad8"))]
pub struct JobId(String);

impl JobId {
    /// A new id, greater than every earlier one of this process.
    #[must_use]
    pub fn new() -> Self {
        Self(format!("job-{}", uuid::Uuid::now_v7()))
    }

    /// Reads an id as [`JobId::new`] writes it. Everything else is `None`, so that an id is safe as a
    /// file's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uuid = text.strip_prefix("job-")?;
        let sound = uuid::Uuid::try_parse(uuid).is_ok_and(|parsed| parsed.hyphenated().to_string() == uuid);
        sound.then(|| Self(text.to_owned()))
    }

    /// When it was made.
    pub(super) fn made_at(&self) -> Instant {
        let made = uuid::Uuid::try_parse(&self.0["job-".len()..]).ok().and_then(|id| id.get_timestamp());
        let ms = |(seconds, nanos): (u64, u32)| i64::try_from(seconds * 1000 + u64::from(nanos) / 1_000_000);
        Instant(made.and_then(|made| ms(made.to_unix()).ok()).unwrap_or(0))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether an operation only reads, or changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// It only reads: kept in memory alone, never queued behind an act, not on `/v1/events`.
    Read,
    /// It changes something: journalled, so it survives a restart of the hive.
    Act,
}

/// The limit that an operation counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobClass {
    /// Reads.
    Reads,
    /// Transfers of models.
    Downloads,
    /// Starts of workers.
    Loads,
    /// Every other act.
    Acts,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits in the queue of its class.
    Queued,
    /// It runs.
    Running,
    /// It ended with a result.
    Succeeded,
    /// It ended with a failure.
    Failed,
    /// A caller cancelled it.
    Cancelled,
}

impl JobState {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job has ended.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl From<&Terminal> for JobState {
    fn from(terminal: &Terminal) -> Self {
        match terminal {
            Terminal::Done => Self::Succeeded,
            Terminal::Failed(_) => Self::Failed,
            Terminal::Cancelled => Self::Cancelled,
        }
    }
}

/// Why a job was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A caller cancelled it.
    Cancel,
    /// Its deadline passed.
    Timeout,
    /// The hive is shutting down.
    Shutdown,
    /// The hive was out of reach for so long that its fleet has ended the job.
    TakenForDead,
}

/// What never changes about a job; the first line of its journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobHeader {
    /// The job's id.
    pub id: JobId,
    /// The operation's name in `snake_case`.
    pub operation: String,
    /// Read or act.
    pub kind: OperationKind,
    /// The request, in its `operation` spelling, with every default filled in.
    pub request: Box<RawValue>,
    /// When it was submitted.
    pub created_at: Instant,
    /// The idempotency key that it was submitted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What its journal has lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_damage: Option<JournalDamage>,
}

/// What a damaged journal has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalDamage {
    /// How many lines could not be read.
    pub lines: u64,
    /// The file as it was found.
    pub kept_as: String,
}

/// One job of the registry.
#[derive(Debug)]
pub struct Job {
    header: JobHeader,
    /// The limit that it counts against; unset where it ended in an earlier run of the hive.
    class: Option<JobClass>,
    stop: CancellationToken,
    stop_reason: OnceLock<StopReason>,
    status: watch::Sender<JobStatus>,
    log: Mutex<LogLocation>,
    /// Whether the journal has every event, so that the log may leave memory.
    is_journalled: AtomicBool,
    /// Whether the journal has what this version does not know, and stays as it is.
    is_journal_left_alone: bool,
}

#[derive(Clone, Debug)]
struct JobStatus {
    state: JobState,
    started_at: Option<Instant>,
    ended_at: Option<Instant>,
    /// When its age was last set, by the clock that nobody can set, and the age then.
    aged: Option<(std::time::Instant, Duration)>,
    result: Option<Arc<RawValue>>,
    failure: Option<Arc<Failure>>,
}

#[derive(Debug)]
enum LogLocation {
    /// In memory.
    Resident(Arc<Log>),
    /// In its journal; in memory too while somebody reads it.
    Journal(Weak<Log>),
}

/// What `GET /v1/jobs` shows of a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Job)]
pub struct JobSummary {
    /// Its id.
    pub job_id: JobId,
    /// The operation's name in `snake_case`.
    pub operation: String,
    /// The hive of the fleet that ran it; left out where this hive is in no fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hive: Option<String>,
    /// Read or act.
    pub kind: OperationKind,
    /// Its state.
    pub state: JobState,
    /// When it was submitted.
    pub created_at: Instant,
    /// When it left the queue.
    pub started_at: Option<Instant>,
    /// When it ended.
    pub ended_at: Option<Instant>,
    /// The request, in its `operation` spelling, with every default filled in.
    #[schema(value_type = Object)]
    pub request: Box<RawValue>,
    /// Its result, if it succeeded.
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Arc<RawValue>>,
    /// Its failure, if it failed.
    #[schema(value_type = Option<Failure>)]
    pub failure: Option<Arc<Failure>>,
    /// The path of its stream.
    pub sse_url: String,
    /// What its journal has lost, if it is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_damage: Option<JournalDamage>,
}

impl Job {
    /// A job that has not started.
    pub(super) fn queued(header: JobHeader, log: Arc<Log>) -> Self {
        let status = JobStatus {
            state: JobState::Queued,
            started_at: None,
            ended_at: None,
            aged: None,
            result: None,
            failure: None,
        };
        Self {
            header,
            class: None,
            stop: CancellationToken::new(),
            stop_reason: OnceLock::new(),
            status: watch::Sender::new(status),
            log: Mutex::new(LogLocation::Resident(log)),
            is_journalled: AtomicBool::new(true),
            is_journal_left_alone: false,
        }
    }

    /// A job that ended in an earlier run of the hive, and that has aged until `as_of`. A journal that
    /// is left alone does not have every event of the log.
    pub(super) fn from_journal(
        header: JobHeader,
        started_at: Option<Instant>,
        log: &Arc<Log>,
        is_journal_left_alone: bool,
        as_of: Instant,
    ) -> Self {
        let mut job = Self::queued(header, Arc::clone(log));
        job.is_journal_left_alone = is_journal_left_alone;
        *job.is_journalled.get_mut() = !is_journal_left_alone;
        if let Some(started_at) = started_at {
            job.start(started_at);
        }
        if let Some(ended_at) = job.end_as(log) {
            let age = Duration::from_millis(as_of.since_ms(ended_at));
            job.status.send_modify(|status| status.aged = Some((monotonic(), age)));
        }
        job
    }

    /// Ends it as the log tells, and gives when that was.
    fn end_as(&self, log: &Log) -> Option<Instant> {
        let (_, events) = log.snapshot();
        let result = events.iter().rev().find_map(|event| match &event.body {
            Body::Result(data) => Some(Arc::clone(data)),
            _ => None,
        });
        let event = log.terminal()?;
        let Body::Terminal(terminal) = &event.body else { return None };
        self.end(event.at, terminal, result);
        Some(event.at)
    }

    /// Takes the place of the log and of the end that the job had. Readers that have the log before keep it.
    pub(super) fn become_what(&self, log: &Arc<Log>) {
        self.end_as(log);
        *self.log.lock() = LogLocation::Resident(Arc::clone(log));
    }

    /// The same job, which counts against that limit.
    pub(super) fn of_class(self, class: JobClass) -> Self {
        Self { class: Some(class), ..self }
    }

    /// The limit that it counts against; `None` where it ended in an earlier run of the hive.
    #[must_use]
    pub const fn class(&self) -> Option<JobClass> {
        self.class
    }

    /// What never changes about it.
    #[must_use]
    pub const fn header(&self) -> &JobHeader {
        &self.header
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &JobId {
        &self.header.id
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.status.borrow().state
    }

    /// When it left the queue.
    #[must_use]
    pub fn started_at(&self) -> Option<Instant> {
        self.status.borrow().started_at
    }

    /// When it ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Instant> {
        self.status.borrow().ended_at
    }

    /// How long ago it ended. Time passes for it while a hive runs, however the wall clock is set.
    pub(super) fn age(&self) -> Option<Duration> {
        let (at, age) = self.status.borrow().aged?;
        Some(age + monotonic().saturating_duration_since(at))
    }

    /// What `GET /v1/jobs` shows of it.
    #[must_use]
    pub fn summary(&self) -> JobSummary {
        let status = self.status.borrow().clone();
        JobSummary {
            job_id: self.header.id.clone(),
            operation: self.header.operation.clone(),
            hive: None,
            kind: self.header.kind,
            state: status.state,
            created_at: self.header.created_at,
            started_at: status.started_at,
            ended_at: status.ended_at,
            request: self.header.request.clone(),
            result: status.result,
            failure: status.failure,
            sse_url: self.sse_url(),
            journal_damage: self.header.journal_damage.clone(),
        }
    }

    /// The path of its stream.
    #[must_use]
    pub fn sse_url(&self) -> String {
        format!("/v1/jobs/{}/stream", self.header.id)
    }

    /// Tells the job to stop. Of several calls the first one's reason counts.
    pub fn stop(&self, reason: StopReason) {
        if self.stop_reason.set(reason).is_ok() {
            self.stop.cancel();
        }
    }

    /// Why the job was told to stop; `None` if it was not.
    pub(super) fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason.get().copied()
    }

    /// Cancelled when the job is told to stop.
    #[must_use]
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until the terminal event is published.
    pub async fn ended(&self) {
        let mut status = self.status.subscribe();
        // The sender lives in `self`, so only the condition ends this.
        let _ended = status.wait_for(|status| status.state.is_ended()).await;
    }

    pub(super) fn start(&self, at: Instant) {
        self.status.send_modify(|status| {
            status.state = JobState::Running;
            status.started_at = Some(at);
        });
    }

    pub(super) fn end(&self, at: Instant, terminal: &Terminal, result: Option<Arc<RawValue>>) {
        self.status.send_modify(|status| {
            status.state = JobState::from(terminal);
            status.ended_at = Some(at);
            status.aged = Some((monotonic(), Duration::ZERO));
            status.result = result;
            status.failure = match terminal {
                Terminal::Failed(failure) => Some(Arc::clone(failure)),
                _ => None,
            };
        });
    }

    /// The progress that it narrated last, if its log is in memory.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.resident_log()?.last_progress()
    }

    /// The log, if it is in memory.
    pub(super) fn resident_log(&self) -> Option<Arc<Log>> {
        match &*self.log.lock() {
            LogLocation::Resident(log) => Some(Arc::clone(log)),
            LogLocation::Journal(log) => log.upgrade(),
        }
    }

    /// Bytes of memory that the log takes, 0 if it is in its journal.
    pub(super) fn resident_bytes(&self) -> usize {
        match &*self.log.lock() {
            LogLocation::Resident(log) => log.bytes(),
            LogLocation::Journal(_) => 0,
        }
    }

    /// Whether the journal may be changed and removed.
    pub(super) const fn owns_journal(&self) -> bool {
        !self.is_journal_left_alone
    }

    /// Records that the journal lacks events.
    pub(super) fn journal_failed(&self) {
        self.is_journalled.store(false, Ordering::Release);
    }

    /// Records that the journal has every event.
    pub(super) fn journal_written(&self) {
        self.is_journalled.store(true, Ordering::Release);
    }

    /// Whether the journal has every event.
    pub(super) fn is_journalled(&self) -> bool {
        self.is_journalled.load(Ordering::Acquire)
    }

    /// Frees the log's memory, if the journal has every event.
    pub(super) fn free_log(&self) {
        if !self.is_journalled() {
            return;
        }
        let mut location = self.log.lock();
        if let LogLocation::Resident(log) = &*location {
            *location = LogLocation::Journal(Arc::downgrade(log));
        }
    }

    /// The log; `load` reads it back if it is not in memory.
    pub(super) async fn log(
        &self,
        load: impl AsyncFnOnce(&JobHeader) -> Result<Arc<Log>>,
    ) -> Result<Arc<Log>> {
        if let Some(log) = self.resident_log() {
            return Ok(log);
        }
        let log = load(&self.header).await?;
        let mut location = self.log.lock();
        if let LogLocation::Journal(weak) = &mut *location {
            *weak = Arc::downgrade(&log);
        }
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_age_and_are_never_paths() {
        let ids: Vec<_> = (0..1000).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted());
        assert_eq!(JobId::parse(ids[0].as_str()), Some(ids[0].clone()));
        for text in ["", "job-", "job-1", "job-../../etc/passwd", "JOB-x"] {
            assert_eq!(JobId::parse(text), None);
        }
        assert_eq!(JobId::parse(&ids[0].as_str().to_uppercase()), None);
    }
}
