//! The decision in a simulated world, over thousands of seeds: random models, devices and requests, and whatever
//! can go wrong.
//!
//! `RBEE_HIVE_TEST_SEED` runs one seed alone and tells what happened. `RBEE_HIVE_TEST_ROUNDS` multiplies the number
//! of seeds.

mod run;
mod happen;
mod act;
mod world;
mod anything;
mod setting;
mod checks;
mod chance;

use std::collections::BTreeMap;
use std::time::Duration;

use chance::Chance;
use setting::Setting;
use world::{Counts, World};

use super::decide::decide;
use super::testing::told;
use crate::testing::rounds;

/// How many seeds are run, for each of the rounds.
const SEEDS: u64 = 500;
/// What is told of the time before a failure.
const TOLD: usize = 80;
/// Seeds that find a fault that was there once.
const FOUND: [(u64, &str); 5] = [
    (2_000_001, "a worker went for memory of a device on which nothing was needed"),
    (2_000_002, "a later load got free memory against what a worker would bring that only goes later"),
    (2_000_020, "a load was told nothing while a lease got its memory"),
    (2_000_297, "a worker stayed drained for a load that had ended, because another one was to get it later"),
    (2_000_430, "a load got its place while the worker that it replaces was there"),
];

#[test]
fn every_invariant_holds_in_every_world() {
    if let Ok(seed) = std::env::var("RBEE_HIVE_TEST_SEED") {
        let counts = holds(seed.parse().expect("RBEE_HIVE_TEST_SEED is a number"));
        return println!("{counts:#?}");
    }
    let (mut kinds, mut longest_wait) = (BTreeMap::new(), 0);
    for seed in 2_000_000..2_000_000 + SEEDS * rounds().min(20) {
        let counts = holds(seed);
        longest_wait = longest_wait.max(counts.longest_wait);
        for (kind, count) in counts.actions {
            *kinds.entry(kind).or_insert(0) += count;
        }
    }
    println!("{kinds:#?}, {longest_wait}");
    assert!(
        kinds.len() == 21 && kinds.values().all(|count| *count >= 10),
        "what is not tried is not tested: {kinds:?}"
    );
}

/// Whatever the snapshot says, the decision keeps to the rules.
#[test]
fn every_decision_keeps_to_the_rules() {
    for seed in 0..10 * SEEDS * rounds().min(20) {
        let now = anything::snapshot(&mut Chance::of(seed));
        let decision = decide(&now);
        if let Err(why) = checks::check(&now, &decision) {
            panic!("{now:#?}\n{:#?}\nsnapshot {seed}: {why}", told(&decision));
        }
    }
}

/// Two models of which only one fits, and four clients of each that ask without a pause, for a minute.
#[test]
fn two_models_that_do_not_fit_together_take_turns() {
    let setting = Setting::of_two_models_in_turns(Duration::from_secs(60));
    let counts = World::new(setting, Chance::of(1)).run().expect("every invariant holds");
    assert_eq!(
        (counts.answered, counts.refused),
        (counts.requests, 0),
        "no answer is cut, and none is refused"
    );
    assert!(counts.evictions >= 3, "both have their turns: {counts:?}");
    assert!(counts.requests >= 5 * counts.evictions, "they are not swapped for each request: {counts:?}");
}

#[test]
fn what_was_found_once_stays_mended() {
    for (seed, fault) in FOUND {
        println!("{seed}: {fault}");
        holds(seed);
    }
}

/// Runs the world of the seed; if something does not hold, runs it again and tells what led to it.
fn holds(seed: u64) -> Counts {
    world(seed).run().unwrap_or_else(|why| {
        let mut world = world(seed);
        world.trace = Some(Vec::new());
        let again = world.run().err();
        let trace = world.trace.unwrap_or_default();
        let told = trace[trace.len().saturating_sub(TOLD)..].join("\n");
        assert_eq!(again.as_ref(), Some(&why), "the same seed, another end");
        panic!("{told}\nRBEE_HIVE_TEST_SEED={seed}: {why}");
    })
}

fn world(seed: u64) -> World {
    let mut chance = Chance::of(seed);
    World::new(Setting::by_chance(&mut chance), chance)
}
