//! The machine as it is: programs, memory, requests; and what the hive sees of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::chance::Chance;
use super::checks::{Check, ensure};
use super::setting::{Happening, Setting};
use crate::residency::snapshot::{
    Action, Amounts, Demand, DeviceMemory, Drain, Keep, Lease, LeaseKey, LeasePhase, Load, LoadKey, Phase,
    Resident, Snapshot, WorkerKey,
};
use crate::workers::Device;

pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) chance: Chance,
    pub(super) now: Duration,
    /// What other programs hold on each device, beside what leases gave them.
    pub(super) others: Vec<u64>,
    pub(super) processes: Vec<Process>,
    /// By model.
    pub(super) queues: Vec<Queue>,
    pub(super) loads: Vec<Load>,
    pub(super) leases: Vec<LeaseState>,
    pub(super) last_key: u64,
    pub(super) events: BTreeMap<(Duration, u64), Event>,
    /// When the last late action will be carried out: they stay in their order.
    pub(super) last_action: Duration,
    pub(super) counts: Counts,
    /// What happened, if that is to be told.
    pub(super) trace: Option<Vec<String>>,
}

/// What happened in a run.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: usize,
    pub(super) answered: usize,
    pub(super) refused: usize,
    pub(super) gave_up: usize,
    pub(super) loads: usize,
    pub(super) evictions: usize,
    pub(super) decisions: usize,
    /// How often each kind of action was decided.
    pub(super) actions: BTreeMap<&'static str, usize>,
    /// The longest wait, in thousandths of what is allowed.
    pub(super) longest_wait: u128,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Request>,
    /// When a request of the model got a worker, or an answer, last.
    pub(super) served: Duration,
    pub(super) not_before: Option<Duration>,
    pub(super) failures: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) key: u64,
    pub(super) since: Duration,
    pub(super) takes: Duration,
    /// The client asks again after each answer until then.
    pub(super) again_until: Duration,
}

pub(super) struct Process {
    pub(super) key: WorkerKey,
    pub(super) model: usize,
    pub(super) expected: Amounts,
    pub(super) truth: Amounts,
    pub(super) stage: Stage,
    pub(super) load: Option<LoadKey>,
    pub(super) started: Duration,
    pub(super) load_time: Duration,
    pub(super) ready_at: Duration,
    pub(super) last_used: Duration,
    pub(super) draining: Option<Drain>,
    pub(super) answering: Vec<Request>,
    pub(super) keep: Keep,
    pub(super) outdated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Loading,
    Ready,
    Hung,
    Stopping,
    /// It has ended, and its memory is not free yet.
    Ended,
}

pub(super) struct LeaseState {
    pub(super) lease: Lease,
    pub(super) takes: Duration,
    /// What the other program has taken of it.
    pub(super) taken: u64,
    /// The models that made room for it.
    pub(super) evicted: Vec<usize>,
}

#[derive(Debug)]
pub(super) enum Event {
    Happens(Happening),
    GivesUp { model: usize, request: u64 },
    AnswerEnds { worker: WorkerKey, request: u64 },
    Asks { load: LoadKey },
    Starts { load: LoadKey },
    Loaded { worker: WorkerKey },
    Exited { worker: WorkerKey },
    Released { worker: WorkerKey },
    Restarts { model: usize, needs: Amounts },
    Recovers { worker: WorkerKey },
    LeaseTakes { lease: LeaseKey },
    LeaseLeaves { device: Device, bytes: u64 },
    Act(Action),
}

impl World {
    pub(super) fn new(mut setting: Setting, chance: Chance) -> Self {
        let happenings = std::mem::take(&mut setting.events);
        let mut world = Self {
            now: Duration::ZERO,
            others: setting.devices.iter().map(|device| device.others).collect(),
            processes: Vec::new(),
            queues: setting.models.iter().map(|_| Queue::default()).collect(),
            loads: Vec::new(),
            leases: Vec::new(),
            last_key: 0,
            events: BTreeMap::new(),
            last_action: Duration::ZERO,
            counts: Counts::default(),
            trace: None,
            setting,
            chance,
        };
        for (at, happening) in happenings {
            world.at(at, Event::Happens(happening));
        }
        world
    }

