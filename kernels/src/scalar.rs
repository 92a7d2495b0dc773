//! The products in plain Rust: for processors without the instructions of the others, and for the tests of these.

use half::{bf16, f16};

use crate::activations::View;
use crate::packed::{Chunk, Floats, Form, Lanes, Meaning, ROWS};

/// The products of a strip of codes with the first rows of `x`: `out[t][r]` is that of row `r` with row `t` of `x`.
pub(crate) fn codes(form: Form, chunks: &[Chunk], lanes: &[Lanes], x: View<'_>, out: &mut [[f32; ROWS]]) {
    out.fill([0.0; ROWS]);
    let blocks = chunks.chunks_exact(form.chunks()).zip(lanes.chunks_exact(form.lanes()));
    for (block, (chunks, lanes)) in blocks.enumerate() {
        let values: [[i16; 64]; 8] =
            std::array::from_fn(|four| std::array::from_fn(|byte| form.value(form.code(chunks, four, byte))));
        for (t, out) in out.iter_mut().enumerate() {
            let at = t * x.blocks + block;
            for (group, fours) in values.chunks_exact(form.group / 4).enumerate() {
                let mut products = [0i32; ROWS];
                for (values, x) in fours.iter().zip(&x.codes[at][group * form.group / 4..]) {
                    let x = x.to_le_bytes().map(|x| i32::from(x.cast_signed()));
                    for (product, values) in products.iter_mut().zip(values.as_chunks::<4>().0) {
                        *product += values.iter().zip(x).map(|(value, x)| i32::from(*value) * x).sum::<i32>();
                    }
                }
                let scales = lanes[group].0.map(|scale| f16::from_bits(scale).to_f32() * x.scales[at]);
                for (r, out) in out.iter_mut().enumerate() {
                    *out += products[r] as f32 * scales[r];
                }
                if form.meaning == Meaning::Offset {
                    let sum = form.sum(x.sums[at], group) as f32 * x.scales[at];
                    let offsets = lanes[form.lanes() / 2 + group].0;
                    for (out, offset) in out.iter_mut().zip(offsets) {
                        *out += f16::from_bits(offset).to_f32() * sum;
                    }
                }
            }
        }
    }
}

/// The products of a strip of floating-point numbers with rows of `x` that begin `stride` elements apart.
pub(crate) fn floats(strip: Floats<'_>, x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
    out.fill([0.0; ROWS]);
    for (t, out) in out.iter_mut().enumerate() {
        let x = &x[t * stride..][..strip.columns()];
        let mut add = |lanes: [f32; ROWS], x: f32| {
            for (out, lane) in out.iter_mut().zip(lanes) {
                *out += lane * x;
            }
        };
        match strip {
            Floats::F16(lanes) => {
                lanes
                    .iter()
                    .zip(x)
                    .for_each(|(lanes, x)| add(lanes.0.map(|x| f16::from_bits(x).to_f32()), *x));
            }
            Floats::Bf16(lanes) => {
                lanes
                    .iter()
                    .zip(x)
                    .for_each(|(lanes, x)| add(lanes.0.map(|x| bf16::from_bits(x).to_f32()), *x));
            }
            Floats::F32(lanes) => lanes.iter().zip(x).for_each(|(lanes, x)| add(lanes.0, *x)),
        }
    }
}
