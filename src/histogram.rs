//! Times, counted by how long they were: from the first token of a small model to the download of a large
//! one.

use std::time::Duration;

/// The upper ends of the buckets, in milliseconds. What is longer is in a last bucket.
const BOUNDS_MS: [u64; 18] = [
    5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000, 900_000,
    3_600_000, 14_400_000,
];

/// Times, counted by how long they were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: [u64; BOUNDS_MS.len() + 1],
    sum: Duration,
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let bucket = BOUNDS_MS.partition_point(|bound| time > Duration::from_millis(*bound));
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(time);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }

    pub(crate) const fn sum(&self) -> Duration {
        self.sum
    }

    /// How many times were counted.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many times are in each bucket, which is named by its upper end in seconds. The last has none.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let ends = BOUNDS_MS.iter().map(|ms| Duration::from_millis(*ms).as_secs_f64()).chain([f64::INFINITY]);
        ends.zip(self.counts)
    }

    /// The time that this share of the times, from 0 to 1, does not exceed, as far as the buckets tell: the
    /// upper end of its bucket. `None` where nothing was counted, or beyond the last end.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of requests are far below 2^53, and a share of one is not negative"
    )]
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<u64> {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
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
        for ms in [1, 5, 6, 900, 15_000_000] {
            histogram.add(Duration::from_millis(ms));
        }
        assert_eq!(
            [0.0, 0.4, 0.5, 0.8].map(|share| histogram.quantile_ms(share)),
            [Some(5), Some(5), Some(10), Some(1000)]
        );
        assert_eq!(histogram.quantile_ms(0.95), None, "longer than the last bound");
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.count(), 2 * histogram.count());
        let filled: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.005, 2), (0.01, 1), (1.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((twice.sum(), twice.quantile_ms(0.5)), (histogram.sum() * 2, Some(10)));
    }
}
