//! Who answers requests to a model that every hive may have: gateways whose views lag behind, bursts of requests, loads,
//! lost answers, and hives that die.
//!
//! What has to hold:
//! - while nobody dies and no answer is lost, a model that is ready or being loaded somewhere is loaded nowhere else by a
//!   request. One that was unloaded before the gateways heard of it is excepted: here, they hear of it first;
//! - every request goes to a hive that has the model, or is refused, and every one ends;
//! - the choice among ready hives with as many slots is fair but for what its gateway cannot know. It reckons a hive's
//!   requests as the larger of what that one told and what it has sent there itself. That is at most what is under way
//!   there and what has ended since it was told; and it lacks at most what was sent there since, and at most what others
//!   have sent there. So what is under way at the hive that is chosen is at most what is under way at any other one, what has
//!   ended there since, and the lesser of those two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::world::{Leading, Run, World};
use super::{each_seed, hive, lost};
use crate::error::{Code, Failure, Result};
use crate::fleet::agree::{Agreed, Asks, agree};
use crate::fleet::balance::{Balance, Sent};
use crate::fleet::choice::{Candidate, Choice, choose};
use crate::fleet::holdings::Served;
use crate::fleet::leads::{LEASE, Lead, take};
use crate::fleet::names::HiveName;
use crate::fleet::offer::Offer;
use crate::spawn;

/// How many seeds one round runs.
const SEEDS: u64 = 250;
const HIVES: [&str; 4] = ["a", "b", "c", "d"];
const MODEL: &str = "m";
const BYTES: u64 = 7;
/// How long what a hive tells may be under way, in seconds.
const LAG: u32 = 3;
/// The longest load: renewals of its lead count.
const LOAD: u32 = 45;
/// Until when every request has ended.
const PATIENCE: u64 = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Cold,
    Loading { until: u64 },
    Ready,
}

/// What a hive told, and the requests that it counted.
#[derive(Clone, Debug, Default)]
struct Told {
    served: Served,
    counted: BTreeSet<u64>,
}

struct Machine {
    run: Run,
    phase: Phase,
    has: bool,
    /// Whether requests load a model there.
    on_demand: bool,
    /// Whether it has room for the model.
    has_room: bool,
    under_way: BTreeSet<u64>,
    /// What its gateway has sent.
    balance: Balance,
    /// What its gateway has heard, and what is under way to it.
    heard: BTreeMap<HiveName, Told>,
    coming: VecDeque<(u64, HiveName, Told)>,
}

#[derive(Clone)]
struct Fleet {
    world: World,
    state: Arc<Mutex<State>>,
}

struct State {
    machines: BTreeMap<HiveName, Machine>,
    slots: usize,
    /// The requests under way: by which gateway, and at which hive.
    assigned: BTreeMap<u64, (HiveName, HiveName)>,
    /// Whether nobody dies and no answer is lost.
    is_calm: bool,
}

/// A request that goes to a hive, until this is dropped.
struct Assigned {
    fleet: Fleet,
    id: u64,
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let mut state = self.fleet.state.lock();
        state.assigned.remove(&self.id);
        for machine in state.machines.values_mut() {
            machine.under_way.remove(&self.id);
        }
    }
}

/// Where a request goes.
struct Going {
    to: HiveName,
    /// Held until the first byte.
    lead: Option<(Leading, DropGuard)>,
    _assigned: Assigned,
    _sent: Option<Sent>,
}

impl Machine {
    fn served(&self, slots: usize) -> Served {
        let is_ready = self.phase == Phase::Ready;
        Served {
            ready: usize::from(is_ready),
            loading: usize::from(matches!(self.phase, Phase::Loading { .. })),
            slots: if is_ready { slots } else { 0 },
            requests: self.under_way.len(),
        }
    }

    fn told(&self, slots: usize) -> Told {
        Told { served: self.served(slots), counted: self.under_way.clone() }
    }
}

