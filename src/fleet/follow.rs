//! Fills the log of an act from the fleet's stream.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures::StreamExt;

use super::link::{Link, failed};
use super::names::Names;
use super::stream;
use crate::error::Result;
use crate::jobs::Mirror;

/// The wait before the next attempt.
const RETRY: Duration = Duration::from_millis(100);

/// Fills the log of an act from the messages of its subject, until its end.
pub(super) async fn act(link: &Link, names: &Names, subject: &str, mirror: &Mirror) {
    let mut next = 0;
    while !mirror.has_ended() {
        link.up().await;
        if let Err(failure) = read(link, names, subject, &mut next, mirror).await {
            tracing::debug!(job_id = %mirror.job().id(), error = %failure, "the stream of a job is opened again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Reads messages, from number `next` of the stream on.
async fn read(link: &Link, names: &Names, subject: &str, next: &mut u64, mirror: &Mirror) -> Result<()> {
    let from = match *next {
        0 => DeliverPolicy::All,
        start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
    };
    let (mut messages, _) = stream::messages(link, names, subject, from, false).await?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| failed("follow the stream of events", &error))?;
        let sequence = message.info().map_or(0, |info| info.stream_sequence);
        mirror.take(stream::decode(&message.payload)?);
        *next = sequence + 1;
        if mirror.has_ended() {
            break;
        }
    }
    Ok(())
}
