//! What one hive does for all: it ends the jobs of hives that are gone, and removes what is left of them.
//!
//! Whoever is on duty looks once for every hive that has gone, and once for all when it comes on duty. Two may believe
//! that they are: the fence of the stream lets one of them write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::asking::Asking;
use super::inventory::Inventory;
use super::names::HiveName;
use super::store::{Appended, Entry, EventStore};
use super::stream::{self, Place};
use crate::error::{Code, Failure, Result};
use crate::jobs::event::{Body, Event, Terminal};
use crate::jobs::job::JobHeader;
use crate::jobs::{Chunk, JobId};
use crate::time::{Instant, monotonic};

/// The hives that have gone since this one looked.
pub(super) type Gone = Arc<Mutex<BTreeSet<HiveName>>>;

/// Ends the jobs of hives that are gone, for as long as it is awaited.
pub(super) async fn run(
    asking: &Asking,
    inventory: &Inventory,
    hive: &HiveName,
    gone: &Gone,
    pause: Duration,
) {
    let mut was_on_duty = false;
    loop {
        tokio::time::sleep(pause).await;
        let is_on_duty = {
            let members = asking.members.lock();
            members.is_on_duty(hive) && members.can_judge(monotonic())
        };
        if !is_on_duty {
            // Who is on duty now has heard the same.
            was_on_duty = false;
            gone.lock().clear();
            continue;
        }
        let look_at: Vec<_> = gone.lock().iter().cloned().collect();
        let patterns = match was_on_duty {
            true => look_at.iter().map(|hive| asking.names.events_of(hive)).collect(),
            false => vec![asking.names.all_events()],
        };
        let mut all = true;
        for pattern in patterns {
            if let Err(failure) = end_jobs(asking, hive, &pattern).await {
                tracing::warn!(error = %failure, "jobs of hives that are gone are ended later");
                all = false;
            }
        }
        if (!was_on_duty || !look_at.is_empty())
            && let Err(failure) = inventory.tidy().await
        {
            tracing::warn!(error = %failure, "what is left of hives that are gone is removed later");
            all = false;
        }
        if all {
            was_on_duty = true;
            gone.lock().retain(|hive| !look_at.contains(hive));
        }
    }
}

/// Ends those jobs of these subjects that have no end and whose hives are gone.
async fn end_jobs(asking: &Asking, on_duty: &HiveName, pattern: &str) -> Result<()> {
    for (hive, job, place) in unfinished(asking, pattern).await? {
        if asking.members.lock().get(&hive).is_some() {
            continue;
        }
        let subject = asking.names.events(&hive, &job);
        if let Some(header) = stream::header(&asking.link, &asking.names, &subject).await? {
            end_job(&asking.store(), on_duty, &hive, header, &place).await?;
        }
    }
    Ok(())
}

/// The jobs of these subjects that have no end in the stream.
async fn unfinished(asking: &Asking, pattern: &str) -> Result<Vec<(HiveName, JobId, Place)>> {
    let mut found = Vec::new();
    stream::each_last(&asking.link, &asking.names, pattern, |hive, job, place| {
        if place.end.is_none() {
            found.push((hive, job, place));
        }
    })
    .await?;
    Ok(found)
}

/// Writes the end of a job whose hive is gone.
pub(super) async fn end_job(
    store: &impl EventStore,
    on_duty: &HiveName,
    hive: &HiveName,
    header: JobHeader,
    place: &Place,
) -> Result<()> {
    let failure = Failure::new(
        Code::Interrupted,
        format!(
            "hive '{hive}' has been silent for so long that it counts as gone; {} was under way there",
            header.operation
        ),
    )
    .hint("submit it again, to another hive or once that one is back");
    let terminal = Body::Terminal(Terminal::Failed(Arc::new(failure)));
    let event = Event { seq: place.seq + 1, at: Instant::now(), body: terminal };
    let (job, operation) = (header.id.clone(), header.operation.clone());
    let chunk = Chunk { job: Some(header), events: vec![Arc::new(event)], ..Chunk::default() };
    // Not that of an event of the hive itself: the server would take one of them for a repetition of the other.
    let id = format!("{job}:{}:interrupted", chunk.last_seq());
    let (operation, after) = (operation.as_str(), place.message);
    let entry = Entry { by: on_duty, hive, job: &job, operation, chunk: &chunk, after, id: &id };
    match store.append(entry).await? {
        Appended::As(_) => tracing::warn!(job_id = %job, %hive, "ended a job of a hive that is gone"),
        // It has come back, or another hive was faster.
        Appended::Fenced => {}
    }
    Ok(())
}
