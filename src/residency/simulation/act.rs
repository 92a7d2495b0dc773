//! Carries out what was decided, as the owner does.

use super::happen::model_of;
use super::world::{Event, LeaseState, World};
use crate::residency::snapshot::{Action, Beneficiary, Drain, LeasePhase, LoadPhase, Origin, WorkerKey};
use crate::residency::testing::action as words;

impl World {
    /// Carries an action out. Whether something has changed.
    pub(super) fn act(&mut self, action: Action) -> bool {
        self.tell(|_| format!("   {}", words(&action)));
        match action {
            Action::Load { model, because } => {
                let is_new = !self.loads.iter().any(|load| load.model == model);
                if is_new {
                    self.submit(model_of(&model), because.origin());
                }
                is_new
            }
            Action::Grant { load, placement } => {
                let pause = self.chance.ms(0..100);
                let granted = self.loads.iter_mut().find(|known| known.key == load).expect("it asks");
                let LoadPhase::Asking { placements, .. } = &granted.phase else {
                    panic!("load {load} does not ask")
                };
                granted.phase = LoadPhase::Granted { needs: placements[placement].needs.clone() };
                self.after(pause, Event::Starts { load });
                true
            }
            Action::Refuse { load, .. } => {
                self.fail(load);
                true
            }
            Action::Cancel { load } => {
                self.loads.retain(|known| known.key != load);
                true
            }
            Action::Drain { worker, by, .. } => {
                let drain = Drain { by, since: self.now };
                let Some(process) = self.process(worker).filter(|process| process.is_up()) else {
                    return false;
                };
                let is_new = process.draining.is_none_or(|known| known.by != by);
                if is_new {
                    process.draining = Some(drain);
                }
                is_new
            }
            Action::Stop { worker, .. } => self.stop_drained(worker),
            Action::Reopen { worker } => {
                let Some(process) = self.process(worker).filter(|process| process.is_up()) else {
                    return false;
                };
                process.draining.take().is_some()
            }
            Action::GrantLease { lease } => {
                let pause = self.chance.ms(0..2000);
                let now = self.now;
                let state = self.leases.iter_mut().find(|state| state.lease.key == lease).expect("it asks");
                let expires_at = now + state.takes;
                state.lease.phase = LeasePhase::Held { untaken: 0, expires_at };
                self.after(pause, Event::LeaseTakes { lease });
                true
            }
            Action::RefuseLease { lease, .. } | Action::EndLease { lease } => {
                let index =
                    self.leases.iter().position(|state| state.lease.key == lease).expect("it is there");
                let state = self.leases.remove(index);
                self.give_back(state);
                true
            }
            Action::Wait { .. } | Action::WaitLease { .. } => false,
        }
    }

    fn stop_drained(&mut self, worker: WorkerKey) -> bool {
        let Some(process) = self.process(worker).filter(|process| process.is_up()) else { return false };
        let Some(drain) = process.draining.filter(|_| process.answering.is_empty()) else { return false };
        let model = process.model;
        if drain.by != Beneficiary::Idle {
            self.counts.evictions += 1;
        }
        let lease = self.leases.iter_mut().find(|state| drain.by == Beneficiary::Lease(state.lease.key));
        if let Some(state) = lease {
            state.evicted.push(model);
        }
        self.stop(worker);
        true
    }

    /// The other program goes on for a moment, and what was there before is loaded again.
    fn give_back(&mut self, state: LeaseState) {
        let index = self.setting.devices.iter().position(|device| device.device == state.lease.device);
        self.others[index.expect("a known device")] += state.taken;
        let pause = self.chance.ms(0..1000);
        self.after(pause, Event::LeaseLeaves { device: state.lease.device, bytes: state.taken });
        for model in state.evicted {
            self.submit(model, Origin::Restore);
        }
    }
}