    pub(super) fn key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        let key = self.key();
        self.events.insert((at, key), event);
    }

    pub(super) fn after(&mut self, pause: Duration, event: Event) {
        self.at(self.now + pause, event);
    }

    pub(super) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9.3} s  {}", self.now.as_secs_f64(), line(self));
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
    }

    pub(super) fn process(&mut self, worker: WorkerKey) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.key == worker)
    }

    /// What the hive sees.
    pub(super) fn snapshot(&self) -> Snapshot {
        let devices = self.setting.devices.iter().enumerate().map(|(index, device)| {
            let used = i128::from(self.others[index]) + self.held_on(device.device);
            let free = u64::try_from(i128::from(device.capacity) - used).unwrap_or(0);
            DeviceMemory {
                device: device.device,
                capacity: device.is_known.then_some(device.capacity),
                free: device.is_known.then_some(free),
                reserve: device.reserve,
            }
        });
        let demand = self.queues.iter().zip(&self.setting.models).filter_map(|(queue, model)| {
            let (waiting, not_before) = (queue.waiting.len(), queue.not_before);
            (waiting > 0).then(|| Demand { model: model.name.clone(), waiting, not_before })
        });
        Snapshot {
            now: self.now,
            rules: self.setting.rules.clone(),
            devices: devices.collect(),
            workers: self.processes.iter().map(|process| process.seen(self)).collect(),
            demand: demand.collect(),
            loads: self.loads.clone(),
            leases: self.leases.iter().map(LeaseState::seen).collect(),
        }
    }

    /// What workers and leases hold of the device.
    pub(super) fn held_on(&self, device: Device) -> i128 {
        let workers = self.processes.iter().map(|process| on(&process.holds(self.now), device));
        let leases = self.leases.iter().filter(|state| state.lease.device == device).map(|state| state.taken);
        workers.chain(leases).map(i128::from).sum()
    }

    /// Where estimates are right and nothing else takes memory, no device ever has to give more than it has.
    pub(super) fn check_memory(&self) -> Check {
        let troubles = self.setting.troubles;
        if troubles.wrong_estimates || troubles.other_programs || troubles.crashes {
            return Ok(());
        }
        for (device, others) in
            self.setting.devices.iter().zip(&self.others).filter(|(device, _)| device.is_known)
        {
            let workers: i128 =
                self.processes.iter().map(|process| i128::from(on(&process.truth, device.device))).sum();
            let leases = self.leases.iter().filter(|state| state.lease.device == device.device);
            let leased: i128 = leases.map(|state| i128::from(state.taken)).sum();
            let needed = workers + leased + i128::from(*others);
            // Leases that have ended may be held for longer than was agreed.
            ensure(needed <= i128::from(device.capacity - device.reserve) || workers == 0, || {
                format!("{needed} are needed on {} of {}", device.device, device.capacity)
            })?;
        }
        Ok(())
    }
}

impl Process {
    /// It takes its memory bit by bit while it loads.
    fn holds(&self, now: Duration) -> Amounts {
        let part = match self.stage {
            Stage::Loading => ((now - self.started).as_millis(), self.load_time.as_millis().max(1)),
            _ => (1, 1),
        };
        let so_far =
            |bytes: u64| u64::try_from(u128::from(bytes) * part.0.min(part.1) / part.1).unwrap_or(bytes);
        self.truth.iter().map(|(device, bytes)| (*device, so_far(*bytes))).collect()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::Hung)
    }

    fn seen(&self, world: &World) -> Resident {
        Resident {
            key: self.key,
            model: world.setting.models[self.model].name.clone(),
            holds: self.holds(world.now),
            expected: self.expected.clone(),
            phase: match self.stage {
                Stage::Loading => Phase::Loading(self.load),
                Stage::Ready => Phase::Ready,
                Stage::Hung => Phase::Unresponsive,
                Stage::Stopping | Stage::Ended => Phase::Stopping,
            },
            draining: self.draining,
            in_flight: self.answering.len(),
            ready_at: self.ready_at,
            last_used: self.last_used,
            load_time: self.load_time,
            keep: self.keep,
            outdated: self.outdated,
        }
    }
}

impl LeaseState {
    fn seen(&self) -> Lease {
        let mut lease = self.lease.clone();
        if let LeasePhase::Held { untaken, .. } = &mut lease.phase {
            *untaken = self.lease.bytes - self.taken;
        }
        lease
    }
}

pub(super) fn on(amounts: &Amounts, device: Device) -> u64 {
    amounts.iter().filter(|(known, _)| *known == device).map(|(_, bytes)| bytes).sum()
}
