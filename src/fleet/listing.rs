//! The jobs of several hives as one page, newest first. Of a hive that cannot be asked, the stream has the acts.

use std::collections::BTreeSet;

use futures::{StreamExt, stream as streams};

use super::asking::Asking;
use super::members::{Member, Presence};
use super::names::HiveName;
use super::stream;
use super::wire::{List, verb};
use crate::error::Result;
use crate::jobs::job::JobSummary;
use crate::jobs::{JobFilter, JobId, JobPage, Mirror};

/// How many hives, or jobs of a silent hive, are asked for at once.
const AT_ONCE: usize = 32;

/// A page of the jobs of these hives. `own` lists those of this one.
pub(super) async fn list(
    asking: &Asking,
    this: &HiveName,
    hives: Vec<(HiveName, Member)>,
    filter: &JobFilter,
    limit: usize,
    own: impl Fn(&JobFilter) -> JobPage,
) -> Result<JobPage> {
    let pages = streams::iter(hives).map(|(hive, member)| {
        let own = &own;
        async move {
            let page = match member.presence {
                _ if hive == *this => own(filter),
                Presence::Reachable => of_reachable(asking, &hive, filter, limit).await?,
                Presence::Unreachable => of_silent(asking, &hive, filter, limit).await?,
            };
            Ok((hive, page))
        }
    });
    let pages: Vec<Result<_>> = pages.buffer_unordered(AT_ONCE).collect().await;
    merge(pages.into_iter().collect::<Result<Vec<_>>>()?, limit)
}

/// The newest of all pages, and whether there are more.
fn merge(pages: Vec<(HiveName, JobPage)>, limit: usize) -> Result<JobPage> {
    let mut has_more = false;
    let mut jobs = Vec::new();
    for (hive, page) in pages {
        has_more |= page.next_cursor.is_some();
        jobs.extend(page.jobs.into_iter().map(|job| JobSummary { hive: Some(hive.to_string()), ..job }));
    }
    jobs.sort_by(|a, b| b.job_id.cmp(&a.job_id));
    has_more |= jobs.len() > limit;
    jobs.truncate(limit);
    let next_cursor = jobs.last().filter(|_| has_more).map(|job| job.job_id.clone());
    Ok(JobPage { jobs, next_cursor })
}

async fn of_reachable(asking: &Asking, hive: &HiveName, filter: &JobFilter, limit: usize) -> Result<JobPage> {
    let JobFilter { state, operation, before, .. } = filter.clone();
    asking.one(hive, verb::LIST, &List { state, operation, before, limit }).await
}

/// The acts of a hive that does not answer, as the stream has them.
async fn of_silent(asking: &Asking, hive: &HiveName, filter: &JobFilter, limit: usize) -> Result<JobPage> {
    let mut known: BTreeSet<JobId> = BTreeSet::new();
    stream::each_last(&asking.link, &asking.names, &asking.names.events_of(hive), |_, job, _| {
        if filter.before.as_ref().is_none_or(|before| job < *before) {
            known.insert(job);
        }
    })
    .await?;
    let mut jobs = Vec::new();
    let newest_first = known.into_iter().rev();
    let mut summaries = Box::pin(
        streams::iter(newest_first)
            .map(|job| async move { summary(asking, hive, &job).await })
            .buffered(AT_ONCE),
    );
    while let Some(summary) = summaries.next().await {
        jobs.extend(summary?.filter(|job| {
            filter.state.is_none_or(|state| job.state == state)
                && filter.operation.as_ref().is_none_or(|operation| job.operation == *operation)
        }));
        if jobs.len() > limit {
            break;
        }
    }
    let next_cursor = (jobs.len() > limit).then(|| jobs[limit - 1].job_id.clone());
    jobs.truncate(limit);
    Ok(JobPage { jobs, next_cursor })
}

/// A job as its first message and its last one in the stream tell it.
async fn summary(asking: &Asking, hive: &HiveName, job: &JobId) -> Result<Option<JobSummary>> {
    let subject = asking.names.events(hive, job);
    let Some(header) = stream::header(&asking.link, &asking.names, &subject).await? else { return Ok(None) };
    let mirror = Mirror::new(header, asking.bounds);
    if let Some(chunk) = stream::last_chunk(&asking.link, &asking.names, &subject).await? {
        mirror.take(chunk);
    }
    Ok(Some(mirror.job().summary()))
}
