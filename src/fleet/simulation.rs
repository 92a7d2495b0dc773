//! The fleet by chance, in memory: thousands of schedules of what a network and machines do to several hives. The code under
//! test is that which runs; only what it asks over NATS is another one here.
//!
//! Each schedule comes from a seed, which is told where something does not hold; `RBEE_HIVE_TEST_SEED` runs one alone.
//! `RBEE_HIVE_TEST_ROUNDS` multiplies their number. Each file says what has to hold.

mod choosing;
mod copies;
mod events;
mod leases;
mod world;

use super::names::HiveName;
use crate::error::{Code, Failure};
use crate::testing::rounds;

/// Runs schedules, from as many seeds in one round.
fn each_seed(seeds: u64, schedule: impl AsyncFn(u64) -> Result<(), String>) {
    let named = std::env::var("RBEE_HIVE_TEST_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    for seed in named.map_or(0..seeds * rounds().min(5), |seed| seed..seed + 1) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Err(why) = runtime.block_on(schedule(seed)) {
            panic!("RBEE_HIVE_TEST_SEED={seed}: {why}");
        }
    }
}

fn hive(name: &str) -> HiveName {
    HiveName::new(name).unwrap()
}

/// The failure of what was not answered.
fn lost() -> Failure {
    Failure::new(Code::FleetUnreachable, "as the test wants it")
}
