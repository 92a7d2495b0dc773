//! Chance, from a seed.

use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(super) struct Chance(StdRng);

impl Chance {
    pub(super) fn of(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub(super) fn number(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.0.random_range(range) }
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.number(0..100) < percent
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())].clone()
    }

    /// That many milliseconds.
    pub(super) fn ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }
}
