//! Rotary position embeddings (Su et al., 2021), in the layout that GGUF's llama tensors have:
//! elements `2i` and `2i + 1` of a head are one pair (ggml's `ROPE_TYPE_NORM`).

use super::config::Config;

/// How fast each pair turns.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    /// Radians per position, one per pair.
    frequencies: Vec<f64>,
}

/// The turns of some positions in a row.
pub(super) struct Turns {
    /// Cosine and sine, position by position, pair by pair.
    turns: Vec<(f32, f32)>,
    pairs: usize,
}

impl Rope {
    /// `factors` divide the frequencies pair by pair: Llama 3's `rope_freqs.weight`.
    pub(super) fn new(config: &Config, factors: &[f32]) -> Self {
        let frequency = |(pair, &factor): (usize, &f32)| {
            let exponent = -2.0 * pair as f64 / config.rope_dimensions as f64;
            config.rope_base.powf(exponent) / f64::from(factor) / config.rope_divisor
        };
        Self { frequencies: factors.iter().enumerate().map(frequency).collect() }
    }

    /// The turns of the positions from `first` on. Angles are taken in `f64`: at position 100,000
    /// an `f32` is off by more than a hundredth of a radian.
    pub(super) fn turns(&self, first: usize, count: usize) -> Turns {
        let turn = |position: usize, frequency: f64| {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (cos as f32, sin as f32)
        };
        let turns = (first..first + count)
            .flat_map(|position| self.frequencies.iter().map(move |&frequency| turn(position, frequency)))
            .collect();
        Turns { turns, pairs: self.frequencies.len() }
    }
}

impl Turns {
    /// Turns every head of `rows`, which has for each position `heads` heads of `width` elements.
    pub(super) fn apply(&self, rows: &mut [f32], heads: usize, width: usize) {
        for (row, turns) in rows.chunks_exact_mut(heads * width).zip(self.turns.chunks_exact(self.pairs)) {
            for head in row.chunks_exact_mut(width) {
                let (pairs, _) = head.as_chunks_mut::<2>();
                for ([x, y], (cos, sin)) in pairs.iter_mut().zip(turns) {
                    (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                }
            }
        }
    }
}
