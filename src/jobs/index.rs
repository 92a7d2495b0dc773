//! The jobs of a registry, by id and by idempotency key: in memory alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::{Job, JobHeader, JobId, JobState, JobSummary, OperationKind};
use crate::config::Jobs;
use crate::error::{Code, Failure, Result};
use crate::text::each_member;
use crate::text::excerpt;

/// About how many bytes of memory a job takes besides its events.
const JOB_BYTES: usize = 2048;

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only reads, or only acts.
    pub kind: Option<OperationKind>,
    /// Only those of this operation, in `snake_case`.
    pub operation: Option<String>,
    /// Only those older than this one.
    pub before: Option<JobId>,
}

/// One page of a listing, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    /// The jobs.
    #[serde(serialize_with = "each_member")]
    pub jobs: Vec<JobSummary>,
    /// `?cursor=` for the next page; null on the last.
    pub next_cursor: Option<JobId>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    /// By id, so by age.
    jobs: BTreeMap<JobId, Arc<Job>>,
    keys: HashMap<String, JobId>,
}

impl Index {
    pub(super) fn get(&self, id: &JobId) -> Option<&Arc<Job>> {
        self.jobs.get(id)
    }

    /// The job that an earlier submission with the same idempotency key made.
    ///
    /// # Errors
    /// [`Code::IdempotencyConflict`] if that was another request.
    pub(super) fn repeated(&self, header: &JobHeader) -> Result<Option<Arc<Job>>> {
        let Some(key) = &header.idempotency_key else { return Ok(None) };
        let Some(job) = self.keys.get(key).and_then(|id| self.jobs.get(id)) else { return Ok(None) };
        if job.header().request.get() == header.request.get() {
            return Ok(Some(Arc::clone(job)));
        }
        Err(Failure::new(
            Code::IdempotencyConflict,
            format!("the Idempotency-Key '{}' was used for another request", excerpt(key)),
        )
        .hint("use a new key for a new request, and the same body with the same key"))
    }

    pub(super) fn add(&mut self, job: &Arc<Job>) {
        if let Some(key) = &job.header().idempotency_key {
            self.keys.insert(key.clone(), job.id().clone());
        }
        self.jobs.insert(job.id().clone(), Arc::clone(job));
    }

    pub(super) fn list(&self, filter: &JobFilter, limit: usize) -> JobPage {
        let wanted = |job: &&Arc<Job>| {
            filter.before.as_ref().is_none_or(|before| job.id() < before)
                && filter.state.is_none_or(|state| job.state() == state)
                && filter.kind.is_none_or(|kind| job.header().kind == kind)
                && filter.operation.as_ref().is_none_or(|operation| job.header().operation == *operation)
        };
        let newest_first = self.jobs.values().rev().filter(wanted);
        let mut jobs: Vec<_> = newest_first.take(limit.saturating_add(1)).map(|job| job.summary()).collect();
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        let next_cursor = jobs.last().filter(|_| more).map(|job| job.job_id.clone());
        JobPage { jobs, next_cursor }
    }

    /// Jobs that have not ended.
    pub(super) fn running(&self) -> Vec<Arc<Job>> {
        self.jobs.values().filter(|job| !job.state().is_ended()).cloned().collect()
    }

    /// The acts, oldest first.
    pub(super) fn acts(&self) -> Vec<Arc<Job>> {
        self.jobs.values().filter(|job| job.header().kind == OperationKind::Act).cloned().collect()
    }

    /// Ended acts of this run whose journals could not be written.
    pub(super) fn ended_without_journal(&self) -> Vec<Arc<Job>> {
        let lacks = |job: &&Arc<Job>| {
            job.header().kind == OperationKind::Act
                && job.state().is_ended()
                && job.owns_journal()
                && !job.is_journalled()
        };
        self.jobs.values().filter(lacks).cloned().collect()
    }

    /// Removes the jobs that `config` does not keep, and returns them: reads by age and memory, acts by
    /// age and count. Frees the logs of older acts, which their journals have.
    pub(super) fn prune(&mut self, config: &Jobs) -> Vec<Arc<Job>> {
        let mut removed = Vec::new();
        let (mut acts, mut acts_bytes, mut reads_bytes) = (0, 0, 0);
        for job in self.jobs.values().rev() {
            let Some(age) = job.age() else { continue };
            match job.header().kind {
                OperationKind::Read => {
                    reads_bytes += job.resident_bytes() + JOB_BYTES;
                    if age > *config.keep_reads_for || reads_bytes > config.reads_memory_bytes {
                        removed.push(Arc::clone(job));
                    }
                }
                OperationKind::Act => {
                    acts += 1;
                    if age > *config.keep_acts_for || acts > config.keep_acts {
                        removed.push(Arc::clone(job));
                        continue;
                    }
                    acts_bytes += job.resident_bytes();
                    if acts_bytes > config.acts_memory_bytes {
                        job.free_log();
                    }
                }
            }
        }
        for job in &removed {
            self.remove(job);
        }
        removed
    }

    fn remove(&mut self, job: &Job) {
        self.jobs.remove(job.id());
        if let Some(key) = &job.header().idempotency_key
            && self.keys.get(key) == Some(job.id())
        {
            self.keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::jobs::event::{Body, Event, Terminal};
    use crate::jobs::log::{Bounds, Log};
    use crate::time::{Instant, turn_wall};

    const DAY_MS: i64 = 24 * 3600 * 1000;

    fn header(created_at: Instant) -> JobHeader {
        JobHeader {
            id: JobId::new(),
            operation: "test".into(),
            kind: OperationKind::Act,
            request: RawValue::from_string("{}".into()).unwrap(),
            created_at,
            idempotency_key: None,
            journal_damage: None,
        }
    }

    fn log() -> Arc<Log> {
        Arc::new(Log::new(Bounds { events: 100, bytes: 1 << 20 }))
    }

    /// A job of an earlier run that ended at `at`.
    fn recalled(at: Instant, as_of: Instant) -> Arc<Job> {
        let log = log();
        log.append([Arc::new(Event { seq: 1, at, body: Body::Terminal(Terminal::Done) })]);
        Arc::new(Job::from_journal(header(at), None, &log, false, as_of))
    }

    #[test]
    fn setting_the_clock_deletes_no_history() {
        let config = Jobs::default();
        let mut index = Index::default();
        let ended = Arc::new(Job::queued(header(Instant::now()), log()));
        ended.end(Instant::now(), &Terminal::Done, None);
        let now = Instant::now();
        index.add(&ended);
        index.add(&recalled(now, now));
        for months in [1, -1] {
            turn_wall(months * 30 * DAY_MS);
            assert!(index.prune(&config).is_empty());
        }
        turn_wall(0);
        // Ended before the hive started, and older than is kept.
        let old = recalled(Instant(now.0 - 8 * DAY_MS), now);
        index.add(&old);
        let removed = index.prune(&config);
        assert_eq!(removed.iter().map(|job| job.id()).collect::<Vec<_>>(), [old.id()]);
    }
}
