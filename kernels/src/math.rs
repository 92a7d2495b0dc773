//! The operations between the products.

use crate::processor::Processor;

/// Elements that are worked on at the same time.
const WIDTH: usize = 16;

/// Root-mean-square norm (Zhang and Sennrich, 2019) of each row of `x`, as a new vector.
#[must_use]
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = x.to_vec();
    rms_norm_in_place(&mut out, weight, epsilon);
    out
}

/// As [`rms_norm`], in the place of the rows.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) {
    Processor::this().run(
        #[inline(always)]
        || {
            for row in x.chunks_exact_mut(weight.len()) {
                let scale = (sum(row, |x| x * x) / weight.len() as f32 + epsilon).sqrt().recip();
                for (x, weight) in row.iter_mut().zip(weight) {
                    *x = *x * scale * weight;
                }
            }
        },
    );
}

/// Adds `y` to `x`.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Replaces `gate` by `silu(gate) * up` (`SwiGLU`; Shazeer, 2020).
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    Processor::this().run(
        #[inline(always)]
        || {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate / (1.0 + exp(-*gate)) * up;
            }
        },
    );
}

/// Replaces `gate` by `gelu(gate) * up`, with the approximation of GELU by a tangent (Hendrycks and Gimpel, 2016).
pub fn geglu(gate: &mut [f32], up: &[f32]) {
    const ROOT: f32 = 0.797_884_6;
    Processor::this().run(
        #[inline(always)]
        || {
            for (gate, up) in gate.iter_mut().zip(up) {
                let x = *gate;
                // (1 + tanh(y)) / 2 is 1 / (1 + exp(-2 y)).
                let y = ROOT * (x + 0.044_715 * x * x * x);
                *gate = x / (1.0 + exp(-2.0 * y)) * up;
            }
        },
    );
}

/// Softmax of the elements in `visible`; the others become 0.
pub(crate) fn softmax(row: &mut [f32], visible: std::ops::Range<usize>) {
    Processor::this().run(
        #[inline(always)]
        || {
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
            let row = &mut row[visible];
            let largest = maximum(row);
            for x in row.iter_mut() {
                *x = exp(*x - largest);
            }
            let scale = sum(row, |x| x).recip();
            for x in row.iter_mut() {
                *x *= scale;
            }
        },
    );
}

/// The largest element, without regard to NaN; negative infinity where there is none.
#[must_use]
pub fn largest(x: &[f32]) -> f32 {
    Processor::this().run(
        #[inline(always)]
        || maximum(x),
    )
}

/// The sum of what `of` makes of each element, in parts that do not wait for each other.
#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<WIDTH>();
    let mut parts = [0.0f32; WIDTH];
    for chunk in chunks {
        for (part, x) in parts.iter_mut().zip(chunk) {
            *part += of(*x);
        }
    }
    parts.iter().sum::<f32>() + rest.iter().map(|x| of(*x)).sum::<f32>()
}

#[inline(always)]
fn maximum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<WIDTH>();
    let mut parts = [f32::NEG_INFINITY; WIDTH];
    for chunk in chunks {
        for (part, x) in parts.iter_mut().zip(chunk) {
            *part = part.max(*x);
        }
    }
    parts.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The exponential function, within 3 units in the last place. Outside of what F32 can hold it gives the least or the
/// greatest.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding this to a number below 2^22 leaves the nearest integer in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    /// The natural logarithm of 2 in two parts; the product of the first with a small integer is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.0, 88.0);
    // e^x is 2^n e^r, with |r| at most ln(2) / 2.
    let rounded = x * std::f32::consts::LOG2_E + ROUNDING;
    let n = rounded - ROUNDING;
    let r = x - n * LN_2[0] - n * LN_2[1];
    // The power series of e^r.
    let series = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0));
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * series))));
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    series * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_function_is_close_to_the_exact_one() {
        for step in -8600..8700 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 4e-7, "{x}: {error}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn softmax_sees_only_what_is_visible() {
        let mut row: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let visible = 3..41;
        let total: f32 = row[visible.clone()].iter().map(|x| x.exp()).sum();
        let expected: Vec<f32> = row.iter().map(|x| x.exp() / total).collect();
        softmax(&mut row, visible.clone());
        for (i, (found, expected)) in row.iter().zip(expected).enumerate() {
            let expected = if visible.contains(&i) { expected } else { 0.0 };
            assert!((found - expected).abs() < 1e-6, "{i}");
        }
    }

    #[test]
    fn the_largest_element_is_found_wherever_it_is() {
        for len in [1, 15, 16, 17, 50] {
            for at in 0..len {
                let mut row = vec![f32::NAN; len];
                row[len / 2] = f32::NEG_INFINITY;
                row[at] = -3.0;
                assert_eq!(largest(&row), -3.0, "{at} of {len}");
            }
        }
        assert_eq!(largest(&[f32::NAN; 20]), f32::NEG_INFINITY);
    }

    #[test]
    fn activations_are_close_to_their_definitions() {
        let x: Vec<f32> = (-60..60).map(|i| i as f32 / 8.0).collect();
        let up = vec![2.0; x.len()];
        let (mut silu, mut gelu) = (x.clone(), x.clone());
        swiglu(&mut silu, &up);
        geglu(&mut gelu, &up);
        for (i, &x) in x.iter().enumerate() {
            let exact = 2.0 * x / (1.0 + (-x).exp());
            assert!((silu[i] - exact).abs() < 1e-5, "{x}");
            let exact = x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x.powi(3))).tanh());
            assert!((gelu[i] - exact).abs() < 1e-5, "{x}");
        }
    }
}
