//! The jobs of other hives, as this one follows them: each is a [`Mirror`], filled by a task of its own for as long as
//! somebody wants it.
//!
//! Invariants:
//! - The events of an act come from the fleet's stream alone, so that every hive has the same of it, whichever hive is
//!   dead or cut off.
//! - The events of a read come from its hive, over a subject of this hive. Such a message can be lost; a gap in the
//!   numbers is noticed, and the rest is asked for again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::asking::{Asking, Inbox};
use super::follow;
use super::link::ANSWER;
use super::names::HiveName;
use super::stream;
use super::wire::{Found, OfJob, verb};
use crate::error::{Code, Failure, Result};
use crate::jobs::job::JobHeader;
use crate::jobs::{Chunk, Job, JobId, Mirror, OperationKind};
use crate::spawn;
use crate::time::monotonic;

/// How long an ended job is remembered after it was last asked for.
const KEEP: Duration = Duration::from_secs(60);
/// How long a job that nobody asks for is followed.
const FOLLOW: Duration = Duration::from_secs(30);
/// The most jobs that are remembered.
const MOST: usize = 1024;
/// The wait before the next attempt.
const RETRY: Duration = Duration::from_millis(100);
/// After how long without an event a hive is asked whether it still has the job.
const SILENCE: Duration = Duration::from_secs(10);

/// The jobs of other hives that this one follows.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    known: Mutex<HashMap<JobId, Known>>,
}

#[derive(Debug)]
struct Known {
    mirror: Arc<Mirror>,
    hive: HiveName,
    asked_for: Instant,
}

impl Mirrors {
    /// The job of that id, if this hive follows it.
    fn known(&self, id: &JobId) -> Option<Arc<Job>> {
        let mut known = self.known.lock();
        let found = known.get_mut(id)?;
        found.asked_for = monotonic();
        Some(Arc::clone(found.mirror.job()))
    }

    /// The other hive of a job that this hive follows.
    pub(super) fn hive_of(&self, job: &Job) -> Option<HiveName> {
        self.known.lock().get(job.id()).map(|known| known.hive.clone())
    }

    /// Follows a job of another hive. `inbox` is where the events of a read already come.
    pub(super) fn follow(
        self: &Arc<Self>,
        asking: &Asking,
        hive: &HiveName,
        job: JobHeader,
        inbox: Option<Inbox>,
    ) -> Arc<Mirror> {
        let mut known = self.known.lock();
        if let Some(found) = known.get_mut(&job.id) {
            found.asked_for = monotonic();
            return Arc::clone(&found.mirror);
        }
        forget_old(&mut known);
        let (kind, id) = (job.kind, job.id.clone());
        let mirror = Arc::new(Mirror::new(job, asking.bounds));
        known.insert(
            id.clone(),
            Known { mirror: Arc::clone(&mirror), hive: hive.clone(), asked_for: monotonic() },
        );
        drop(known);
        let (mirrors, asking, hive, followed) =
            (Arc::clone(self), asking.clone(), hive.clone(), Arc::clone(&mirror));
        spawn::detached(async move {
            let fill = async {
                match kind {
                    OperationKind::Act => {
                        let subject = asking.names.events(&hive, &id);
                        follow::act(&asking.link, &asking.names, &subject, &followed).await;
                    }
                    OperationKind::Read => follow_read(&asking, &hive, &followed, inbox).await,
                }
            };
            tokio::select! {
                () = fill => {}
                () = mirrors.unwanted(&id, &followed) => mirrors.forget(&id),
            }
        });
        mirror
    }

    /// Waits until nobody wants the job: no stream of it is open, and nobody has asked for it for a while.
    async fn unwanted(&self, id: &JobId, mirror: &Arc<Mirror>) {
        loop {
            tokio::time::sleep(FOLLOW).await;
            // That of the registry of mirrors and that of the task; readers hold the job.
            let is_read = Arc::strong_count(mirror.job()) > 1;
            let is_fresh = self.known.lock().get(id).is_some_and(|known| known.asked_for.elapsed() < FOLLOW);
            if !is_read && !is_fresh {
                return;
            }
        }
    }

    fn forget(&self, id: &JobId) {
        self.known.lock().remove(id);
    }
}

