//! Rotary position embeddings (Su et al., 2021), in the layout of GGUF's llama tensors: elements
//! `2i` and `2i + 1` of a head are one pair (ggml's `ROPE_TYPE_NORM`).

use super::hyperparameters::Hyperparameters;

/// The rotation frequency of each pair.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    /// Radians per position, one per pair.
    frequencies: Vec<f64>,
}

/// The rotations of consecutive positions.
pub(super) struct Rotations {
    /// Cosine and sine, position by position, pair by pair.
    cos_sin: Vec<(f32, f32)>,
    pairs: usize,
}

impl Rope {
    /// `factors` divide the frequencies pair by pair: Llama 3's `rope_freqs.weight`.
    pub(super) fn new(hyperparameters: &Hyperparameters, factors: &[f32]) -> Self {
        let &Hyperparameters { rope_dimensions, rope_base, rope_scaling_factor, .. } = hyperparameters;
        let frequency = |(pair, &factor): (usize, &f32)| {
            let exponent = -2.0 * pair as f64 / rope_dimensions as f64;
            rope_base.powf(exponent) / f64::from(factor) / rope_scaling_factor
        };
        Self { frequencies: factors.iter().enumerate().map(frequency).collect() }
    }

    /// The rotations of `count` positions from `first` on. Angles are computed in `f64`: at
    /// position 100,000 an `f32` is off by more than a hundredth of a radian.
    pub(super) fn rotations(&self, first: usize, count: usize) -> Rotations {
        let rotation = |position: usize, frequency: f64| {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (cos as f32, sin as f32)
        };
        let cos_sin = (first..first + count)
            .flat_map(|position| self.frequencies.iter().map(move |&frequency| rotation(position, frequency)))
            .collect();
        Rotations { cos_sin, pairs: self.frequencies.len() }
    }
}

impl Rotations {
    /// Rotates every head of `rows`, which has one row per position, of `heads` heads of `width`
    /// elements each.
    pub(super) fn apply(&self, rows: &mut [f32], heads: usize, width: usize) {
        let rotations = self.cos_sin.chunks_exact(self.pairs);
        for (row, rotations) in rows.chunks_exact_mut(heads * width).zip(rotations) {
            for head in row.chunks_exact_mut(width) {
                let (pairs, _) = head.as_chunks_mut::<2>();
                for ([x, y], (cos, sin)) in pairs.iter_mut().zip(rotations) {
                    (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                }
            }
        }
    }
}
