//! Leads against a bucket in memory: lost answers, late messages, cut connections, hives that are killed while they lead,
//! and hives that wrongly take others for unreachable. Every hive wants one file, and does with leads what downloads do.
//!
//! What has to hold:
//! - while all hives see each other and no answer is lost, at most one leads;
//! - every hive has the file in the end, and soon after the faults end;
//! - no entry stays once nobody leads any more, and none is removed by a hive that does not own it;
//! - a lead that is held does not go by its age, unless renewals fail one after another, and has an entry again soon after;
//! - no hive waits for itself, or for one from which nothing came;
//! - once the faults have ended, exactly one leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::world::{Run, World};
use super::{each_seed, hive};
use crate::fleet::leads::{LEASE, Lead, take};
use crate::fleet::names::HiveName;
use crate::spawn;

/// How many seeds one round runs.
const SEEDS: u64 = 400;
const HIVES: [&str; 4] = ["a", "b", "c", "d"];
/// The longest that a download takes, in seconds: renewals count.
const WORK: u32 = 70;
/// After how many seconds without faults a lead that is held has an entry.
const TOLD: u64 = 20;
/// After how many seconds without anything a leader is left out.
const STALL: u64 = 8;
/// Every hive may have to wait for every other one.
const PATIENCE: u64 = 2 * LEASE.as_secs() + HIVES.len() as u64 * (WORK as u64 + STALL) + 60;

/// What the hives do.
#[derive(Clone)]
struct Files {
    world: World,
    file: &'static str,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    has: BTreeSet<HiveName>,
    /// Those that download it from its source.
    working: BTreeSet<HiveName>,
    /// Who takes whom for unreachable.
    unseen: BTreeSet<(HiveName, HiveName)>,
    /// How many have downloaded it for all.
    led: usize,
    /// Whether downloads fail.
    fails: bool,
}

impl Files {
    fn new(world: &World, file: &'static str) -> Self {
        Self { world: world.clone(), file, state: Arc::default() }
    }

    fn reaches(&self, own: &HiveName, other: &HiveName) -> bool {
        !self.state.lock().unseen.contains(&(own.clone(), other.clone()))
    }

    /// Whether a hive that can be reached has it.
    fn is_to_be_had(&self, own: &HiveName) -> bool {
        let state = self.state.lock();
        state.has.iter().any(|hive| !state.unseen.contains(&(own.clone(), hive.clone())))
    }

    /// Downloads it. Returns whether it has it then.
    async fn work(&self, own: &HiveName) -> bool {
        self.state.lock().working.insert(own.clone());
        let _ends = Works { files: self.clone(), hive: own.clone() };
        self.world.seconds(u64::from(1 + self.world.number(WORK))).await;
        let fails = self.state.lock().fails && self.world.percent(20);
        if !fails {
            self.state.lock().has.insert(own.clone());
        }
        !fails
    }

    async fn lead(&self, own: &HiveName) -> bool {
        self.state.lock().led += 1;
        self.work(own).await
    }

    /// Gets it from the leader as it comes. `false` where nothing comes.
    async fn follow(&self, own: &HiveName, leader: &HiveName) -> bool {
        let mut heard = self.world.now();
        while self.world.now() < heard + STALL {
            let (has, works) = {
                let state = self.state.lock();
                (state.has.contains(leader), state.working.contains(leader))
            };
            let is_seen = self.reaches(own, leader);
            if has && is_seen {
                self.state.lock().has.insert(own.clone());
                return true;
            }
            if works && is_seen {
                heard = self.world.now();
            }
            self.world.seconds(1).await;
        }
        false
    }

    /// What a hive does that wants it.
    async fn want(self, run: Run) {
        let (own, mut without) = (&run.hive, BTreeSet::new());
        loop {
            self.world.delay(4).await;
            if self.is_to_be_had(own) {
                self.world.seconds(2).await;
                self.state.lock().has.insert(own.clone());
                return;
            }
            let stands =
                |leader: &HiveName| leader != own && self.reaches(own, leader) && !without.contains(leader);
            match take(self.world.bucket(&run), self.file, own, stands).await {
                Ok(Some(Lead::Ours(lead))) => {
                    let leading = self.world.leads(&run);
                    // The leader before may have completed it.
                    let is_done = !self.is_to_be_had(own) && self.lead(own).await;
                    drop((leading, lead));
                    if is_done {
                        return;
                    }
                }
                Ok(Some(Lead::Theirs(leader))) => {
                    if without.contains(&leader) || leader == *own {
                        self.world.is_wrong(format!("'{own}' is to wait for '{leader}' in vain"));
                    }
                    if self.follow(own, &leader).await {
                        return;
                    }
                    without.insert(leader);
                }
                Ok(None) | Err(_) => {
                    if self.work(own).await {
                        return;
                    }
                }
            }
        }
    }

