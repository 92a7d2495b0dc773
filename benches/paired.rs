//! Measures two things in turn, and their ratio.
//!
//! Other work on the machine makes absolute figures drift. Samples taken at nearly the same time drift
//! together, so each ratio is of two neighbouring samples. Which of the two comes first alternates. The spread
//! over all pairs is shown with the median.

use std::fmt;
use std::time::Duration;

/// Whether this run measures (`cargo bench`) or only checks that the benchmark works.
pub(crate) fn for_figures() -> bool {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    has("--bench") && !has("--test") && !has("--list")
}

/// Values, sorted.
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        assert!(!values.is_empty(), "a spread needs at least one value");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The value at the quantile `quantile`, from 0 to 1 (nearest rank).
    pub(crate) fn at(&self, quantile: f64) -> f64 {
        let last = self.0.len() - 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank within a list of samples"
        )]
        let rank = (last as f64 * quantile).round() as usize;
        self.0[rank.min(last)]
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// `min – median – max (middle half q1 – q3)`
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, q1, q3, max] = [0.0, 0.25, 0.75, 1.0].map(|quantile| self.at(quantile));
        let median = self.median();
        write!(f, "{min:.2} – {median:.2} – {max:.2}  (middle half {q1:.2} – {q3:.2})")
    }
}

/// Samples taken in pairs.
pub(crate) struct Pairs {
    /// Seconds of the first.
    pub(crate) a: Spread,
    /// Seconds of the second.
    pub(crate) b: Spread,
    /// The first over the second, pair by pair.
    pub(crate) ratio: Spread,
}

/// Measures `a` and `b` in turn, `pairs` times, after one of each that is not counted.
pub(crate) fn pairs(pairs: usize, mut a: impl FnMut() -> Duration, mut b: impl FnMut() -> Duration) -> Pairs {
    a();
    b();
    let samples: Vec<_> = (0..pairs)
        .map(|pair| {
            if pair % 2 == 0 {
                let a = a().as_secs_f64();
                (a, b().as_secs_f64())
            } else {
                let b = b().as_secs_f64();
                (a().as_secs_f64(), b)
            }
        })
        .collect();
    Pairs {
        a: Spread::of(samples.iter().map(|(a, _)| *a)),
        b: Spread::of(samples.iter().map(|(_, b)| *b)),
        ratio: Spread::of(samples.iter().map(|(a, b)| a / b)),
    }
}
