//! What happens in the world by itself.

use std::time::Duration;

use super::setting::Happening;
use super::world::{Event, LeaseState, Process, Request, Stage, World};
use crate::residency::snapshot::{
    Amounts, Keep, Lease, LeasePhase, Load, LoadKey, LoadPhase, Origin, WorkerKey,
};

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Happens(happening) => self.begin(happening),
            Event::GivesUp { model, request } => {
                let before = self.queues[model].waiting.len();
                self.queues[model].waiting.retain(|waiting| waiting.key != request);
                self.counts.gave_up += before - self.queues[model].waiting.len();
            }
            Event::AnswerEnds { worker, request } => self.end_answer(worker, request),
            Event::Asks { load } => self.ask(load),
            Event::Starts { load } => self.start(load),
            Event::Loaded { worker } => self.loaded(worker),
            Event::Exited { worker } => self.end(worker),
            Event::Released { worker } => self.processes.retain(|process| process.key != worker),
            Event::Restarts { model, needs } => {
                self.spawn(model, needs, None, Keep::UntilNeeded);
            }
            Event::Recovers { worker } => {
                let is_well = self.chance.percent(50);
                match self.process(worker).filter(|process| process.stage == Stage::Hung) {
                    Some(process) if is_well => process.stage = Stage::Ready,
                    Some(_) => self.crash(worker),
                    None => {}
                }
            }
            Event::LeaseTakes { lease } => {
                let part = self.chance.number(0..101);
                if let Some(state) = self.leases.iter_mut().find(|state| state.lease.key == lease) {
                    state.taken = state.lease.bytes / 100 * part;
                }
            }
            Event::LeaseLeaves { device, bytes } => {
                let index = self.setting.devices.iter().position(|known| known.device == device);
                if let Some(others) = index.and_then(|index| self.others.get_mut(index)) {
                    *others = others.saturating_sub(bytes);
                }
            }
            Event::Act(action) => {
                self.act(action);
            }
        }
    }

    fn begin(&mut self, happening: Happening) {
        match happening {
            Happening::Request { model, takes, patience, again_until } => {
                self.request(model, takes, patience, again_until);
            }
            Happening::Crash => {
                if let Some(worker) = self.any_process(|process| process.stage < Stage::Stopping) {
                    self.crash(worker);
                }
            }
            Happening::Hang { takes } => {
                if let Some(worker) = self.any_process(|process| process.stage == Stage::Ready) {
                    self.process(worker).expect("it was found").stage = Stage::Hung;
                    self.after(takes, Event::Recovers { worker });
                }
            }
            Happening::OthersHold { device, bytes } => self.others[device] = bytes,
            Happening::PersonLoads { model, another } => {
                let is_served = self.processes.iter().any(|p| p.model == model && p.is_up());
                if another || !is_served {
                    self.submit(model, Origin::Person);
                }
            }
            Happening::PersonUnloads => {
                if let Some(worker) = self.any_process(|process| process.stage < Stage::Stopping) {
                    self.fail_load_of(worker);
                    self.stop(worker);
                }
            }
            Happening::SettingsChange { model } => {
                for process in
                    self.processes.iter_mut().filter(|process| process.model == model && process.is_up())
                {
                    process.outdated = true;
                }
            }
            Happening::Lease { device, bytes, takes } => {
                let (key, device) = (self.key(), self.setting.devices[device].device);
                let lease = Lease { key, device, bytes, since: self.now, phase: LeasePhase::Asking };
                self.leases.push(LeaseState { lease, takes, taken: 0, evicted: Vec::new() });
            }
        }
    }

    fn request(&mut self, model: usize, takes: Duration, patience: Option<Duration>, again_until: Duration) {
        let key = self.key();
        self.counts.requests += 1;
        self.queues[model].waiting.push_back(Request { key, since: self.now, takes, again_until });
        if let Some(patience) = patience {
            self.after(patience, Event::GivesUp { model, request: key });
        }
    }

    fn end_answer(&mut self, worker: WorkerKey, request: u64) {
        let now = self.now;
        let Some(process) = self.process(worker) else { return };
        let model = process.model;
        let Some(index) = process.answering.iter().position(|answering| answering.key == request) else {
            return;
        };
        let request = process.answering.remove(index);
        process.last_used = now;
        self.counts.answered += 1;
        if request.again_until > now {
            self.request(model, request.takes, None, request.again_until);
        }
    }

    pub(super) fn submit(&mut self, model: usize, by: Origin) {
        let key = self.key();
        let name = self.setting.models[model].name.clone();
        self.loads.push(Load { key, model: name, by, since: self.now, phase: LoadPhase::Submitted });
        let pause = self.chance.ms(0..100);
        self.after(pause, Event::Asks { load: key });
    }

    fn ask(&mut self, key: LoadKey) {
        let Some(load) = self.loads.iter_mut().find(|load| load.key == key) else { return };
        let model = model_of(&load.model);
        let outdated = self.processes.iter().find(|p| p.model == model && p.is_up() && p.outdated);
        let replaces = outdated.filter(|_| load.by == Origin::Settings).map(|process| process.key);
        let placements = self.setting.models[model].placements.clone();
        load.phase = LoadPhase::Asking { placements, replaces };
    }

    fn start(&mut self, key: LoadKey) {
        let Some(load) = self.loads.iter().find(|load| load.key == key) else { return };
        let LoadPhase::Granted { needs } = &load.phase else { return };
        let (model, needs, by) = (model_of(&load.model), needs.clone(), load.by);
        let keep = match by {
            Origin::Requests => self.setting.models[model].keep,
            _ => Keep::UntilNeeded,
        };
        self.spawn(model, needs, Some(key), keep);
    }

    fn spawn(&mut self, model: usize, needs: Amounts, load: Option<LoadKey>, keep: Keep) {
        let key = u32::try_from(self.key()).expect("few keys");
        let load_time = self.setting.models[model].load_time + self.chance.ms(0..100);
        let part = self.setting.models[model].truth;
        let truth = needs.iter().map(|(device, bytes)| (*device, bytes / 100 * part)).collect();
        let (started, expected) = (self.now, needs);
        self.processes.push(Process {
            key,
            model,
            expected,
            truth,
            stage: Stage::Loading,
            load,
            started,
            load_time,
            ready_at: Duration::ZERO,
            last_used: Duration::ZERO,
            draining: None,
            answering: Vec::new(),
            keep,
            outdated: false,
        });
        self.counts.loads += 1;
        self.after(load_time, Event::Loaded { worker: key });
    }

    fn loaded(&mut self, worker: WorkerKey) {
        let now = self.now;
        let Some(process) = self.process(worker).filter(|process| process.stage == Stage::Loading) else {
            return;
        };
        let (model, load) = (process.model, process.load);
        let fails = self.setting.models[model].fails;
        if self.chance.percent(fails) {
            self.fail_load_of(worker);
            return self.end(worker);
        }
        let process = self.process(worker).expect("it loads");
        (process.stage, process.ready_at, process.last_used) = (Stage::Ready, now, now);
        self.loads.retain(|known| Some(known.key) != load);
        (self.queues[model].failures, self.queues[model].not_before) = (0, None);
    }

    /// The load of the worker fails, if it is still loading.
    pub(super) fn fail_load_of(&mut self, worker: WorkerKey) {
        let Some(process) = self.process(worker).filter(|process| process.stage == Stage::Loading) else {
            return;
        };
        let model = process.model;
        match process.load {
            Some(load) => self.fail(load),
            None => self.refuse_waiters(model),
        }
    }

    /// The load has failed. Those who wait for its model are told.
    pub(super) fn fail(&mut self, key: LoadKey) {
        let Some(index) = self.loads.iter().position(|load| load.key == key) else { return };
        let load = self.loads.remove(index);
        let model = model_of(&load.model);
        for process in self.processes.iter_mut().filter(|process| process.model == model) {
            process.outdated &= load.by != Origin::Settings;
        }
        self.refuse_waiters(model);
    }

    fn refuse_waiters(&mut self, model: usize) {
        if self.processes.iter().any(|process| process.model == model && process.is_up()) {
            return;
        }
        let queue = &mut self.queues[model];
        self.counts.refused += queue.waiting.len();
        queue.waiting.clear();
        queue.served = self.now;
        queue.not_before = Some(self.now + Duration::from_secs(1 << queue.failures.min(3)));
        queue.failures += 1;
    }

    fn crash(&mut self, worker: WorkerKey) {
        self.fail_load_of(worker);
        let Some(process) = self.process(worker) else { return };
        let (model, needs) = (process.model, process.expected.clone());
        let restarts = process.is_up() && process.draining.is_none();
        self.end(worker);
        if restarts {
            let pause = self.chance.ms(0..500);
            self.after(pause, Event::Restarts { model, needs });
        }
    }

    pub(super) fn stop(&mut self, worker: WorkerKey) {
        self.process(worker).expect("it was found").stage = Stage::Stopping;
        let takes = self.chance.ms(0..3000);
        self.after(takes, Event::Exited { worker });
    }

    /// The process has ended; its memory is free a moment later.
    pub(super) fn end(&mut self, worker: WorkerKey) {
        let lag = self.chance.ms(0..1000);
        if let Some(process) = self.process(worker).filter(|process| process.stage != Stage::Ended) {
            process.stage = Stage::Ended;
            process.answering.clear();
            self.after(lag, Event::Released { worker });
        }
    }

    fn any_process(&mut self, is_meant: impl Fn(&Process) -> bool) -> Option<WorkerKey> {
        let meant: Vec<_> =
            self.processes.iter().filter(|process| is_meant(process)).map(|p| p.key).collect();
        (!meant.is_empty()).then(|| self.chance.pick(&meant))
    }
}

/// Models are named a, b, c.
pub(super) fn model_of(name: &str) -> usize {
    usize::from(name.as_bytes()[0] - b'a')
}