fn forget_old(known: &mut HashMap<JobId, Known>) {
    known.retain(|_, known| !known.mirror.has_ended() || known.asked_for.elapsed() < KEEP);
    while known.len() >= MOST {
        let oldest = known.iter().min_by_key(|(_, known)| known.asked_for).map(|(id, _)| id.clone());
        let Some(oldest) = oldest else { return };
        known.remove(&oldest);
    }
}

/// Looks for a job that this hive does not know: in the stream, and then at every hive.
///
/// # Errors
/// [`Code::JobNotFound`]; [`Code::FleetUnreachable`] if it cannot be looked for.
pub(super) async fn find(mirrors: &Arc<Mirrors>, asking: &Asking, id: &JobId) -> Result<Arc<Job>> {
    if let Some(job) = mirrors.known(id) {
        return Ok(job);
    }
    let pattern = asking.names.events_anywhere(id);
    if let Some((subject, place)) = stream::find(&asking.link, &asking.names, &pattern).await?
        && let Some((hive, _)) = asking.names.job_of(&subject)
        && let Some(job) = stream::header(&asking.link, &asking.names, &subject).await?
    {
        let mirror = mirrors.follow(asking, &hive, job, None);
        // As it stands now, and not as if nothing had happened yet.
        let _caught_up = timeout(ANSWER, mirror.log().reaches(place.seq)).await;
        return Ok(Arc::clone(mirror.job()));
    }
    let request = OfJob { job_id: id.clone(), after: 0, inbox: None };
    let Found { hive, job } = asking.everyone(verb::FIND, &request).await?.ok_or_else(|| {
        Failure::new(Code::JobNotFound, format!("no hive of the fleet has the job '{id}'")).hint(
            "GET /v1/jobs?hive=all lists the jobs that are kept; reads are kept for minutes, acts for days",
        )
    })?;
    let hive = HiveName::new(&hive)?;
    Ok(Arc::clone(mirrors.follow(asking, &hive, job, None).job()))
}

/// Fills the log of a read from its hive, until its end.
async fn follow_read(asking: &Asking, hive: &HiveName, mirror: &Mirror, mut inbox: Option<Inbox>) {
    loop {
        let has_come = match inbox.take() {
            Some(inbox) => read_inbox(asking, hive, inbox, mirror).await,
            None => follow_again(asking, hive, mirror).await,
        };
        if mirror.has_ended() {
            return;
        }
        match has_come {
            Ok(()) => {}
            // The hive tells that it does not have the job.
            Err(failure) if failure.code == Code::JobNotFound => return mirror.fail(lost(hive)),
            Err(failure) => {
                tracing::debug!(job_id = %mirror.job().id(), error = %failure, "a job is followed again");
                tokio::time::sleep(RETRY).await;
                if asking.link.trouble().is_none() && !asking.is_reachable(hive) {
                    return mirror.fail(lost(hive));
                }
            }
        }
    }
}

fn lost(hive: &HiveName) -> Failure {
    Failure::new(Code::Interrupted, format!("hive '{hive}', which ran this, is gone")).hint("ask again")
}

async fn follow_again(asking: &Asking, hive: &HiveName, mirror: &Mirror) -> Result<()> {
    let inbox = asking.inbox().await?;
    let request = OfJob {
        job_id: mirror.job().id().clone(),
        after: mirror.last_seq(),
        inbox: Some(inbox.subject.clone()),
    };
    asking.one::<Found>(hive, verb::FOLLOW, &request).await?;
    read_inbox(asking, hive, inbox, mirror).await
}

/// Reads messages of an inbox until the end, until one is missing, or until its hive or the connection is silent.
async fn read_inbox(asking: &Asking, hive: &HiveName, mut inbox: Inbox, mirror: &Mirror) -> Result<()> {
    loop {
        let message = tokio::select! {
            message = timeout(SILENCE, inbox.messages.next()) => message,
            () = asking.link.lost() => return Ok(()),
        };
        let Ok(Some(message)) = message else {
            // A hive that has nothing to tell says so, and goes on.
            return if asking.is_reachable(hive) { Ok(()) } else { Err(asking.silent(hive)) };
        };
        let chunk: Chunk = stream::decode(&message.payload)?;
        if mirror.lacks_some_before(&chunk) {
            return Ok(());
        }
        mirror.take(chunk);
        if mirror.has_ended() {
            return Ok(());
        }
    }
}
