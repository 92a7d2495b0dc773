//! The decision: what to load, to drain, to stop, to grant and to refuse, and why.
//!
//! The loads and leases that ask for memory are served in the order in which they came. Each gets what is free;
//! where that is not enough, the workers go that cost the least, once none of them answers a request; what it needs
//! is kept for it meanwhile, so that none that came later takes it away.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::claim::{Claim, claims, has_load, has_worker, is_needless};
use super::memory::{Room, brings, granted, is_loading};
use super::snapshot::{
    Action, Beneficiary, Decision, Keep, LeasePhase, LoadReason, Phase, Placement, Refusal, Resident,
    Snapshot, StopReason, Waiting, WorkerKey,
};
use super::victims::{Candidate, Cost, cheapest, cost, idle_for, is_up};

/// Decides what to do now.
///
/// What concerns loads and leases is to show in the next snapshot. What concerns workers may show later: until it
/// does, the same actions are decided again, and must then do nothing. They are carried out in their order.
pub(crate) fn decide(now: &Snapshot) -> Decision {
    let mut deciding = Deciding {
        now,
        room: Room::of(now),
        places: now.rules.concurrent_loads.max(1).saturating_sub(loading(now).count()),
        spoken_for: BTreeSet::new(),
        going: BTreeSet::new(),
        first_asking: None,
        first_loading: loading(now).next().map(|model| Waiting::Load(model.clone())),
        decision: Decision::default(),
    };
    deciding.end_leases();
    deciding.load_what_is_wanted();
    deciding.reload_what_is_outdated();
    deciding.cancel_what_is_needless();
    for claim in claims(now) {
        deciding.make_room(&claim);
    }
    deciding.end_idle_workers();
    deciding.reopen_the_others();
    deciding.decision
}

/// A decision in the making.
struct Deciding<'a> {
    now: &'a Snapshot,
    room: Room,
    /// How many more loads may start now.
    places: usize,
    /// The workers that go, or are to go later, for a claim.
    spoken_for: BTreeSet<WorkerKey>,
    /// Those of them that are to stay drained.
    going: BTreeSet<WorkerKey>,
    /// The first of those who ask: later ones wait for it where it needs what there is.
    first_asking: Option<Waiting>,
    /// The first of the loads that have, or will have soon, one of the places.
    first_loading: Option<Waiting>,
    decision: Decision,
}

/// How a claim can get one of its placements. The first is the best.
enum Way<'a> {
    /// It fits now, and so much stays free.
    Free { left: i128 },
    /// It fits once these have gone, and memory of those that have ended is free again.
    After(Vec<Candidate<'a>>),
    /// Others have asked earlier, or load.
    Behind,
}

impl Way<'_> {
    fn rank(&self) -> (u8, Cost, Reverse<i128>) {
        match self {
            Self::Free { left } => (0, Cost::default(), Reverse(*left)),
            Self::After(victims) => (1, cost(victims), Reverse(0)),
            Self::Behind => (2, Cost::default(), Reverse(0)),
        }
    }
}

impl<'a> Deciding<'a> {
    fn end_leases(&mut self) {
        for lease in &self.now.leases {
            match lease.phase {
                LeasePhase::Held { expires_at, .. } if expires_at <= self.now.now => {
                    self.act(Action::EndLease { lease: lease.key });
                }
                LeasePhase::Held { expires_at, .. } => self.wake_at(expires_at),
                LeasePhase::Asking => {}
            }
        }
    }

    fn load_what_is_wanted(&mut self) {
        if !self.now.rules.on_demand {
            return;
        }
        for demand in self.now.demand.iter().filter(|demand| demand.waiting > 0) {
            if has_worker(self.now, &demand.model) || has_load(self.now, &demand.model) {
                continue;
            }
            match demand.not_before {
                Some(at) if at > self.now.now => self.wake_at(at),
                _ => {
                    let because = LoadReason::Requests(demand.waiting);
                    self.act(Action::Load { model: demand.model.clone(), because });
                }
            }
        }
    }

    fn reload_what_is_outdated(&mut self) {
        let outdated = self.now.workers.iter().filter(|worker| worker.outdated && worker.draining.is_none());
        let now = self.now;
        for worker in outdated.filter(|worker| is_up(worker) && !has_load(now, &worker.model)) {
            match idle_for(self.now, worker) {
                Some(idle) if idle >= self.now.rules.linger => {
                    let because = LoadReason::SettingsChanged;
                    self.act(Action::Load { model: worker.model.clone(), because });
                }
                Some(_) => self.wake_at(worker.last_used + self.now.rules.linger),
                None => {}
            }
        }
    }

    fn cancel_what_is_needless(&mut self) {
        for load in self.now.loads.iter().filter(|load| is_needless(self.now, load)) {
            self.act(Action::Cancel { load: load.key });
        }
    }

