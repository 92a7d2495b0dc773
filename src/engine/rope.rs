//! Rotary position embeddings (Su et al., 2021).

/// The rotation frequency of each pair.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    /// Radians per position, one per pair.
    frequencies: Vec<f64>,
    /// Whether the elements of a pair are neighbours. Else the first is in the first half of the elements that are
    /// rotated, and the second at the same place in the other half.
    neighbours: bool,
}

/// The rotations of consecutive positions.
pub(super) struct Rotations {
    /// Cosine and sine, position by position, pair by pair.
    cos_sin: Vec<(f32, f32)>,
    pairs: usize,
    neighbours: bool,
}

impl Rope {
    /// `factors` divide the frequencies pair by pair: Llama 3's `rope_freqs.weight`.
    pub(super) fn new(base: f64, scaling_factor: f64, factors: &[f32], neighbours: bool) -> Self {
        let dimensions = 2.0 * factors.len() as f64;
        let frequency = |(pair, &factor): (usize, &f32)| {
            base.powf(-2.0 * pair as f64 / dimensions) / f64::from(factor) / scaling_factor
        };
        Self { frequencies: factors.iter().enumerate().map(frequency).collect(), neighbours }
    }

    /// The rotations of these positions. Angles are computed in `f64`: at position 100,000 an `f32` is off by more
    /// than a hundredth of a radian.
    pub(super) fn rotations(&self, positions: impl IntoIterator<Item = usize>) -> Rotations {
        let rotation = |position: usize, frequency: f64| {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (cos as f32, sin as f32)
        };
        let cos_sin = positions
            .into_iter()
            .flat_map(|position| self.frequencies.iter().map(move |&frequency| rotation(position, frequency)))
            .collect();
        Rotations { cos_sin, pairs: self.frequencies.len(), neighbours: self.neighbours }
    }
}

impl Rotations {
    /// Rotates every head of `rows`, which has one row per position, of `heads` heads of `width`
    /// elements each.
    pub(super) fn apply(&self, rows: &mut [f32], heads: usize, width: usize) {
        let rotations = self.cos_sin.chunks_exact(self.pairs);
        for (row, rotations) in rows.chunks_exact_mut(heads * width).zip(rotations) {
            for head in row.chunks_exact_mut(width) {
                if self.neighbours {
                    for ([x, y], rotation) in head.as_chunks_mut::<2>().0.iter_mut().zip(rotations) {
                        turn(x, y, *rotation);
                    }
                } else {
                    let (first, second) = head.split_at_mut(self.pairs);
                    for ((x, y), rotation) in first.iter_mut().zip(second).zip(rotations) {
                        turn(x, y, *rotation);
                    }
                }
            }
        }
    }
}

fn turn(x: &mut f32, y: &mut f32, (cos, sin): (f32, f32)) {
    (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
}
