//! The jobs of several hives as one page, newest first, and how much of a page goes from one to another. Of a hive that
//! cannot be asked, the stream has the acts.

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
use crate::text::json;

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

/// The newest of all pages, and whether there are more. Nothing is older than where a page ends that has a next one:
/// that one's jobs come first.
fn merge(pages: Vec<(HiveName, JobPage)>, limit: usize) -> Result<JobPage> {
    let mut has_more = false;
    let ends = pages.iter().filter(|(_, page)| page.next_cursor.is_some());
    let end = ends.filter_map(|(_, page)| page.jobs.last().map(|job| job.job_id.clone())).max();
    let mut jobs = Vec::new();
    for (hive, page) in pages {
        has_more |= page.next_cursor.is_some();
        jobs.extend(page.jobs.into_iter().map(|job| JobSummary { hive: Some(hive.to_string()), ..job }));
    }
    jobs.sort_by(|a, b| b.job_id.cmp(&a.job_id));
    has_more |= jobs.len() > limit;
    jobs.truncate(limit);
    jobs.retain(|job| end.as_ref().is_none_or(|end| job.job_id >= *end));
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

/// As much of a page as a message may have. What is left out is on the next one.
pub(super) fn that_fits(mut page: JobPage, mut room: usize) -> JobPage {
    let fits = |job: &&JobSummary| {
        let size = json(*job).len();
        let fits = size < room;
        room = room.saturating_sub(size + 1);
        fits
    };
    let fitting = page.jobs.iter().take_while(fits).count().max(1);
    if fitting < page.jobs.len() {
        page.jobs.truncate(fitting);
        page.next_cursor = page.jobs.last().map(|job| job.job_id.clone());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u32) -> JobSummary {
        let text = format!(
            r#"{{"job_id":"job-01a20948-3250-768d-ae65-db21c6f1dad{number}","operation":"model_list","kind":"read",
            "state":"queued","created_at":"2026-11-23T12:00:00.123Z","request":{{}},"sse_url":""}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn page(hive: &str, jobs: &[u32], has_more: bool) -> (HiveName, JobPage) {
        let jobs: Vec<_> = jobs.iter().copied().map(job).collect();
        let next_cursor = jobs.last().filter(|_| has_more).map(|job| job.job_id.clone());
        (HiveName::new(hive).unwrap(), JobPage { jobs, next_cursor })
    }

    #[test]
    fn a_page_that_a_message_cut_short_hides_nothing() {
        let numbers = |page: &JobPage| -> Vec<_> {
            page.jobs.iter().map(|job| job.job_id.to_string().pop().unwrap()).collect()
        };
        let whole = merge(vec![page("a", &[8, 5, 2], false), page("b", &[7, 4], false)], 9).unwrap();
        assert_eq!((numbers(&whole), whole.next_cursor), (vec!['8', '7', '5', '4', '2'], None));
        // What b has between 4 and 2 is on its next page.
        let cut = merge(vec![page("a", &[8, 5, 2], false), page("b", &[7, 4], true)], 9).unwrap();
        assert_eq!(numbers(&cut), ['8', '7', '5', '4']);
        assert_eq!(cut.next_cursor, cut.jobs.last().map(|job| job.job_id.clone()));
    }

    #[test]
    fn a_page_is_as_long_as_a_message_may_be() {
        let page = || JobPage { jobs: (0..9).rev().map(job).collect(), next_cursor: None };
        let (whole, size) = (that_fits(page(), 1 << 20), json(&job(8)).len());
        assert_eq!((whole.jobs.len(), whole.next_cursor), (9, None));
        let cut = that_fits(page(), 3 * (size + 1));
        assert_eq!((cut.jobs.len(), cut.next_cursor), (3, Some(job(6).job_id)));
        assert_eq!(that_fits(page(), 1).jobs.len(), 1, "it goes on");
    }
}
