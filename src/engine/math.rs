//! The steps between matrix products, on plain slices of `f32`.

use rayon::prelude::*;

/// Rows for which it is not worth waking another thread.
const ROWS_PER_TASK: usize = 16;

/// Root-mean-square norm (Zhang and Sennrich, 2019) of each row of `x`, as a new slice.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let squares: f32 = row.iter().map(|x| x * x).sum();
        let scale = (squares / weight.len() as f32 + epsilon).sqrt().recip();
        out.extend(row.iter().zip(weight).map(|(x, weight)| x * scale * weight));
    }
    out
}

/// Softmax of each row of `scores` after `scale`, where the rows are `count` consecutive positions,
/// once for every head, and each sees the `past` positions before them and those up to its own.
/// What a row may not see becomes 0.
pub(super) fn causal_softmax(scores: &mut [f32], scale: f32, past: usize, count: usize) {
    let softmax = |(index, row): (usize, &mut [f32])| {
        let (seen, unseen) = row.split_at_mut(past + index % count + 1);
        let largest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for score in seen.iter_mut() {
            *score = ((*score - largest) * scale).exp();
            sum += *score;
        }
        seen.iter_mut().for_each(|score| *score /= sum);
        unseen.fill(0.0);
    };
    scores.par_chunks_exact_mut(past + count).enumerate().with_min_len(ROWS_PER_TASK).for_each(softmax);
}

/// `silu(gate) * up`, in the place of `gate` (SwiGLU; Shazeer, 2020).
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

/// Adds `y` to `x`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
