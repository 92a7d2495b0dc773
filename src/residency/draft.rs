//! A decision in the making.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::claim::Claim;
use super::memory::{Room, granted, is_loading};
use super::snapshot::{
    Action, Beneficiary, Decision, LoadReason, Refusal, Resident, Snapshot, StopReason, Waiting, WorkerKey,
};

/// A decision in the making.
pub(super) struct Draft<'a> {
    pub(super) now: &'a Snapshot,
    pub(super) room: Room,
    /// How many more loads may start now.
    pub(super) places: usize,
    /// The workers that go, or are to go later, for a claim.
    pub(super) spoken_for: BTreeSet<WorkerKey>,
    /// Those of them that are to stay drained.
    pub(super) going: BTreeSet<WorkerKey>,
    /// The first of those who ask: later ones wait for it where it needs what there is.
    pub(super) first_asking: Option<Waiting>,
    /// The first of the loads that have, or will have soon, one of the places.
    pub(super) first_loading: Option<Waiting>,
    pub(super) decision: Decision,
}

impl<'a> Draft<'a> {
    pub(super) fn of(now: &'a Snapshot) -> Self {
        Self {
            now,
            room: Room::of(now),
            places: now.rules.concurrent_loads.max(1).saturating_sub(loading(now).count()),
            spoken_for: BTreeSet::new(),
            going: BTreeSet::new(),
            first_asking: None,
            first_loading: loading(now).next().map(|model| Waiting::Load(model.clone())),
            decision: Decision::default(),
        }
    }

    /// Drains the workers, and stops them together once none of them answers a request: none ends for a load that
    /// waits in vain for another one.
    pub(super) fn send_away(
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

    pub(super) fn refuse(&mut self, claim: &Claim<'_>, why: Refusal) {
        match claim.by {
            Beneficiary::Load(load) => self.act(Action::Refuse { load, why }),
            Beneficiary::Lease(lease) => self.act(Action::RefuseLease { lease, why }),
            Beneficiary::Idle => {}
        }
    }

    pub(super) fn wait(&mut self, claim: &Claim<'_>, why: Option<Waiting>) {
        let Some(why) = why else { return };
        match claim.by {
            Beneficiary::Load(load) => self.act(Action::Wait { load, why }),
            Beneficiary::Lease(lease) => self.act(Action::WaitLease { lease, why }),
            Beneficiary::Idle => {}
        }
    }

    /// Loads the model, once.
    pub(super) fn load(&mut self, model: &Arc<str>, because: LoadReason) {
        let loads_it =
            |action: &Action| matches!(action, Action::Load { model: known, .. } if known == model);
        if !self.decision.actions.iter().any(loads_it) {
            self.act(Action::Load { model: model.clone(), because });
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.decision.actions.push(action);
    }

    pub(super) fn wake_at(&mut self, at: Duration) {
        self.decision.wake_at = Some(self.decision.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// The models of the workers that load, and of those that may start and have not.
fn loading(now: &Snapshot) -> impl Iterator<Item = &Arc<str>> {
    let workers = now.workers.iter().filter(|worker| is_loading(worker)).map(|worker| &worker.model);
    workers.chain(granted(now).map(|load| load.model))
}

/// Since when the worker is drained for that one; `None` if it is not.
pub(super) fn drained_for(worker: &Resident, by: Beneficiary) -> Option<Duration> {
    worker.draining.filter(|drain| drain.by == by).map(|drain| drain.since)
}
