//! The decision in a simulated world, over thousands of seeds: random models, devices and requests, and whatever
//! can go wrong.
//!
//! `RBEE_HIVE_TEST_SEED` runs one seed alone and tells what happened. `RBEE_HIVE_TEST_ROUNDS` multiplies the number
//! of seeds.

mod run;
mod world;
mod setting;
mod checks;
mod chance;

use chance::Chance;
use setting::Setting;
use world::World;

/// What is told of the time before a failure.
const TOLD: usize = 80;

#[test]
fn every_invariant_holds_in_every_world() {
    if let Ok(seed) = std::env::var("RBEE_HIVE_TEST_SEED") {
        return holds(seed.parse().expect("RBEE_HIVE_TEST_SEED is a number"));
    }
    let rounds = std::env::var("RBEE_HIVE_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"));
    let first = 1_000_000;
    for seed in first..first + 500 * rounds {
        holds(seed);
    }
}

/// Runs the world of the seed; if something does not hold, runs it again and tells what led to it.
fn holds(seed: u64) {
    if let Err(why) = world(seed).run() {
        let mut world = world(seed);
        world.trace = Some(Vec::new());
        let again = world.run().err();
        let trace = world.trace.unwrap_or_default();
        let told = trace[trace.len().saturating_sub(TOLD)..].join("\n");
        assert_eq!(again.as_ref(), Some(&why), "the same seed, another end");
        panic!("{told}\nRBEE_HIVE_TEST_SEED={seed}: {why}");
    }
}

fn world(seed: u64) -> World {
    let mut chance = Chance::of(seed);
    World::new(Setting::by_chance(&mut chance), chance)
}
