//! A bucket of leads in memory, with a clock, the faults of a network, and hives that are killed.
//!
//! It notes what must not be: a lead that is removed by a hive that does not own it, and one that goes by its age while a
//! hive that lives holds it and was answered often enough to renew it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::yield_now;

use super::lost;
use crate::error::Result;
use crate::fleet::leads::{Bucket, Entry, LEASE};
use crate::fleet::names::HiveName;

/// How often everybody has a turn within a second.
const TURNS: usize = 6;
/// How many renewals in a row have to fail for a lead to go by its age.
const FAILURES: u32 = 2;

/// What the hives share. Cheap to clone.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<State>>);

struct State {
    chance: StdRng,
    /// In seconds.
    now: u64,
    /// How many of a hundred calls go wrong.
    faults: u32,
    entries: BTreeMap<String, Held>,
    revision: u64,
    /// Changes whose sender has given up, and which are under way all the same.
    late: Vec<(Run, Change)>,
    /// The hives without a connection.
    cut: BTreeSet<HiveName>,
    /// The leads that are held, by their runs, and whether another one has taken it over.
    leading: Vec<(Run, bool)>,
    wrong: Option<String>,
}

/// An entry of the bucket.
struct Held {
    value: String,
    revision: u64,
    at: u64,
    /// Who wrote it.
    by: Run,
    /// How many calls of its writer went wrong since.
    failed: u32,
}

#[derive(Clone)]
enum Change {
    Create(String, String),
    Update(String, String, u64),
    Remove(String, u64),
}

impl Change {
    fn key(&self) -> &str {
        match self {
            Self::Create(key, _) | Self::Update(key, ..) | Self::Remove(key, _) => key,
        }
    }
}

/// A run of a hive, until it is killed. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) hive: HiveName,
    is_dead: Arc<AtomicBool>,
    /// What it does that may lead: it owns the lead that is taken for that.
    errand: Arc<()>,
}

impl Run {
    pub(super) fn new(hive: HiveName) -> Self {
        Self { hive, is_dead: Arc::default(), errand: Arc::default() }
    }

    /// The same run, about something else.
    pub(super) fn errand(&self) -> Self {
        Self { errand: Arc::default(), ..self.clone() }
    }

    pub(super) fn kill(&self) {
        self.is_dead.store(true, Ordering::Release);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Acquire)
    }

    /// Never ends where it was killed.
    async fn lives(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.errand, &other.errand)
    }
}

impl State {
    fn percent(&mut self, percent: u32) -> bool {
        self.chance.random_range(0..100) < percent
    }

    /// As the server does it. `None` where the entry has another revision.
    fn make(&mut self, by: &Run, change: Change) -> Option<u64> {
        let revision_of = |key: &str| self.entries.get(key).map(|held| held.revision);
        let (key, value) = match change {
            Change::Create(key, value) if revision_of(&key).is_none() => (key, value),
            Change::Update(key, value, revision) if revision_of(&key) == Some(revision) => (key, value),
            Change::Remove(key, revision) if revision_of(&key) == Some(revision) => {
                let removed = self.entries.remove(&key)?;
                if !removed.by.is(by) {
                    let why = format!("'{}' removed the lead of '{}'", by.hive, removed.by.hive);
                    self.wrong.get_or_insert(why);
                }
                return Some(revision);
            }
            _ => return None,
        };
        for (_, is_lost) in self.leading.iter_mut().filter(|(run, _)| !run.is(by)) {
            *is_lost = true;
        }
        self.revision += 1;
        let (revision, at) = (self.revision, self.now);
        self.entries.insert(key, Held { value, revision, at, by: by.clone(), failed: 0 });
        Some(revision)
    }

    /// A call went wrong that changed nothing.
    fn fails(&mut self, by: &Run, key: &str) {
        if let Some(held) = self.entries.get_mut(key).filter(|held| held.by.is(by)) {
            held.failed += 1;
        }
    }

