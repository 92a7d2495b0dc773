//! Runs a world to its end, and checks everything on the way.

use std::time::Duration;

use super::checks::{Check, check, ensure};
use super::setting::Happening;
use super::world::{Counts, Event, LeaseState, Process, Request, Stage, World};
use crate::residency::decide::decide;
use crate::residency::snapshot::{
    Action, Amounts, Beneficiary, Drain, Keep, Lease, LeasePhase, Load, LoadKey, LoadPhase, LoadReason,
    Origin, Refusal, StopReason, Waiting, WorkerKey,
};
use crate::residency::testing::{action as words, told};

/// More than any run needs.
const MOST_STEPS: usize = 20_000;

impl World {
    /// Lets everything happen until nothing is left to happen.
    pub(super) fn run(&mut self) -> Result<Counts, String> {
        let allowed = self.allowed_wait();
        let mut wake = None;
        for _ in 0..MOST_STEPS {
            let next = self.events.keys().next().map(|(at, _)| *at);
            let Some(at) = next.into_iter().chain(wake).min() else {
                return self.at_the_end().map(|()| std::mem::take(&mut self.counts));
            };
            self.now = self.now.max(at);
            while let Some(first) = self.events.first_entry().filter(|first| first.key().0 <= self.now) {
                let event = first.remove();
                self.tell(|_| format!("  {event:?}"));
                self.happen(event);
            }
            self.check_memory()?;
            self.end_what_has_no_memory();
            wake = self.decide()?;
            self.check_waits(allowed)?;
        }
        Err("it does not end".into())
    }

    /// Decides and acts until nothing is left to do at once. Returns when to decide again.
    fn decide(&mut self) -> Result<Option<Duration>, String> {
        for _ in 0..100 {
            self.dispatch();
            let snapshot = self.snapshot();
            let decision = decide(&snapshot);
            self.counts.decisions += 1;
            self.tell(|_| format!("=> {}", told(&decision).join("; ")));
            if let Err(why) = check(&snapshot, &decision) {
                self.tell(|_| format!("{snapshot:?}"));
                return Err(why);
            }
            let mut has_changed = false;
            for action in decision.actions {
                *self.counts.actions.entry(kind(&action)).or_default() += 1;
                let concerns_workers = matches!(
                    action,
                    Action::Drain { .. } | Action::Stop { .. } | Action::Reopen { .. } | Action::Load { .. }
                );
                if self.setting.troubles.late && concerns_workers && self.chance.percent(50) {
                    self.last_action = self.last_action.max(self.now + self.chance.ms(0..300));
                    self.at(self.last_action, Event::Act(action));
                } else if concerns_workers && self.last_action > self.now {
                    self.at(self.last_action, Event::Act(action));
                } else {
                    has_changed |= self.act(action);
                }
            }
            if !has_changed {
                return Ok(decision.wake_at);
            }
        }
        Err("it decides without an end".into())
    }

    /// Gives waiting requests to workers with free slots.
    fn dispatch(&mut self) {
        for index in 0..self.processes.len() {
            let process = &self.processes[index];
            let (model, slots) = (process.model, self.setting.models[process.model].slots);
            while self.processes[index].stage == Stage::Ready
                && self.processes[index].draining.is_none()
                && self.processes[index].answering.len() < slots
                && let Some(request) = self.queues[model].waiting.pop_front()
            {
                self.queues[model].served = self.now;
                let worker = self.processes[index].key;
                self.processes[index].answering.push(request);
                self.after(request.takes, Event::AnswerEnds { worker, request: request.key });
            }
        }
    }

