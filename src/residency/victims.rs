//! Which workers go when room is needed: those that bring enough at the least cost.

use std::time::Duration;

use super::claim::{Claim, is_wanted};
use super::memory::brings;
use super::snapshot::{Amounts, Phase, Resident, Snapshot};
use crate::workers::Device;

/// Up to so many candidates, every set of them is tried.
const TRIED: usize = 10;
/// A worker that had no request for so long is half as dear as one that is in use.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// A worker that may go for a claim.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) worker: &'a Resident,
    /// Until when it stays in any case, if that is in the future.
    pub(super) stays_until: Option<Duration>,
    cost: Cost,
}

/// What it costs that workers go. What stands first counts most.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Workers that stay for now: all others would wait for them.
    staying: usize,
    /// Workers with answers under way that accept requests still.
    busy: usize,
    /// Workers with answers under way that were drained for the claim already.
    finishing: usize,
    /// How long it takes to load them again, weighed by how likely that is soon.
    reload_ms: u128,
    bytes: u128,
}

impl<'a> Candidate<'a> {
    /// `None` if it cannot go for that claim.
    pub(super) fn of(now: &Snapshot, claim: &Claim<'_>, worker: &'a Resident) -> Option<Self> {
        if !is_up(worker) || !claim.may_move(worker) {
            return None;
        }
        let is_drained = worker.draining.is_some_and(|drain| drain.by == claim.by);
        let is_busy = worker.in_flight > 0;
        let stays_until = Some(stays_until(now, worker))
            .filter(|until| *until > now.now && claim.replaces != Some(worker.key));
        let cost = Cost {
            staying: usize::from(stays_until.is_some()),
            busy: usize::from(is_busy && !is_drained),
            finishing: usize::from(is_busy && is_drained),
            // One that was drained is likely to be gone soon anyway: another one in its place would be dearer.
            reload_ms: if is_drained { 0 } else { reload_cost(now, worker) },
            bytes: worker.holds.iter().map(|(_, bytes)| u128::from(*bytes)).sum(),
        };
        Some(Self { worker, stays_until, cost })
    }
}

/// The cheapest of the candidates that bring together what is missing; `None` if all of them do not.
pub(super) fn cheapest<'a>(
    mut candidates: Vec<Candidate<'a>>,
    missing: &Amounts,
) -> Option<Vec<Candidate<'a>>> {
    candidates.retain(|candidate| missing.iter().any(|(device, _)| brings(candidate.worker, *device) > 0));
    if !suffice(&candidates, missing) {
        return None;
    }
    if candidates.len() > TRIED {
        return Some(cheap(candidates, missing));
    }
    let sets = (0..1_usize << candidates.len()).map(|set| {
        let chosen = candidates.iter().enumerate().filter(move |(index, _)| set & (1 << index) != 0);
        chosen.map(|(_, candidate)| *candidate).collect::<Vec<_>>()
    });
    sets.filter(|set| suffice(set, missing)).min_by_key(|set| cost(set))
}

/// Takes the cheapest one by one until they suffice, and leaves out those that are not needed in the end.
fn cheap<'a>(mut candidates: Vec<Candidate<'a>>, missing: &Amounts) -> Vec<Candidate<'a>> {
    candidates.sort_by_key(|candidate| candidate.cost);
    let enough = (0..candidates.len()).find(|count| suffice(&candidates[..*count], missing));
    candidates.truncate(enough.unwrap_or(candidates.len()));
    for index in (0..candidates.len()).rev() {
        let left_out = candidates.remove(index);
        if !suffice(&candidates, missing) {
            candidates.insert(index, left_out);
        }
    }
    candidates
}

/// The cost of a set.
pub(super) fn cost(set: &[Candidate<'_>]) -> Cost {
    set.iter().fold(Cost::default(), |sum, Candidate { cost, .. }| Cost {
        staying: sum.staying + cost.staying,
        busy: sum.busy + cost.busy,
        finishing: sum.finishing + cost.finishing,
        reload_ms: sum.reload_ms + cost.reload_ms,
        bytes: sum.bytes + cost.bytes,
    })
}

fn suffice(set: &[Candidate<'_>], missing: &Amounts) -> bool {
    let brought = |device: Device| set.iter().map(|candidate| brings(candidate.worker, device)).sum::<u64>();
    missing.iter().all(|(device, missing)| brought(*device) >= *missing)
}

/// Whether it neither loads nor ends.
pub(super) fn is_up(worker: &Resident) -> bool {
    matches!(worker.phase, Phase::Ready | Phase::Unresponsive)
}

/// For how long the worker has had no request; `None` while it has some.
pub(super) fn idle_for(now: &Snapshot, worker: &Resident) -> Option<Duration> {
    let is_idle = worker.in_flight == 0 && !is_wanted(now, &worker.model);
    is_idle.then(|| now.now.saturating_sub(worker.last_used))
}

/// Until when the worker stays whoever needs its room: for its minimum time, or until it has had no request for a
/// moment.
fn stays_until(now: &Snapshot, worker: &Resident) -> Duration {
    let had_its_time = worker.ready_at.saturating_add(now.rules.min_stay);
    match idle_for(now, worker) {
        Some(_) => had_its_time.min(worker.last_used.saturating_add(now.rules.linger)),
        None => had_its_time,
    }
}

fn reload_cost(now: &Snapshot, worker: &Resident) -> u128 {
    let idle = idle_for(now, worker).unwrap_or_default();
    let half = HALF_LIFE.as_millis();
    worker.load_time.as_millis().max(1) * half / (half + idle.as_millis())
}
