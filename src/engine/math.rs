//! The operations between matrix products, on plain slices of `f32`.

use rayon::prelude::*;

/// Fewest rows of scores that are worth waking another thread for.
const ROWS_PER_TASK: usize = 16;

/// Root-mean-square norm (Zhang and Sennrich, 2019) of each row of `x`, as a new vector.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let squares: f32 = row.iter().map(|x| x * x).sum();
        let scale = (squares / weight.len() as f32 + epsilon).sqrt().recip();
        out.extend(row.iter().zip(weight).map(|(x, weight)| x * scale * weight));
    }
    out
}

/// Causal softmax of each row of `scores`, multiplied by `scale` first. For each head there are
/// `count` rows, one per consecutive position. A row sees the `past` positions before the first row
/// and the positions up to its own; its other elements become 0.
pub(super) fn causal_softmax(scores: &mut [f32], scale: f32, past: usize, count: usize) {
    let softmax = |(index, row): (usize, &mut [f32])| {
        let (visible, masked) = row.split_at_mut(past + index % count + 1);
        let largest = visible.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for score in visible.iter_mut() {
            *score = ((*score - largest) * scale).exp();
            sum += *score;
        }
        visible.iter_mut().for_each(|score| *score /= sum);
        masked.fill(0.0);
    };
    scores.par_chunks_exact_mut(past + count).enumerate().with_min_len(ROWS_PER_TASK).for_each(softmax);
}

/// Replaces `gate` by `silu(gate) * up` (SwiGLU; Shazeer, 2020).
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