    /// Grants what the claim asks for, or lets workers go for it, or says what it waits for.
    fn make_room(&mut self, claim: &Claim<'a>) {
        let placements = match self.possible(claim) {
            Ok(placements) => placements,
            Err(refusal) => return self.refuse(claim, refusal),
        };
        let ways =
            placements.into_iter().map(|(index, placement)| (index, placement, self.way(claim, placement)));
        let Some((index, placement, way)) = ways.min_by_key(|(_, _, way)| way.rank()) else { return };
        let may_start = claim.model.is_none() || self.places > 0;
        match way {
            Way::Free { .. } if may_start => return self.grant(claim, index, placement),
            Way::After(victims) => {
                if let Some(refusal) = self.overdue(claim, &victims) {
                    return self.refuse(claim, refusal);
                }
                self.let_go(claim, placement, &victims, may_start);
            }
            Way::Free { .. } => self.wait(claim, self.first_loading.clone()),
            Way::Behind => self.wait(claim, self.first_asking.clone().or(self.first_loading.clone())),
        }
        self.room.keep(&placement.needs);
        self.first_asking.get_or_insert_with(|| claim.as_reason_to_wait());
    }

    /// The placements of the best class of those that can be had at all, with their indexes.
    fn possible<'c>(&self, claim: &'c Claim<'a>) -> Result<Vec<(usize, &'c Placement)>, Refusal> {
        let mut possible = Vec::new();
        let mut least = None;
        for (index, placement) in claim.placements.iter().enumerate() {
            let short = self.room.short_of(self.now, &placement.needs, claim.model, |w| claim.may_move(w));
            match short {
                None => possible.push((index, placement)),
                Some((_, missing)) if least.is_some_and(|(_, least)| least <= missing) => {}
                Some(short) => least = Some(short),
            }
        }
        match (possible.iter().map(|(_, placement)| placement.class).min(), least) {
            (None, Some((device, missing))) => Err(Refusal::DoesNotFit { device, missing }),
            (best, _) => {
                possible.retain(|(_, placement)| Some(placement.class) == best);
                Ok(possible)
            }
        }
    }

    fn way(&self, claim: &Claim<'a>, placement: &Placement) -> Way<'a> {
        let is_replaced = |worker: &Resident| claim.replaces == Some(worker.key);
        if self.room.has(&placement.needs) && !self.now.workers.iter().any(is_replaced) {
            return Way::Free { left: self.room.left_after(&placement.needs) };
        }
        let others = self.now.workers.iter().filter(|worker| !self.spoken_for.contains(&worker.key));
        let candidates = others.filter_map(|worker| Candidate::of(self.now, claim, worker));
        let (mut victims, candidates): (Vec<_>, Vec<_>) =
            candidates.partition(|candidate| is_replaced(candidate.worker));
        let missing = self.room.missing(&placement.needs, victims.first().map(|replaced| replaced.worker));
        match cheapest(candidates, &missing) {
            Some(cheapest) => {
                victims.extend(cheapest);
                Way::After(victims)
            }
            None => Way::Behind,
        }
    }

    /// The refusal of a claim whose victims have been drained for so long that it waits no longer for their answers.
    fn overdue(&mut self, claim: &Claim<'_>, victims: &[Candidate<'_>]) -> Option<Refusal> {
        let limit = self.now.rules.drain_limit;
        let busy = victims.iter().map(|victim| victim.worker).filter(|worker| worker.in_flight > 0);
        let drained = busy.filter_map(|worker| Some((worker.key, drained_for(worker, claim.by)?)));
        let (overdue, in_time): (Vec<_>, Vec<_>) =
            drained.partition(|(_, since)| *since + limit <= self.now.now);
        for (_, since) in in_time {
            self.wake_at(since + limit);
        }
        let first = overdue.iter().map(|(_, since)| *since).min()?;
        let workers = overdue.into_iter().map(|(worker, _)| worker).collect();
        Some(Refusal::StillBusy { workers, waited: self.now.now.saturating_sub(first) })
    }

    fn grant(&mut self, claim: &Claim<'_>, index: usize, placement: &Placement) {
        self.room.give(&placement.needs);
        self.first_asking.get_or_insert_with(|| claim.as_reason_to_wait());
        match claim.by {
            Beneficiary::Load(load) => {
                self.take_place(claim);
                self.act(Action::Grant { load, placement: index });
            }
            Beneficiary::Lease(lease) => self.act(Action::GrantLease { lease }),
            Beneficiary::Idle => {}
        }
    }

    fn take_place(&mut self, claim: &Claim<'_>) {
        self.places -= 1;
        self.first_loading.get_or_insert_with(|| claim.as_reason_to_wait());
    }

    fn let_go(
        &mut self,
        claim: &Claim<'_>,
        placement: &Placement,
        victims: &[Candidate<'a>],
        may_start: bool,
    ) {
        let workers: Vec<_> = victims.iter().map(|victim| victim.worker).collect();
        for worker in &workers {
            self.spoken_for.insert(worker.key);
            self.room.expect(worker);
        }
        let staying = victims.iter().filter_map(|victim| Some((victim.stays_until?, victim.worker.key)));
        if let Some((until, worker)) = staying.max() {
            self.wake_at(until);
            return self.wait(claim, Some(Waiting::Stay { worker, until }));
        }
        if !may_start {
            // Nothing more is drained before the load may start; what is drained for it stays so.
            let drained = workers.iter().filter(|worker| drained_for(worker, claim.by).is_some());
            self.going.extend(drained.map(|worker| worker.key));
            return self.wait(claim, self.first_loading.clone());
        }
        // It starts soon: none that came later takes its place.
        if claim.model.is_some() && workers.iter().all(|worker| worker.in_flight == 0) {
            self.take_place(claim);
        }
        self.send_away(&workers, claim.by, |worker| claim.reason_to_stop(worker, idle_for(self.now, worker)));
        let keys: Vec<_> = workers.iter().map(|worker| worker.key).collect();
        let why = match keys.is_empty() {
            true => self.why_nobody_goes(claim, placement),
            false => Some(Waiting::Workers(keys)),
        };
        self.wait(claim, why);
    }

    /// What the claim waits for where enough workers go already.
    fn why_nobody_goes(&self, claim: &Claim<'_>, placement: &Placement) -> Option<Waiting> {
        let ending = self.now.workers.iter().filter(|worker| worker.phase == Phase::Stopping);
        match self.room.missing_now(&placement.needs) {
            Some((device, missing)) if ending.into_iter().any(|worker| brings(worker, device) > 0) => {
                Some(Waiting::Memory { device, missing })
            }
            Some(_) => self.first_asking.clone(),
            None => claim.replaces.map(|replaced| Waiting::Workers(vec![replaced])),
        }
    }

    fn end_idle_workers(&mut self) {
        for worker in &self.now.workers {
            let Keep::For(limit) = worker.keep else { continue };
            let Some(idle) = idle_for(self.now, worker) else { continue };
            if !is_up(worker) || self.spoken_for.contains(&worker.key) {
                continue;
            }
            if idle < limit {
                self.wake_at(worker.last_used + limit);
                continue;
            }
            self.send_away(&[worker], Beneficiary::Idle, |_| StopReason::Idle { idle });
        }
    }

    fn reopen_the_others(&mut self) {
        for worker in self.now.workers.iter().filter(|worker| worker.draining.is_some() && is_up(worker)) {
            if !self.going.contains(&worker.key) {
                self.act(Action::Reopen { worker: worker.key });
            }
        }
    }

    /// Drains the workers, and stops them together once none of them answers a request: none ends for a load that
    /// waits in vain for another one.
    fn send_away(
        &mut self,
        workers: &[&Resident],
        by: Beneficiary,
        because: impl Fn(&Resident) -> StopReason,
    ) {
        let is_drained = |worker: &Resident| drained_for(worker, by).is_some();
        let are_done = workers.iter().all(|worker| is_drained(worker) && worker.in_flight == 0);
        for worker in workers {
            self.going.insert(worker.key);
            if are_done {
                self.act(Action::Stop { worker: worker.key, because: because(worker) });
            } else if !is_drained(worker) {
                self.act(Action::Drain { worker: worker.key, by, because: because(worker) });
            }
        }
    }

    fn refuse(&mut self, claim: &Claim<'_>, why: Refusal) {
        match claim.by {
            Beneficiary::Load(load) => self.act(Action::Refuse { load, why }),
            Beneficiary::Lease(lease) => self.act(Action::RefuseLease { lease, why }),
            Beneficiary::Idle => {}
        }
    }

    fn wait(&mut self, claim: &Claim<'_>, why: Option<Waiting>) {
        let Some(why) = why else { return };
        match claim.by {
            Beneficiary::Load(load) => self.act(Action::Wait { load, why }),
            Beneficiary::Lease(lease) => self.act(Action::WaitLease { lease, why }),
            Beneficiary::Idle => {}
        }
    }

    fn act(&mut self, action: Action) {
        self.decision.actions.push(action);
    }

    fn wake_at(&mut self, at: Duration) {
        self.decision.wake_at = Some(self.decision.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// The models of the workers that load, and of those that may start and have not.
fn loading(now: &Snapshot) -> impl Iterator<Item = &Arc<str>> {
    let workers = now.workers.iter().filter(|worker| is_loading(worker)).map(|worker| &worker.model);
    workers.chain(granted(now).map(|load| load.model))
}

/// Since when the worker is drained for that one; `None` if it is not.
fn drained_for(worker: &Resident, by: Beneficiary) -> Option<Duration> {
    worker.draining.filter(|drain| drain.by == by).map(|drain| drain.since)
}

#[cfg(test)]
mod tests;