    fn happen(&mut self, event: Event) {
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

    fn submit(&mut self, model: usize, by: Origin) {
        let key = self.key();
        let name = self.setting.models[model].name.clone();
        self.loads.push(Load { key, model: name, by, since: self.now, phase: LoadPhase::Submitted });
        let pause = self.chance.ms(0..100);
        self.after(pause, Event::Asks { load: key });
    }

    fn ask(&mut self, key: LoadKey) {
        let now = self.now;
        let Some(load) = self.loads.iter_mut().find(|load| load.key == key) else { return };
        let model = model_of(&load.model);
        let outdated = self.processes.iter().find(|p| p.model == model && p.is_up() && p.outdated);
        let replaces = outdated.filter(|_| load.by == Origin::Settings).map(|process| process.key);
        let placements = self.setting.models[model].placements.clone();
        load.phase = LoadPhase::Asking { since: now, placements, replaces };
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
    fn fail_load_of(&mut self, worker: WorkerKey) {
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
    fn fail(&mut self, key: LoadKey) {
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

    fn stop(&mut self, worker: WorkerKey) {
        self.process(worker).expect("it was found").stage = Stage::Stopping;
        let takes = self.chance.ms(0..3000);
        self.after(takes, Event::Exited { worker });
    }

    /// The process has ended; its memory is free a moment later.
    fn end(&mut self, worker: WorkerKey) {
        let lag = self.chance.ms(0..1000);
        if let Some(process) = self.process(worker).filter(|process| process.stage != Stage::Ended) {
            process.stage = Stage::Ended;
            process.answering.clear();
            self.after(lag, Event::Released { worker });
        }
    }

    /// A program that asks for memory that is not there ends.
    fn end_what_has_no_memory(&mut self) {
        for index in 0..self.others.len() {
            let device = &self.setting.devices[index];
            if self.held_on(device.device) + i128::from(self.others[index]) <= i128::from(device.capacity) {
                continue;
            }
            let name = device.device;
            let takes = |p: &&Process| p.stage == Stage::Loading && super::world::on(&p.truth, name) > 0;
            if let Some(worker) = self.processes.iter().rfind(takes).map(|process| process.key) {
                self.fail_load_of(worker);
                self.end(worker);
            }
        }
    }

    /// Carries an action out. Whether something has changed.
    fn act(&mut self, action: Action) -> bool {
        self.tell(|_| format!("   {}", words(&action)));
        match action {
            Action::Load { model, because } => {
                let is_new = !self.loads.iter().any(|load| load.model == model);
                if is_new {
                    let by = match because {
                        LoadReason::Requests(_) => Origin::Requests,
                        LoadReason::SettingsChanged => Origin::Settings,
                    };
                    self.submit(model_of(&model), by);
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

    fn any_process(&mut self, is_meant: impl Fn(&Process) -> bool) -> Option<WorkerKey> {
        let meant: Vec<_> =
            self.processes.iter().filter(|process| is_meant(process)).map(|p| p.key).collect();
        (!meant.is_empty()).then(|| self.chance.pick(&meant))
    }

    /// How long the requests of a model may wait without any of them being served: as long as every other model, and
    /// everything that people and other programs want, takes if it comes first.
    fn allowed_wait(&self) -> Duration {
        let (mut answer, mut happenings) = (Duration::ZERO, 0);
        for event in self.events.values() {
            match event {
                Event::Happens(Happening::Request { takes, .. }) => answer = answer.max(*takes),
                _ => happenings += 1,
            }
        }
        let rules = &self.setting.rules;
        let load = self.setting.models.iter().map(|model| model.load_time).max().unwrap_or_default();
        // A worker stays for a while, finishes its answers, ends and gives its memory back; then the next one loads.
        let turn = rules.min_stay + answer.min(rules.drain_limit) + Duration::from_secs(5) + load;
        let turns = u32::try_from(self.setting.models.len() + 2 * happenings).unwrap_or(u32::MAX);
        // A load that was refused or has failed is tried again after a while.
        turn * turns + answer + Duration::from_secs(8)
    }

    fn check_waits(&mut self, allowed: Duration) -> Check {
        for (queue, model) in self.queues.iter().zip(&self.setting.models) {
            if let Some(first) = queue.waiting.front() {
                let waited = self.now - first.since.max(queue.served);
                let part = waited.as_millis() * 1000 / allowed.as_millis();
                self.counts.longest_wait = self.counts.longest_wait.max(part);
                ensure(waited <= allowed, || format!("requests for '{}' starve: {waited:?}", model.name))?;
            }
        }
        Ok(())
    }

    fn at_the_end(&self) -> Check {
        for (queue, model) in self.queues.iter().zip(&self.setting.models) {
            ensure(queue.waiting.is_empty(), || format!("requests for '{}' wait for ever", model.name))?;
        }
        if let Some(load) = self.loads.first() {
            return Err(format!("load {} of '{}' waits for ever: {:?}", load.key, load.model, load.phase));
        }
        ensure(self.leases.is_empty(), || "a lease does not end".into())?;
        for process in &self.processes {
            ensure(process.draining.is_none(), || format!("worker {} stays drained", process.key))?;
            ensure(!matches!(process.keep, Keep::For(_)), || format!("worker {} stays idle", process.key))?;
            ensure(!process.outdated, || format!("worker {} stays outdated", process.key))?;
        }
        let Counts { requests, answered, refused, gave_up, .. } = &self.counts;
        ensure(self.setting.troubles.cut_answers() || *requests == answered + refused + gave_up, || {
            format!("of {requests} requests {answered} were answered, {refused} refused, {gave_up} given up")
        })
    }
}

fn kind(action: &Action) -> &'static str {
    match action {
        Action::Load { because: LoadReason::SettingsChanged, .. } => "reload",
        Action::Load { .. } => "load",
        Action::Grant { .. } => "grant",
        Action::Refuse { why: Refusal::DoesNotFit { .. }, .. } => "refuse what does not fit",
        Action::Refuse { .. } => "refuse what would wait for too long",
        Action::Cancel { .. } => "cancel",
        Action::Wait { why: Waiting::Stay { .. }, .. } => "wait until a worker had its time",
        Action::Wait { why: Waiting::Load(_), .. } => "wait for a load",
        Action::Wait { why: Waiting::Lease(_), .. } => "wait for a lease",
        Action::Wait { why: Waiting::Memory { .. }, .. } => "wait for memory",
        Action::Wait { .. } => "wait for workers",
        Action::WaitLease { .. } => "let a lease wait",
        Action::Drain { by: Beneficiary::Load(_), .. } => "drain for a load",
        Action::Drain { by: Beneficiary::Lease(_), .. } => "drain for a lease",
        Action::Drain { .. } => "drain an idle worker",
        Action::Stop { because: StopReason::Replaced, .. } => "replace",
        Action::Stop { .. } => "stop",
        Action::Reopen { .. } => "reopen",
        Action::GrantLease { .. } => "grant a lease",
        Action::RefuseLease { .. } => "refuse a lease",
        Action::EndLease { .. } => "end a lease",
    }
}

/// Models are named a, b, c.
fn model_of(name: &str) -> usize {
    usize::from(name.as_bytes()[0] - b'a')
}
