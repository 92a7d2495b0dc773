//! Times, counted by how long they were.

use std::time::Duration;

/// The upper ends of the buckets, in milliseconds. What is longer is in a last bucket.
const BOUNDS_MS: [u64; 15] =
    [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000];

/// Times, counted by how long they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: [u64; BOUNDS_MS.len() + 1],
    sum: Duration,
}

impl Histogram {
    pub(super) fn add(&mut self, time: Duration) {
        let bucket = BOUNDS_MS.partition_point(|bound| time > Duration::from_millis(*bound));
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(time);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }

    pub(super) const fn sum(&self) -> Duration {
        self.sum
    }

    /// The time that this share of the times, from 0 to 1, does not exceed, as far as the buckets tell: the upper
    /// end of its bucket. `None` where nothing was counted, or beyond the last end.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of requests are far below 2^53, and a share of one is not negative"
    )]
    pub(super) fn quantile_ms(&self, share: f64) -> Option<u64> {
        let all: u64 = self.counts.iter().sum();
        let wanted = ((all as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        BOUNDS_MS.get(bucket?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_by_their_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ms(0.5), None);
        for ms in [1, 5, 6, 900, 400_000] {
            histogram.add(Duration::from_millis(ms));
        }
        assert_eq!(
            [0.0, 0.4, 0.5, 0.8].map(|share| histogram.quantile_ms(share)),
            [Some(5), Some(5), Some(10), Some(1000)]
        );
        assert_eq!(histogram.quantile_ms(0.95), None, "longer than the last bound");
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((twice.sum(), twice.quantile_ms(0.5)), (histogram.sum() * 2, Some(10)));
    }
}