impl State {
    /// The hives that a gateway may ask, this one last, with what it knows of each.
    fn candidates(&self, gateway: &HiveName, tried: &BTreeSet<HiveName>) -> Vec<(HiveName, Candidate)> {
        let at = &self.machines[gateway];
        let others = self.machines.iter().filter(|(hive, machine)| *hive != gateway && machine.has);
        let others = others.map(|(hive, machine)| {
            let served = at.heard.get(hive).cloned().unwrap_or_default().served;
            let (sent, loads) = (at.balance.sent(hive, MODEL), machine.on_demand);
            (hive.clone(), Candidate { served, sent, loads, ..Candidate::default() })
        });
        let served = at.served(self.slots);
        let own = Candidate { is_here: true, served, loads: at.on_demand, ..Candidate::default() };
        let own = at.has.then(|| (gateway.clone(), own));
        others.chain(own).filter(|(hive, _)| !tried.contains(hive)).collect()
    }

    /// How many requests are under way at a hive, those of other gateways than this one, those that this one was not told
    /// of, and those that have ended since it was told.
    fn truth(&self, gateway: &HiveName, hive: &HiveName) -> (usize, usize, usize, usize) {
        let counted = match &self.machines[gateway] {
            own if gateway == hive => own.under_way.clone(),
            at => at.heard.get(hive).cloned().unwrap_or_default().counted,
        };
        let here = || self.assigned.iter().filter(|(_, (_, at))| at == hive);
        let others = here().filter(|(_, (by, _))| by != gateway).count();
        let untold = here().filter(|(id, _)| !counted.contains(id)).count();
        let is_over = |id: &&u64| self.assigned.get(id).is_none_or(|(_, at)| at != hive);
        (here().count(), others, untold, counted.iter().filter(is_over).count())
    }

    /// Whether the choice of a ready hive is as fair as the gateway can know.
    fn check_fair(
        &self,
        gateway: &HiveName,
        chosen: usize,
        candidates: &[(HiveName, Candidate)],
    ) -> Result<(), String> {
        if candidates[chosen].1.served.ready == 0 {
            return Ok(());
        }
        let (there, others, untold, _) = self.truth(gateway, &candidates[chosen].0);
        for (hive, candidate) in candidates.iter().filter(|(_, candidate)| candidate.served.ready > 0) {
            let (under_way, _, _, ended) = self.truth(gateway, hive);
            let most = under_way + ended + others.min(untold);
            if there > most {
                return Err(format!(
                    "a request at '{gateway}' goes to '{}' with {there} under way, not to '{hive}' with {under_way} \
                     ({ended} ended, {others} of others, {untold} untold): {candidate:?}",
                    candidates[chosen].0
                ));
            }
        }
        Ok(())
    }

    /// A request arrives at a hive, which loads the model for it if it must. `false` where it cannot.
    fn arrives(&mut self, id: u64, hive: &HiveName, until: u64) -> Result<bool, String> {
        let is_elsewhere =
            self.machines.iter().any(|(other, machine)| other != hive && machine.phase != Phase::Cold);
        let is_calm = self.is_calm;
        let machine = self.machines.get_mut(hive).expect("a hive");
        if !machine.has {
            return Err(format!("a request goes to '{hive}', which does not have the model"));
        }
        if machine.phase == Phase::Cold {
            if !machine.has_room || !machine.on_demand {
                return Ok(false);
            }
            if is_calm && is_elsewhere {
                return Err(format!("'{hive}' loads the model, which another hive has or loads"));
            }
            machine.phase = Phase::Loading { until };
        }
        machine.under_way.insert(id);
        Ok(true)
    }
}

impl Fleet {
    fn new(seed: u64, is_calm: bool) -> Self {
        let world = World::new(seed, if is_calm { 0 } else { 10 });
        let mut machines = BTreeMap::new();
        for (place, name) in HIVES.into_iter().enumerate() {
            let machine = Machine {
                run: Run::new(hive(name)),
                phase: Phase::Cold,
                // One can always load it.
                has: place == 1 || world.percent(80),
                on_demand: place == 1 || world.percent(80),
                has_room: place == 1 || world.percent(80),
                under_way: BTreeSet::new(),
                balance: Balance::default(),
                heard: BTreeMap::new(),
                coming: VecDeque::new(),
            };
            machines.insert(hive(name), machine);
        }
        let slots = 1 + world.number(4) as usize;
        let state = State { machines, slots, assigned: BTreeMap::new(), is_calm };
        Self { world, state: Arc::new(Mutex::new(state)) }
    }

