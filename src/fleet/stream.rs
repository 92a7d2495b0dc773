//! The stream of the events of acts: what its messages are, and how they are read.
//!
//! A message is a piece of one job's log ([`Chunk`]). Its headers tell the last event in it and how the job stands
//! after it, so that a look at the last message of a subject is enough to know.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig};
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DirectGetErrorKind, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream,
};

use futures::StreamExt;
use tokio::time::timeout;

use super::link::{ANSWER, Link, failed};
use super::names::{HiveName, Names};
use crate::error::{Code, Failure, Result};
use crate::jobs::job::JobHeader;
use crate::jobs::{Chunk, JobId, JobState};
use crate::time::monotonic;

/// On how many servers events and entries are kept, where there are as many.
pub(super) const MOST_REPLICAS: usize = 3;
/// How long the servers of a cluster may take to find each other.
const CLUSTER: Duration = Duration::from_secs(10);
/// The wait before the next attempt.
const RETRY: Duration = Duration::from_millis(500);

/// The number of the last event of the message.
const SEQ: &str = "Rbee-Seq";
/// When the last event of the message was.
const AT: &str = "Rbee-At";
/// How the job ended, in the message with its end.
const END: &str = "Rbee-End";
/// The hive that wrote the message.
const BY: &str = "Rbee-By";

/// Where the stream is with a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of the last message; 0 where there is none.
    pub(super) message: u64,
    /// The number of the last event in it.
    pub(super) seq: u64,
    /// When that was, in milliseconds since the Unix epoch.
    pub(super) at: Option<i64>,
    /// How the job ended, if that is its end.
    pub(super) end: Option<JobState>,
    /// Who wrote it.
    pub(super) by: Option<HiveName>,
}

impl Place {
    pub(super) fn of(message: u64, headers: &HeaderMap) -> Self {
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        Self {
            message,
            seq: header(SEQ).and_then(|seq| seq.parse().ok()).unwrap_or(0),
            at: header(AT).and_then(|at| at.parse().ok()),
            // An end of a kind that this version does not know is one all the same.
            end: header(END).map(|end| serde_json::from_value(end.into()).unwrap_or(JobState::Failed)),
            by: header(BY).and_then(|by| HiveName::new(&by).ok()),
        }
    }
}

/// The headers of a message that `hive` writes.
pub(super) fn headers(hive: &HiveName, chunk: &Chunk) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SEQ, chunk.last_seq().to_string());
    headers.insert(BY, hive.as_str());
    if let Some(last) = chunk.events.last() {
        headers.insert(AT, last.at.0.to_string());
    }
    if let Some(end) = chunk.end() {
        headers.insert(END, JobState::name(end));
    }
    headers
}

