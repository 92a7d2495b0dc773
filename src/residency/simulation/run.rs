//! Runs a world to its end, and checks everything on the way.

use std::time::Duration;

use super::checks::{Check, check, ensure};
use super::setting::Happening;
use super::world::{Counts, Event, Process, Stage, World, on};
use crate::residency::decide::decide;
use crate::residency::snapshot::{Action, Beneficiary, Keep, LoadReason, Refusal, StopReason, Waiting};
use crate::residency::testing::told;

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

    /// A program that asks for memory that is not there ends.
    fn end_what_has_no_memory(&mut self) {
        for index in 0..self.others.len() {
            let device = &self.setting.devices[index];
            if self.held_on(device.device) + i128::from(self.others[index]) <= i128::from(device.capacity) {
                continue;
            }
            let name = device.device;
            let takes = |p: &&Process| p.stage == Stage::Loading && on(&p.truth, name) > 0;
            if let Some(worker) = self.processes.iter().rfind(takes).map(|process| process.key) {
                self.fail_load_of(worker);
                self.end(worker);
            }
        }
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
