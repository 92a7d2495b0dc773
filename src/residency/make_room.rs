//! Makes room for one who asks.

use std::cmp::Reverse;

use super::claim::Claim;
use super::draft::{Draft, drained_for};
use super::memory::brings;
use super::snapshot::{Action, Beneficiary, Phase, Placement, Refusal, Resident, Waiting};
use super::victims::{Candidate, Cost, cheapest, cost, idle_for};

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

impl<'a> Draft<'a> {
    /// Grants what the claim asks for, or lets workers go for it, or says what it waits for.
    pub(super) fn make_room(&mut self, claim: &Claim<'a>) {
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
        let (mut possible, mut short) = (Vec::new(), Vec::new());
        for (index, placement) in claim.placements.iter().enumerate() {
            match self.room.short_of(self.now, &placement.needs, claim.model, |worker| claim.may_move(worker))
            {
                None => possible.push((index, placement)),
                Some(missing) => short.push(missing),
            }
        }
        let best = possible.iter().map(|(_, placement)| placement.class).min();
        possible.retain(|(_, placement)| Some(placement.class) == best);
        match short.into_iter().min_by_key(|(_, missing)| *missing) {
            Some((device, missing)) if possible.is_empty() => Err(Refusal::DoesNotFit { device, missing }),
            _ => Ok(possible),
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
            drained.partition(|(_, since)| since.saturating_add(limit) <= self.now.now);
        for (_, since) in in_time {
            self.wake_at(since.saturating_add(limit));
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
}