    /// One second: loads end, and what hives tell arrives.
    async fn tick(&self, tells: u32) -> Result<(), String> {
        {
            let (mut state, now) = (self.state.lock(), self.world.now());
            let slots = state.slots;
            for machine in state.machines.values_mut() {
                if matches!(machine.phase, Phase::Loading { until } if until <= now) {
                    machine.phase = Phase::Ready;
                }
            }
            let told: Vec<_> =
                state.machines.iter().map(|(hive, machine)| (hive.clone(), machine.told(slots))).collect();
            for (hive, told) in told.into_iter().filter(|_| self.world.percent(tells)) {
                for machine in state.machines.values_mut() {
                    let last = machine.coming.iter().rev().find(|(_, of, _)| *of == hive);
                    let due = now + u64::from(self.world.number(LAG + 1));
                    let due = last.map_or(due, |(last, ..)| due.max(*last));
                    machine.coming.push_back((due, hive.clone(), told.clone()));
                }
            }
            for Machine { coming, heard, .. } in state.machines.values_mut() {
                let (due, later) = coming.drain(..).partition(|(due, ..)| *due <= now);
                *coming = later;
                let due: VecDeque<_> = due;
                heard.extend(due.into_iter().map(|(_, hive, told)| (hive, told)));
            }
        }
        self.world.tick().await
    }

    fn assign(&self, id: u64, gateway: &HiveName, to: &HiveName) -> (Assigned, Option<Sent>) {
        let mut state = self.state.lock();
        state.assigned.insert(id, (gateway.clone(), to.clone()));
        let sent = (gateway != to).then(|| state.machines[gateway].balance.send(to, MODEL));
        (Assigned { fleet: self.clone(), id }, sent)
    }

    /// As a gateway chooses; `None` where it refuses the request.
    async fn choose(&self, id: u64, run: &Run, tried: &BTreeSet<HiveName>) -> Option<Going> {
        let (gateway, mut lead) = (&run.hive, None);
        let candidates = self.state.lock().candidates(gateway, tried);
        let only: Vec<_> = candidates.iter().map(|(_, candidate)| candidate.clone()).collect();
        let to = match choose(&only) {
            Choice::Goes(place) => {
                let fair = self.state.lock().check_fair(gateway, place, &candidates);
                fair.unwrap_or_else(|why| self.world.is_wrong(why));
                candidates[place].0.clone()
            }
            Choice::Fits(places) => {
                let hives = places.into_iter().map(|place| candidates[place].0.clone()).collect();
                let asks = Gateway { fleet: self.clone(), run: run.errand() };
                let agreed: Agreed = agree(&asks, hives).await.ok()?;
                lead = agreed.lead.map(|lead| (self.world.leads(&asks.run), lead));
                agreed.hive
            }
            Choice::Nobody => return None,
        };
        let (assigned, sent) = self.assign(id, gateway, &to);
        Some(Going { to, lead, _assigned: assigned, _sent: sent })
    }

    /// As a gateway answers a request: another hive may, once.
    async fn ask(self, id: u64, run: Run) {
        let mut tried = BTreeSet::new();
        for _ in 0..2 {
            self.world.delay(4).await;
            let Some(mut going) = self.choose(id, &run, &tried).await else { return };
            if going.to != run.hive {
                self.world.delay(6).await;
            }
            let there = self.state.lock().machines[&going.to].run.clone();
            let until = self.world.now() + u64::from(1 + self.world.number(LOAD));
            let arrived = self.state.lock().arrives(id, &going.to, until);
            match arrived {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => return self.world.is_wrong(why),
            }
            while !there.is_dead() && self.state.lock().machines[&going.to].phase != Phase::Ready {
                self.world.seconds(1).await;
            }
            if !there.is_dead() {
                // The first byte, and the others.
                going.lead = None;
                self.world.seconds(u64::from(self.world.number(8))).await;
                return;
            }
            tried.insert(going.to);
        }
    }

    /// Everybody forgets the model, and hears of that.
    async fn unload(&self) -> Result<(), String> {
        self.state.lock().machines.values_mut().for_each(|machine| machine.phase = Phase::Cold);
        for _ in 0..2 * LAG + 2 {
            self.tick(100).await?;
        }
        Ok(())
    }

