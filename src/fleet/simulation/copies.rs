//! Models that are kept on several hives: hives that are on duty in turn or believe so at once, copies that fail, disks
//! that are full, and hives that die, fall silent, do not hear each other, and come back.
//!
//! What has to hold:
//! - a hive begins no more copies than asked for: where it begins one, fewer of the hives that it knows of have the model or
//!   copy it, but for what another hive begins in the same moment;
//! - while one that it knows of is silent, it begins none;
//! - it begins a copy on a hive again only after a wait that doubles;
//! - once the faults have ended, as many hives have the model as are to have it and can.
//!
//! Nothing is ever deleted: there is nothing by which that could be asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::yield_now;

use super::{each_seed, hive, lost};
use crate::error::{Code, Failure, Result};
use crate::fleet::holdings::{Holdings, ModelRecord};
use crate::fleet::members::{Happened, Members};
use crate::fleet::names::HiveName;
use crate::fleet::places::{Hives, Places};
use crate::fleet::placing::{FIRST_WAIT, Known, LONGEST_WAIT, MARGIN, Place, is_due, known};
use crate::fleet::record::HiveRecord;
use crate::fleet::wire::HasModel;
use crate::jobs::JobId;

/// How many seeds one round runs.
const SEEDS: u64 = 150;
const HIVES: [&str; 5] = ["a", "b", "c", "d", "e"];
const MODEL: &str = "m";
const SIZE: u64 = 1 << 30;
const HEARTBEAT: Duration = Duration::from_secs(30);
const GONE: Duration = Duration::from_secs(180);
/// After how many missed signs of life a hive is silent.
const MISSED: u32 = 3;
/// Every how many heartbeats the places are looked at.
const LOOK: u32 = 2;
/// How long a copy takes at most, in heartbeats.
const COPY: u32 = 8;

struct Machine {
    is_up: bool,
    is_cut: bool,
    has: bool,
    is_full: bool,
    copying: Option<Copying>,
    /// What it knows of the others.
    members: Members,
    holdings: Holdings,
    places: Arc<Places>,
    /// When it heard whom, by its own account.
    heard: BTreeMap<HiveName, u32>,
    /// What is under way to it.
    coming: Vec<(u32, HiveName, Message)>,
    /// When it began copies where, since it saw as many as there are to be.
    begun: BTreeMap<HiveName, Vec<u32>>,
}

#[derive(Clone)]
struct Copying {
    job: JobId,
    ends: u32,
    fails: bool,
    /// Who began it, and when.
    by: HiveName,
    at: u32,
}

#[derive(Clone)]
enum Message {
    Alive(Box<HiveRecord>),
    HasIt,
}

#[derive(Clone)]
struct Fleet(Arc<Mutex<State>>);

struct State {
    chance: StdRng,
    start: Instant,
    /// In heartbeats.
    now: u32,
    faults: u32,
    copies: usize,
    machines: BTreeMap<HiveName, Machine>,
    /// Who does not hear whom.
    deaf: Vec<(HiveName, HiveName)>,
    wrong: Option<String>,
}

fn record() -> ModelRecord {
    serde_json::from_value(serde_json::json!({
        "id": MODEL, "name": MODEL, "size_bytes": SIZE, "path": "/m.gguf", "source": "file", "format": "gguf",
        "status": "available", "added_at": "1970-01-02T00:00:00.000Z", "loaded": false,
    }))
    .unwrap()
}

impl Machine {
    fn new(now: Instant) -> Self {
        let mut members = Members::new(HEARTBEAT, GONE);
        members.listens(Some(now));
        Self {
            is_up: true,
            is_cut: false,
            has: false,
            is_full: false,
            copying: None,
            members,
            holdings: Holdings::default(),
            places: Arc::default(),
            heard: BTreeMap::new(),
            coming: Vec::new(),
            begun: BTreeMap::new(),
        }
    }