    fn expire(&mut self) {
        let (now, age) = (self.now, LEASE.as_secs());
        let expired = self.entries.extract_if(.., |_, held| now - held.at >= age);
        for (_, held) in expired.collect::<Vec<_>>() {
            let is_held = !held.by.is_dead() && self.leading.iter().any(|(run, _)| run.is(&held.by));
            if is_held && held.failed < FAILURES {
                let why = format!("the lead that '{}' holds went by its age", held.by.hive);
                self.wrong.get_or_insert(why);
            }
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, faults: u32) -> Self {
        Self(Arc::new(Mutex::new(State {
            chance: StdRng::seed_from_u64(seed),
            now: 0,
            faults,
            entries: BTreeMap::new(),
            revision: 0,
            late: Vec::new(),
            cut: BTreeSet::new(),
            leading: Vec::new(),
            wrong: None,
        })))
    }

    pub(super) fn number(&self, below: u32) -> u32 {
        self.0.lock().chance.random_range(0..below)
    }

    pub(super) fn percent(&self, percent: u32) -> bool {
        self.0.lock().percent(percent)
    }

    pub(super) fn now(&self) -> u64 {
        self.0.lock().now
    }

    /// Lets some turns pass.
    pub(super) async fn delay(&self, most: u32) {
        for _ in 0..self.number(most + 1) {
            yield_now().await;
        }
    }

    /// Lets so many seconds pass.
    pub(super) async fn seconds(&self, seconds: u64) {
        let end = self.now() + seconds;
        while self.now() < end {
            yield_now().await;
        }
    }

    /// One second passes, for everybody.
    ///
    /// # Errors
    /// What must not be.
    pub(super) async fn tick(&self) -> Result<(), String> {
        {
            let mut state = self.0.lock();
            state.now += 1;
            state.expire();
        }
        for _ in 0..TURNS {
            yield_now().await;
        }
        self.0.lock().wrong.clone().map_or(Ok(()), Err)
    }

    pub(super) fn is_wrong(&self, why: String) {
        self.0.lock().wrong.get_or_insert(why);
    }

    pub(super) fn cut(&self, hive: &HiveName, is_cut: bool) {
        let mut state = self.0.lock();
        if is_cut {
            state.cut.insert(hive.clone());
        } else {
            state.cut.remove(hive);
        }
    }

    /// Everything works from now on. What is late arrives.
    pub(super) fn heal(&self) {
        let mut state = self.0.lock();
        state.faults = 0;
        state.cut.clear();
        for (by, change) in std::mem::take(&mut state.late) {
            state.make(&by, change);
        }
    }

    /// Whether somebody has an entry.
    pub(super) fn has_entries(&self) -> bool {
        !self.0.lock().entries.is_empty()
    }

    /// A run holds a lead, until this is dropped.
    pub(super) fn leads(&self, run: &Run) -> Leading {
        self.0.lock().leading.push((run.clone(), false));
        Leading { world: self.clone(), run: run.clone() }
    }

    /// How many leads are held by hives that live.
    pub(super) fn leading(&self) -> usize {
        self.0.lock().leading.iter().filter(|(run, _)| !run.is_dead()).count()
    }

    /// Whether a hive that lives holds a lead that no other has taken over, and nobody can know of it.
    pub(super) fn has_untold_lead(&self) -> bool {
        let state = self.0.lock();
        let is_held = state.leading.iter().any(|(run, is_lost)| !run.is_dead() && !is_lost);
        is_held && state.entries.is_empty()
    }

    pub(super) fn bucket(&self, run: &Run) -> SimBucket {
        SimBucket { world: self.clone(), run: run.clone() }
    }
}

/// A lead that is held.
pub(super) struct Leading {
    world: World,
    run: Run,
}

impl Drop for Leading {
    fn drop(&mut self) {
        let mut state = self.world.0.lock();
        if let Some(place) = state.leading.iter().position(|(run, _)| run.is(&self.run)) {
            state.leading.swap_remove(place);
        }
    }
}

/// The bucket, as one run of a hive sees it.
#[derive(Clone)]
pub(super) struct SimBucket {
    world: World,
    run: Run,
}

impl SimBucket {
    async fn change(&self, change: Change) -> Result<Option<u64>> {
        self.before().await;
        let made = self.try_to_change(change);
        self.after().await;
        made
    }

    fn try_to_change(&self, change: Change) -> Result<Option<u64>> {
        let (run, mut state) = (&self.run, self.world.0.lock());
        let faults = state.faults;
        if state.percent(faults) && !state.late.is_empty() {
            let late = state.late.len();
            let place = state.chance.random_range(0..late);
            let (by, late) = state.late.swap_remove(place);
            state.make(&by, late);
        }
        if state.cut.contains(&run.hive) || state.percent(faults) {
            state.fails(run, change.key());
            if state.percent(50) {
                state.late.push((run.clone(), change));
            }
            return Err(lost());
        }
        let key = change.key().to_owned();
        let made = state.make(run, change);
        if state.percent(faults) {
            if made.is_none() {
                state.fails(run, &key);
            }
            return Err(lost());
        }
        Ok(made)
    }

    async fn before(&self) {
        self.run.lives().await;
        self.world.delay(3).await;
        self.run.lives().await;
    }

    async fn after(&self) {
        self.world.delay(3).await;
        self.run.lives().await;
    }
}

impl Bucket for SimBucket {
    async fn create(&self, key: &str, value: &str) -> Result<Option<u64>> {
        self.change(Change::Create(key.to_owned(), value.to_owned())).await
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>> {
        self.before().await;
        let entry = {
            let mut state = self.world.0.lock();
            let faults = state.faults;
            if state.cut.contains(&self.run.hive) || state.percent(faults) {
                state.fails(&self.run, key);
                Err(lost())
            } else {
                let held = state.entries.get(key);
                Ok(held.map(|held| Entry { value: held.value.clone(), revision: held.revision }))
            }
        };
        self.after().await;
        entry
    }

    async fn update(&self, key: &str, value: &str, revision: u64) -> Result<Option<u64>> {
        self.change(Change::Update(key.to_owned(), value.to_owned(), revision)).await
    }

    async fn remove(&self, key: &str, revision: u64) -> Result<bool> {
        Ok(self.change(Change::Remove(key.to_owned(), revision)).await?.is_some())
    }

    async fn pause(&self, pause: Duration) {
        self.world.seconds(pause.as_secs()).await;
        self.run.lives().await;
    }
}
