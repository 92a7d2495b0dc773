//! The outbox: it publishes the events of this hive's acts to the fleet's stream, from their logs, which have only what
//! the journals have. After a loss of the connection it goes on where it was.
//!
//! Invariants:
//! - The stream has each event once, in order: a message says which sequence of the stream its subject must end with
//!   (`Nats-Expected-Last-Subject-Sequence`), so that the server takes it once, whoever sends it how often.
//! - Nothing follows a terminal event. Where another hive has ended a job meanwhile, because this one was silent for too
//!   long, that end counts: see [`Outbox::adopt`].
//! - The stream is asked where it is; this hive keeps no record of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::names::HiveName;
use super::store::{Appended, Entry, EventStore};
use super::stream::Place;
use crate::jobs::event::Event;
use crate::jobs::job::StopReason;
use crate::jobs::log::{Batch, Log};
use crate::jobs::{Chunk, Job, Mirror, OperationKind, Registry};
use crate::time::Instant;

/// How many jobs of earlier runs are looked up in the stream at once.
const LOOK_UPS: usize = 16;

/// Publishes the events of a hive's acts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox<S> {
    store: S,
    hive: HiveName,
    /// How long events are kept in the stream.
    keep: Duration,
    look_ups: Arc<Semaphore>,
}

impl<S: EventStore> Outbox<S> {
    pub(super) fn new(store: S, hive: HiveName, keep: Duration) -> Self {
        Self { store, hive, keep, look_ups: Arc::new(Semaphore::new(LOOK_UPS)) }
    }

    /// Publishes what there is of a job, and what it narrates until its end. `is_new` says that the stream has nothing
    /// of it.
    pub(super) async fn publish(&self, jobs: &Registry, job: Arc<Job>, is_new: bool) {
        debug_assert!(job.header().kind == OperationKind::Act);
        let mut place = Place::default();
        if !is_new {
            let Ok(_turn) = self.look_ups.acquire().await else { return };
            place = self.place(&job).await;
        }
        loop {
            // What the stream would not keep any more stays here alone.
            if place.seq == 0
                && job
                    .ended_at()
                    .is_some_and(|at| Duration::from_millis(Instant::now().since_ms(at)) > self.keep)
            {
                return;
            }
            let Ok(log) = jobs.log(&job).await.inspect_err(|failure| {
                tracing::warn!(job_id = %job.id(), error = %failure, "the fleet does not get the events of a job");
            }) else {
                return;
            };
            if place.end.is_some() {
                // After a loss of power this run may have ended the job once more, under the same number.
                let end = log.terminal().map(|end| (end.seq, Some(end.at.0)));
                let is_own = place.by.as_ref() == Some(&self.hive)
                    && end == Some((place.seq, place.at))
                    && place.end == Some(job.state());
                if !is_own {
                    self.adopt(jobs, &job).await;
                }
                return;
            }
            if job.state().is_ended() && log.last_seq() <= place.seq {
                self.end_after_loss(&job, &log, &mut place).await;
                place = self.place(&job).await;
                continue;
            }
            let mut cursor = log.follow(place.seq);
            let fenced = loop {
                let Some(batch) = cursor.next().await else { break false };
                if !self.send_all(&job, batch, &mut place).await {
                    break true;
                }
            };
            if !fenced {
                return;
            }
            place = self.place(&job).await;
        }
    }

    /// Publishes the end of a job of whose events this machine has lost some that the stream has: it lost its power.
    /// The job is then what the stream has of it.
    async fn end_after_loss(&self, job: &Job, log: &Log, place: &mut Place) {
        let Some(end) = log.terminal() else { return };
        let end = Event { seq: place.seq + 1, at: end.at, body: end.body.clone() };
        let chunk =
            Chunk { job: Some(job.header().clone()), events: vec![Arc::new(end)], ..Chunk::default() };
        self.send_one(job, &chunk, place).await;
    }

    /// Sends a batch, and tries until it is in the stream. `false` where the stream is elsewhere than expected.
    async fn send_all(&self, job: &Job, batch: Batch, place: &mut Place) -> bool {
        for mut chunk in Chunk::of(batch, &job.header().operation, self.store.largest()) {
            if place.seq == 0 || chunk.end().is_some() {
                chunk.job = Some(job.header().clone());
            }
            if !self.send_one(job, &chunk, place).await {
                return false;
            }
        }
        true
    }

    async fn send_one(&self, job: &Job, chunk: &Chunk, place: &mut Place) -> bool {
        let (id, operation) = (format!("{}:{}", job.id(), chunk.last_seq()), &job.header().operation);
        let (by, hive) = (&self.hive, &self.hive);
        loop {
            let entry = Entry { by, hive, job: job.id(), operation, chunk, after: place.message, id: &id };
            match self.store.append(entry).await {
                Ok(Appended::As(message)) => {
                    *place = Place { message, seq: chunk.last_seq(), ..Place::default() };
                    return true;
                }
                Ok(Appended::Fenced) => return false,
                Err(failure) => {
                    tracing::debug!(job_id = %job.id(), error = %failure, "not published yet");
                    self.store.again().await;
                }
            }
        }
    }

    /// Where the stream is with a job. Asks until there is an answer.
    async fn place(&self, job: &Job) -> Place {
        loop {
            match self.store.last(&self.hive, job.id()).await {
                Ok(place) => return place.unwrap_or_default(),
                Err(failure) => tracing::debug!(job_id = %job.id(), error = %failure, "not looked up yet"),
            }
            self.store.again().await;
        }
    }

    /// Takes over what the stream has of a job that has ended there. If it still runs here, it is stopped for that.
    async fn adopt(&self, jobs: &Registry, job: &Arc<Job>) {
        job.stop(StopReason::TakenForDead);
        job.ended().await;
        let mirror = Mirror::new(job.header().clone(), jobs.bounds());
        self.store.read(&self.hive, job.id(), &mirror).await;
        if let Err(failure) = jobs.adopt(job, mirror.log()) {
            tracing::warn!(job_id = %job.id(), error = %failure, "the end that the fleet recorded is not on disk");
        }
    }
}