    fn is_there(&self) -> bool {
        self.is_up && !self.is_cut
    }
}

impl State {
    fn new(seed: u64) -> Self {
        let (mut chance, start) = (StdRng::seed_from_u64(seed), Instant::now());
        let mut machines = BTreeMap::new();
        for name in HIVES {
            machines.insert(hive(name), Machine::new(start));
        }
        let copies = chance.random_range(1..=4);
        let mut state =
            Self { chance, start, now: 0, faults: 10, copies, machines, deaf: Vec::new(), wrong: None };
        let first = state.any();
        state.machine(&first).has = true;
        state.tells(&first, &Message::HasIt);
        state
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.chance.random_range(0..100) < percent
    }

    fn any(&mut self) -> HiveName {
        hive(HIVES[self.chance.random_range(0..HIVES.len())])
    }

    fn machine(&mut self, hive: &HiveName) -> &mut Machine {
        self.machines.get_mut(hive).expect("a hive")
    }

    fn instant(&self) -> Instant {
        self.start + HEARTBEAT * self.now
    }

    /// Whether one hive can ask another one.
    fn reaches(&self, from: &HiveName, to: &HiveName) -> bool {
        let is_deaf = self.deaf.iter().any(|(who, whom)| who == from && whom == to);
        !is_deaf && self.machines[from].is_there() && self.machines[to].is_there()
    }

    /// A hive tells all others something, which arrives at each after a while.
    fn tells(&mut self, hive: &HiveName, message: &Message) {
        let (now, faults) = (self.now, self.faults);
        for other in HIVES.map(super::hive) {
            let late = if faults > 0 { self.chance.random_range(0..2) } else { 0 };
            self.machine(&other).coming.push((now + late, hive.clone(), message.clone()));
        }
    }

    /// A hive comes up or back: it hears the others from now on, and tells what it has.
    fn comes(&mut self, comes: &HiveName) {
        let (now, instant) = (self.now, self.instant());
        let machine = self.machine(comes);
        machine.members.listens(Some(instant));
        machine.heard.values_mut().for_each(|heard| *heard = now);
        if machine.has {
            self.tells(comes, &Message::HasIt);
        }
    }

    fn goes(&mut self, goes: &HiveName) {
        let machine = self.machine(goes);
        (machine.is_up, machine.copying) = (false, None);
        // What it knows is gone with it, but for what it reads again.
        let Machine { has, is_full, .. } = *machine;
        let holdings = std::mem::take(&mut machine.holdings);
        let instant = self.instant();
        let gone = Machine { is_up: false, has, is_full, holdings, ..Machine::new(instant) };
        self.machines.insert(goes.clone(), gone);
    }

    /// One heartbeat passes.
    fn tick(&mut self) {
        self.now += 1;
        let (now, instant) = (self.now, self.instant());
        for name in HIVES.map(hive) {
            let machine = self.machine(&name);
            if let Some(copying) = machine.copying.take_if(|copying| copying.ends <= now)
                && !copying.fails
                && !machine.is_full
            {
                machine.has = true;
                self.tells(&name, &Message::HasIt);
            }
            let machine = &self.machines[&name];
            if machine.is_there() {
                let free = if machine.is_full { MARGIN } else { SIZE + MARGIN };
                let record = HiveRecord {
                    hive: name.to_string(),
                    disk_free_bytes: Some(free),
                    ..HiveRecord::default()
                };
                self.tells(&name, &Message::Alive(Box::new(record)));
            }
        }
        for name in HIVES.map(hive) {
            let (due, later) = std::mem::take(&mut self.machine(&name).coming)
                .into_iter()
                .partition(|(due, ..)| *due <= now);
            self.machine(&name).coming = later;
            let due: Vec<_> = due;
            for (_, from, message) in due {
                // The bucket of models has its entry also when it is back.
                let is_heard = self.machines[&name].is_there() && self.reaches(&name, &from);
                let machine = self.machine(&name);
                match message {
                    Message::HasIt => machine.holdings.model(&from, "1", Some(record())),
                    Message::Alive(record) if is_heard => {
                        machine.members.hear(&from, *record, instant);
                        machine.heard.insert(from, now);
                    }
                    Message::Alive(_) => {}
                }
            }
            let machine = self.machine(&name);
            for change in machine.members.tick() {
                if change.change == Happened::Gone {
                    machine.holdings.model(&hive(&change.hive.record.hive), "1", None);
                }
            }
        }
    }