    fn start(&self, name: &str) -> (Run, JoinHandle<()>) {
        let run = Run::new(hive(name));
        (run.clone(), spawn::detached(self.clone().want(run)))
    }
}

/// A download from the source.
struct Works {
    files: Files,
    hive: HiveName,
}

impl Drop for Works {
    fn drop(&mut self) {
        self.files.state.lock().working.remove(&self.hive);
    }
}

type Runs = BTreeMap<&'static str, (Run, JoinHandle<()>)>;

/// Waits until every hive has what it wants.
async fn all_have_it(files: &Files, runs: &Runs, is_calm: bool) -> Result<(), String> {
    let start = files.world.now();
    while !runs.values().all(|(_, task)| task.is_finished()) {
        files.world.tick().await?;
        if is_calm && files.world.leading() > 1 {
            return Err("two lead".to_owned());
        }
        if files.world.now() > start + TOLD && files.world.has_untold_lead() {
            return Err("one leads, and has no entry".to_owned());
        }
        if files.world.now() > start + PATIENCE {
            let has = files.state.lock().has.clone();
            return Err(format!("after {PATIENCE} s, those that have '{}' are {has:?}", files.file));
        }
    }
    Ok(())
}

/// Something goes wrong, or is well again.
fn disturb(files: &Files, runs: &mut Runs) {
    let any = || HIVES[files.world.number(HIVES.len() as u32) as usize];
    let (one, other) = (any(), any());
    match files.world.number(100) {
        0..6 => {
            let (run, task) = runs.remove(one).expect("every hive runs");
            run.kill();
            task.abort();
            // Started again at once, it knows nothing.
            runs.insert(one, files.start(one));
        }
        6..16 => drop(files.state.lock().unseen.insert((hive(one), hive(other)))),
        16..30 => drop(files.state.lock().unseen.remove(&(hive(one), hive(other)))),
        30..34 => files.world.cut(&hive(one), true),
        34..50 => files.world.cut(&hive(one), false),
        _ => {}
    }
}

async fn schedule(seed: u64) -> Result<(), String> {
    let is_calm = seed.is_multiple_of(4);
    let world = World::new(seed, if is_calm { 0 } else { 20 });
    let files = Files::new(&world, "first");
    files.state.lock().fails = !is_calm;
    let mut runs: Runs = HIVES.iter().map(|name| (*name, files.start(name))).collect();
    if !is_calm {
        for _ in 0..80 + world.number(120) {
            disturb(&files, &mut runs);
            world.tick().await?;
        }
        world.heal();
        let mut state = files.state.lock();
        (state.unseen, state.fails) = (BTreeSet::new(), false);
    }
    all_have_it(&files, &runs, is_calm).await?;
    // What a hive that died has left goes by its age; what was given back is gone at once.
    let grace = if is_calm { 5 } else { LEASE.as_secs() + 5 };
    seconds(&world, grace).await?;
    if world.has_entries() {
        return Err("nobody leads, and an entry is there".to_owned());
    }
    let files = Files::new(&world, "second");
    let runs: Runs = HIVES.iter().map(|name| (*name, files.start(name))).collect();
    all_have_it(&files, &runs, true).await?;
    match files.state.lock().led {
        1 => Ok(()),
        led => Err(format!("once all is well, {led} lead")),
    }
}

#[test]
fn one_leads_and_every_hive_has_the_file_in_the_end() {
    each_seed(SEEDS, schedule);
}

/// Lets so many seconds go by.
async fn seconds(world: &World, seconds: u64) -> Result<(), String> {
    for _ in 0..seconds {
        world.tick().await?;
    }
    Ok(())
}

#[test]
fn a_lead_that_went_by_its_age_is_made_again_while_it_is_held() {
    each_seed(10, async |seed| {
        let world = World::new(seed, 0);
        let run = Run::new(hive("a"));
        let (bucket, own) = (world.bucket(&run), run.hive.clone());
        let taking = spawn::detached(async move { take(bucket, "file", &own, |_| false).await });
        while !taking.is_finished() {
            world.tick().await?;
        }
        let Ok(Ok(Some(Lead::Ours(lead)))) = taking.await else { return Err("it has no lead".to_owned()) };
        world.cut(&run.hive, true);
        seconds(&world, LEASE.as_secs() + TOLD).await?;
        if world.has_entries() {
            return Err("an entry that nobody can renew stays".to_owned());
        }
        world.cut(&run.hive, false);
        seconds(&world, TOLD).await?;
        if !world.has_entries() {
            return Err("a lead that is held has no entry".to_owned());
        }
        drop(lead);
        seconds(&world, TOLD).await?;
        match world.has_entries() {
            true => Err("a lead that was given back has an entry".to_owned()),
            false => Ok(()),
        }
    });
}