/// Makes the stream where it is not there, and gives on how many servers it is kept: on three where there are three.
pub(super) async fn ensure(link: &Link, names: &Names, keep: Duration) -> Result<usize> {
    let until = monotonic() + CLUSTER;
    loop {
        let refused = match link.jetstream.create_or_update_stream(config(names, keep, MOST_REPLICAS)).await {
            Ok(made) => return Ok(made.config.num_replicas),
            Err(refused) => refused,
        };
        if let Some(replicas) = replicas(link, names).await {
            return Ok(replicas);
        }
        // Nobody answers: this server may be cut off from the others.
        if refused.kind() == CreateStreamErrorKind::TimedOut {
            return Err(failed("make the stream of events", &refused));
        }
        // A server that stands alone cannot. Those of a cluster may not have found each other yet.
        if is_alone(&refused) || monotonic() > until {
            // Where it is there after all, it stays on as many servers as it is.
            let made = link.jetstream.create_stream(config(names, keep, 1)).await;
            let made = made.map_err(|error| failed("make the stream of events", &error))?;
            return Ok(made.cached_info().config.num_replicas);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// On how many servers the stream is kept; `None` where it is not there.
pub(super) async fn replicas(link: &Link, names: &Names) -> Option<usize> {
    let stream = link.jetstream.get_stream(names.events_stream()).await.ok()?;
    Some(stream.cached_info().config.num_replicas)
}

/// Has what is kept on one server kept on three, once there are three.
pub(super) async fn spread(link: &Link, names: &Names, keep: Duration) -> Option<usize> {
    let spread = link.jetstream.create_or_update_stream(config(names, keep, MOST_REPLICAS)).await;
    spread.ok().map(|made| made.config.num_replicas)
}

fn is_alone(refused: &CreateStreamError) -> bool {
    match refused.kind() {
        CreateStreamErrorKind::JetStream(error) => {
            error.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
        }
        _ => false,
    }
}

fn config(names: &Names, keep: Duration, num_replicas: usize) -> Config {
    Config {
        name: names.events_stream(),
        description: Some("The events of the acts of all hives".to_owned()),
        subjects: vec![names.all_events()],
        max_age: keep,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas,
        duplicate_window: Duration::from_secs(120).min(keep),
        allow_direct: true,
        ..Config::default()
    }
}

/// Where the stream is with the jobs of a subject; `None` where it has nothing of them.
pub(super) async fn last(link: &Link, names: &Names, subject: &str) -> Result<Option<Place>> {
    Ok(last_message(link, names, subject).await?.map(|(message, headers, ..)| Place::of(message, &headers)))
}

/// The last piece of a job's log in the stream.
pub(super) async fn last_chunk(link: &Link, names: &Names, subject: &str) -> Result<Option<Chunk>> {
    last_message(link, names, subject).await?.map(|(.., payload)| decode(&payload)).transpose()
}

/// The subject that a pattern of subjects means, and where the stream is with it.
pub(super) async fn find(link: &Link, names: &Names, pattern: &str) -> Result<Option<(String, Place)>> {
    let found = last_message(link, names, pattern).await?;
    Ok(found.map(|(message, headers, subject, _)| (subject, Place::of(message, &headers))))
}

/// Messages of these subjects, from where the policy says, and how many there are now.
pub(super) async fn messages(
    link: &Link,
    names: &Names,
    pattern: &str,
    deliver_policy: DeliverPolicy,
    headers_only: bool,
) -> Result<(Ordered, u64)> {
    let follow = |error: &(dyn std::error::Error + 'static)| failed("follow the stream of events", error);
    let stream = stream(link, names).await?;
    let consumer = stream.create_consumer(OrderedConfig {
        deliver_subject: link.client.new_inbox(),
        filter_subject: pattern.to_owned(),
        deliver_policy,
        headers_only,
        ..OrderedConfig::default()
    });
    let consumer = consumer.await.map_err(|error| follow(&error))?;
    let there = consumer.cached_info().num_pending;
    Ok((consumer.messages().await.map_err(|error| follow(&error))?, there))
}

/// Gives `take` each job of these subjects, and where the stream is with it.
pub(super) async fn each_last(
    link: &Link,
    names: &Names,
    pattern: &str,
    mut take: impl FnMut(HiveName, JobId, Place),
) -> Result<()> {
    let look = |error: &(dyn std::error::Error + 'static)| failed("look through the stream of events", error);
    let (mut messages, mut left) =
        messages(link, names, pattern, DeliverPolicy::LastPerSubject, true).await?;
    while left > 0 {
        let message = timeout(ANSWER, messages.next()).await.map_err(|error| look(&error))?;
        let Some(message) = message else { break };
        let message = message.map_err(|error| look(&error))?;
        let Ok(info) = message.info() else { continue };
        left = info.pending;
        let place = Place::of(info.stream_sequence, &message.headers.clone().unwrap_or_default());
        if let Some((hive, job)) = names.job_of(&message.subject) {
            take(hive, job, place);
        }
    }
    Ok(())
}

/// The stream, whether or not it is there.
async fn stream(link: &Link, names: &Names) -> Result<Stream<()>> {
    let stream = link.jetstream.get_stream_no_info(names.events_stream()).await;
    stream.map_err(|error| failed("open the stream of events", &error))
}

/// What never changes about a job of that subject: its first message and its last one have it.
pub(super) async fn header(link: &Link, names: &Names, subject: &str) -> Result<Option<JobHeader>> {
    match stream(link, names).await?.direct_get_first_for_subject(subject).await {
        Ok(first) => match decode(&first.payload)?.job {
            Some(job) => Ok(Some(job)),
            // The first message is older than the stream keeps.
            None => Ok(last_chunk(link, names, subject).await?.and_then(|chunk| chunk.job)),
        },
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look into the stream of events", &error)),
    }
}

/// Reads the piece of a message.
pub(super) fn decode(payload: &[u8]) -> Result<Chunk> {
    Chunk::decode(payload).map_err(|error| {
        Failure::new(Code::OutcomeUnknown, "events of a job of another hive cannot be read")
            .hint("the hives of the fleet may be of different versions: update the older one")
            .detail(error)
    })
}

type Message = (u64, HeaderMap, String, bytes::Bytes);

async fn last_message(link: &Link, names: &Names, subject: &str) -> Result<Option<Message>> {
    match stream(link, names).await?.get_last_raw_message_by_subject(subject).await {
        Ok(found) => Ok(Some((found.sequence, found.headers, found.subject.to_string(), found.payload))),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed("look into the stream of events", &error)),
    }
}