    /// Something goes wrong, or is well again.
    fn disturb(&mut self) {
        let (one, other) = (self.any(), self.any());
        match self.chance.random_range(0..100) {
            0..4 if self.machines[&one].is_up => self.goes(&one),
            0..12 if !self.machines[&one].is_up => {
                self.machine(&one).is_up = true;
                self.comes(&one);
            }
            12..16 if !self.machines[&one].is_cut => {
                let machine = self.machine(&one);
                machine.is_cut = true;
                machine.members.listens(None);
            }
            12..26 if self.machines[&one].is_cut => self.mend(&one),
            26..31 if one != other => self.deaf.push((one, other)),
            31..40 => drop(self.deaf.pop()),
            40..43 => self.machine(&one).is_full = true,
            43..46 => self.machine(&one).is_full = false,
            _ => {}
        }
    }

    fn mend(&mut self, hive: &HiveName) {
        self.machine(hive).is_cut = false;
        if self.machines[hive].is_up {
            self.comes(hive);
        }
    }

    /// All is well from now on, but that full disks stay full.
    fn heal(&mut self) {
        self.faults = 0;
        self.deaf.clear();
        for name in HIVES.map(hive) {
            let was_up = std::mem::replace(&mut self.machine(&name).is_up, true);
            if self.machines[&name].is_cut || !was_up {
                self.mend(&name);
            }
        }
    }

    /// A hive begins a copy: may it?
    fn check(&mut self, own: &HiveName, to: &HiveName) -> Result<(), String> {
        let (now, copies) = (self.now, self.copies);
        let on_duty = &self.machines[own];
        let silent = |heard: u32| now - heard >= MISSED && (now - heard) * HEARTBEAT < GONE;
        if let Some((other, heard)) = on_duty.heard.iter().find(|(_, heard)| silent(**heard)) {
            return Err(format!("'{own}' begins a copy and has not heard '{other}' for {}", now - heard));
        }
        let known = on_duty.heard.iter().filter(|(_, heard)| (now - **heard) * HEARTBEAT < GONE);
        let there = known.filter(|(hive, _)| {
            let Machine { has, copying, .. } = &self.machines[*hive];
            let copies = copying.as_ref().is_some_and(|copying| copying.by == *own || copying.at < now);
            *has || copies
        });
        let there = there.count();
        if there >= copies {
            return Err(format!("'{own}' begins a copy on '{to}', and {there} of {copies} are there"));
        }
        let times = self.machine(own).begun.entry(to.clone()).or_default();
        if let Some(last) = times.last() {
            let wait = (FIRST_WAIT * (1 << (times.len() - 1).min(20))).min(LONGEST_WAIT);
            if (now - last) * HEARTBEAT < wait {
                return Err(format!("'{own}' begins a copy on '{to}' at {now}, after {times:?}"));
            }
        }
        times.push(now);
        Ok(())
    }
}

impl Fleet {
    async fn delay(&self, most: u32) {
        let turns = self.0.lock().chance.random_range(0..=most);
        for _ in 0..turns {
            yield_now().await;
        }
    }

