//! The decision: what to load, to drain, to stop, to grant and to refuse, and why.
//!
//! The loads and leases that ask for memory are served in the order in which they came. Each gets what is free;
//! where that is not enough, the workers go that cost the least, once none of them answers a request; what it needs
//! is kept for it meanwhile, so that none that came later takes it away.

use super::claim::{claims, has_load, has_worker, is_needless};
use super::draft::Draft;
use super::snapshot::{Action, Beneficiary, Decision, Keep, LeasePhase, LoadReason, Snapshot, StopReason};
use super::victims::{idle_for, is_up};

/// Decides what to do now.
///
/// What concerns loads and leases is to show in the next snapshot. What concerns workers may show later: until it
/// does, the same actions are decided again, and must then do nothing. They are carried out in their order.
pub(crate) fn decide(now: &Snapshot) -> Decision {
    let mut draft = Draft::of(now);
    draft.end_leases();
    draft.load_what_is_wanted();
    draft.reload_what_is_outdated();
    draft.cancel_what_is_needless();
    for claim in claims(now) {
        draft.make_room(&claim);
    }
    draft.end_idle_workers();
    draft.reopen_the_others();
    draft.decision
}

impl Draft<'_> {
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
                _ => self.load(&demand.model, LoadReason::Requests(demand.waiting)),
            }
        }
    }

    fn reload_what_is_outdated(&mut self) {
        let outdated = self.now.workers.iter().filter(|worker| worker.outdated && worker.draining.is_none());
        let now = self.now;
        for worker in outdated.filter(|worker| is_up(worker) && !has_load(now, &worker.model)) {
            match idle_for(self.now, worker) {
                Some(idle) if idle >= self.now.rules.linger => {
                    self.load(&worker.model, LoadReason::SettingsChanged);
                }
                Some(_) => self.wake_at(worker.last_used.saturating_add(self.now.rules.linger)),
                None => {}
            }
        }
    }

    fn cancel_what_is_needless(&mut self) {
        for load in self.now.loads.iter().filter(|load| is_needless(self.now, load)) {
            self.act(Action::Cancel { load: load.key });
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
                self.wake_at(worker.last_used.saturating_add(limit));
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
}

#[cfg(test)]
mod tests;
