//! What the outbox needs of the fleet's stream: the seam at which `simulation.rs` puts another one in its place.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;

use super::follow;
use super::link::{Link, failed};
use super::names::{HiveName, Names};
use super::stream::{self, Place};
use crate::error::Result;
use crate::jobs::{Chunk, JobId, Mirror};

/// The wait before the next attempt.
const RETRY: Duration = Duration::from_millis(250);

/// A piece of a job's log, as it is to be appended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// Who writes it.
    pub(super) by: &'a HiveName,
    /// Whose job it is.
    pub(super) hive: &'a HiveName,
    pub(super) job: &'a JobId,
    pub(super) operation: &'a str,
    pub(super) chunk: &'a Chunk,
    /// The message after which it is to stand; 0 for the first.
    pub(super) after: u64,
    /// Of two entries with the same id, the second is taken for a repetition.
    pub(super) id: &'a str,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// It is in the stream, under that number.
    As(u64),
    /// Something stands there already, which may be this entry: look where the stream is.
    Fenced,
}

/// The stream of the events of acts.
pub(super) trait EventStore: Clone + Send + Sync + 'static {
    /// Where it is with a job; `None` where it has nothing of it.
    fn last(&self, hive: &HiveName, job: &JobId) -> impl Future<Output = Result<Option<Place>>> + Send;

    /// Appends an entry. After an error it may be there all the same.
    fn append(&self, entry: Entry<'_>) -> impl Future<Output = Result<Appended>> + Send;

    /// Fills a mirror of a job, until the job's end.
    fn read(&self, hive: &HiveName, job: &JobId, mirror: &Mirror) -> impl Future<Output = ()> + Send;

    /// Waits until another attempt is worth it.
    fn again(&self) -> impl Future<Output = ()> + Send;

    /// The most bytes of events in an entry.
    fn largest(&self) -> usize;
}

/// The stream at the fleet's NATS servers.
#[derive(Clone, Debug)]
pub(super) struct NatsStore {
    pub(super) link: Link,
    pub(super) names: Arc<Names>,
}

impl EventStore for NatsStore {
    async fn last(&self, hive: &HiveName, job: &JobId) -> Result<Option<Place>> {
        stream::last(&self.link, &self.names, &self.names.events(hive, job)).await
    }

    async fn append(&self, entry: Entry<'_>) -> Result<Appended> {
        let message = PublishMessage::build()
            .headers(stream::headers(entry.by, entry.chunk))
            .message_id(entry.id)
            .expected_last_subject_sequence(entry.after)
            .payload(entry.chunk.encode(entry.operation).into());
        let subject = self.names.events(entry.hive, entry.job);
        let sent = async { self.link.jetstream.send_publish(subject, message).await?.await };
        match sent.await {
            // The id was seen before. That may have been another entry: one of a run whose end was lost with the power.
            Ok(ack) if ack.duplicate => Ok(Appended::Fenced),
            Ok(ack) => Ok(Appended::As(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(Appended::Fenced),
            Err(error) => Err(failed("publish the events of a job", &error)),
        }
    }

    async fn read(&self, hive: &HiveName, job: &JobId, mirror: &Mirror) {
        follow::act(&self.link, &self.names, &self.names.events(hive, job), mirror).await;
    }

    async fn again(&self) {
        self.link.up().await;
        tokio::time::sleep(RETRY).await;
    }

    fn largest(&self) -> usize {
        self.link.largest()
    }
}