    /// The hives that are due look after the place.
    async fn look(&self, place: &Place) -> Result<(), String> {
        let due: Vec<_> = {
            let state = self.0.lock();
            let instant = state.instant();
            let looks = state.machines.iter().enumerate().filter(|(offset, (hive, machine))| {
                (state.now + *offset as u32).is_multiple_of(LOOK)
                    && machine.is_there()
                    && is_due(&machine.members, hive, instant)
            });
            looks.map(|(_, (hive, machine))| (hive.clone(), Arc::clone(&machine.places))).collect()
        };
        let instant = self.0.lock().instant();
        let looks = due.into_iter().map(async |(own, places)| {
            let view = View { fleet: self.clone(), own };
            let placement = places.see_to(&view, place, instant).await;
            if placement.hives.len() >= place.copies {
                self.0.lock().machine(&view.own).begun.clear();
            }
        });
        futures::future::join_all(looks).await;
        self.0.lock().wrong.clone().map_or(Ok(()), Err)
    }
}

/// The hives, as one of them sees them.
struct View {
    fleet: Fleet,
    own: HiveName,
}

impl Hives for View {
    fn known(&self, model: &str) -> Vec<Known> {
        let state = self.fleet.0.lock();
        let machine = &state.machines[&self.own];
        known(&machine.members, &machine.holdings, model)
    }

    async fn has(&self, hive: &HiveName, _: &str) -> Result<HasModel> {
        self.fleet.delay(3).await;
        let has = {
            let mut state = self.fleet.0.lock();
            let faults = state.faults;
            if !state.reaches(&self.own, hive) || state.percent(faults) {
                return Err(lost());
            }
            let machine = &state.machines[hive];
            let copying = machine.copying.as_ref().map(|copying| copying.job.clone());
            HasModel { is_here: machine.has, size_bytes: SIZE, copying }
        };
        self.fleet.delay(3).await;
        Ok(has)
    }

    async fn copy(&self, _: &str, from: &HiveName, to: &HiveName) -> Result<JobId> {
        let mut state = self.fleet.0.lock();
        if let Err(why) = state.check(&self.own, to) {
            state.wrong.get_or_insert(why);
        }
        let (faults, now) = (state.faults, state.now);
        let silent = || Failure::new(Code::HiveUnreachable, "as the test wants it");
        if !state.reaches(&self.own, to) || state.percent(faults) {
            return Err(silent());
        }
        if state.percent(faults) {
            return Err(Failure::new(Code::TooManyRequests, "as the test wants it"));
        }
        let ends = now + state.chance.random_range(1..=COPY);
        let fails = !state.machines[from].has || (faults > 0 && state.percent(60));
        let (by, job) = (self.own.clone(), JobId::new());
        let copying = Copying { job: job.clone(), ends, fails, by, at: now };
        state.machine(to).copying.get_or_insert(copying);
        if state.percent(faults) { Err(silent()) } else { Ok(job) }
    }
}

async fn schedule(seed: u64) -> Result<(), String> {
    let fleet = Fleet(Arc::new(Mutex::new(State::new(seed))));
    let place = Place { model: MODEL.to_owned(), copies: fleet.0.lock().copies };
    let faults = 60 + fleet.0.lock().chance.random_range(0..100);
    // As long as the longest wait, and until everybody has judged everybody.
    let well = (LONGEST_WAIT + 2 * GONE).div_duration_f64(HEARTBEAT).ceil() as u32 + 2 * COPY;
    for turn in 0..faults + well {
        {
            let mut state = fleet.0.lock();
            if turn == faults {
                state.heal();
            } else if turn < faults {
                state.disturb();
            }
            state.tick();
        }
        fleet.look(&place).await?;
    }
    let state = fleet.0.lock();
    let have = state.machines.values().filter(|machine| machine.has).count();
    let able = state.machines.values().filter(|machine| machine.has || !machine.is_full).count();
    if have < state.copies.min(able) {
        let copies = state.copies;
        return Err(format!("{have} hives have the model in the end, of {able} that can, for {copies}"));
    }
    Ok(())
}

#[test]
fn a_model_is_on_as_many_hives_as_it_is_to_be_in_the_end() {
    each_seed(SEEDS, schedule);
}