    /// Requests come at once, at several gateways.
    async fn burst(&self, requests: &mut u64) -> Result<(), String> {
        let mut tasks: Vec<(HiveName, JoinHandle<()>)> = Vec::new();
        let start = self.world.now();
        let gateways = 1 + self.world.number(HIVES.len() as u32);
        let (seconds, busy) = (1 + u64::from(self.world.number(60)), self.world.number(100));
        loop {
            let age = self.world.now() - start;
            if age < seconds && self.world.percent(busy) {
                for _ in 0..self.world.number(8) {
                    *requests += 1;
                    let gateway = hive(HIVES[self.world.number(gateways) as usize]);
                    let run = self.state.lock().machines[&gateway].run.clone();
                    tasks.push((gateway, spawn::detached(self.clone().ask(*requests, run))));
                }
            }
            if !self.state.lock().is_calm && self.world.percent(3) {
                self.kill(&hive(HIVES[self.world.number(HIVES.len() as u32) as usize]), &tasks);
            }
            self.tick(50).await?;
            tasks.retain(|(_, task)| !task.is_finished());
            if age >= seconds && tasks.is_empty() {
                return Ok(());
            }
            if age > PATIENCE {
                return Err(format!("{} requests do not end", tasks.len()));
            }
        }
    }

    /// A hive dies, and its clients with it. Started again, it has nothing loaded.
    fn kill(&self, dies: &HiveName, tasks: &[(HiveName, JoinHandle<()>)]) {
        let mut state = self.state.lock();
        let machine = state.machines.get_mut(dies).expect("a hive");
        machine.run.kill();
        machine.run = Run::new(dies.clone());
        (machine.phase, machine.balance) = (Phase::Cold, Balance::default());
        tasks.iter().filter(|(gateway, _)| gateway == dies).for_each(|(_, task)| task.abort());
    }
}

/// What a gateway asks other hives.
struct Gateway {
    fleet: Fleet,
    run: Run,
}

impl Asks for Gateway {
    fn offer<'a>(&'a self, hive: &'a HiveName) -> BoxFuture<'a, Result<Offer>> {
        async move {
            let Fleet { world, state } = &self.fleet;
            world.delay(4).await;
            let offer = {
                let state = state.lock();
                let machine = &state.machines[hive];
                let offer =
                    |rank, free_bytes, begins| Offer { rank, free_bytes, words: String::new(), begins };
                match machine.phase {
                    _ if !state.is_calm && world.percent(10) => Err(lost()),
                    Phase::Ready => Ok(offer(Offer::HAS_IT, 0, None)),
                    Phase::Loading { .. } => Ok(offer(Offer::LOADS_IT, 0, None)),
                    // What is free changes from one moment to the next.
                    Phase::Cold if machine.has_room => {
                        Ok(offer(Offer::AT_ONCE, world.number(1000).into(), Some(BYTES)))
                    }
                    Phase::Cold => Err(Failure::new(Code::OutOfMemory, "no room")),
                }
            };
            world.delay(4).await;
            offer
        }
        .boxed()
    }

    fn lead<'a>(
        &'a self,
        bytes: u64,
        hive: &'a HiveName,
        able: &'a [HiveName],
    ) -> BoxFuture<'a, Option<Lead>> {
        async move {
            let bucket = self.fleet.world.bucket(&self.run);
            let lead = take(bucket, &format!("load.{bytes}"), hive, |leader| able.contains(leader)).await;
            lead.ok().flatten()
        }
        .boxed()
    }
}

async fn schedule(seed: u64) -> Result<(), String> {
    let is_calm = seed.is_multiple_of(2);
    let fleet = Fleet::new(seed, is_calm);
    let mut requests = 0;
    for _ in 0..3 {
        fleet.burst(&mut requests).await?;
        fleet.unload().await?;
    }
    if is_calm {
        return Ok(());
    }
    fleet.world.heal();
    fleet.state.lock().is_calm = true;
    // What dead hives have left goes by its age.
    for _ in 0..LEASE.as_secs() {
        fleet.tick(100).await?;
    }
    fleet.burst(&mut requests).await
}

#[test]
fn a_model_is_loaded_once_and_requests_are_spread() {
    each_seed(SEEDS, schedule);
}
