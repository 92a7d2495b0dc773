//! The products in plain Rust: for processors without the instructions of the others, and for the tests of these.
//!
//! Their innermost loops go over the 16 rows of a strip, without a branch: the compiler makes vectors of them.

use crate::activations::View;
use crate::block::WIDTH;
use crate::packed::{Chunk, Floats, Form, Lanes, Meaning, ROWS, Wide};

/// Columns whose numbers are widened together, and then multiplied with each row of activations.
const PART: usize = 64;

/// The products of a strip of codes with the first rows of `x`: `out[t][r]` is that of row `r` with row `t` of `x`.
pub(crate) fn codes(form: Form, chunks: &[Chunk], lanes: &[Lanes], x: View<'_>, out: &mut [[f32; ROWS]]) {
    out.fill([0.0; ROWS]);
    let blocks = chunks.chunks_exact(form.chunks()).zip(lanes.chunks_exact(form.lanes()));
    for (block, (chunks, lanes)) in blocks.enumerate() {
        let columns = unpack(form, chunks);
        let (scales, offsets) = lanes.split_at(WIDTH / form.group);
        for (t, out) in out.iter_mut().enumerate() {
            let at = t * x.blocks + block;
            let fours = x.codes[at].chunks_exact(form.group / 4);
            for (group, (columns, fours)) in columns.chunks_exact(form.group).zip(fours).enumerate() {
                // Integers, so small that F32, of which every processor multiplies several at once, holds them exactly.
                let mut products = [0.0; ROWS];
                for (columns, four) in columns.as_chunks::<4>().0.iter().zip(fours) {
                    for (column, code) in columns.iter().zip(four.to_le_bytes()) {
                        add(&mut products, code.cast_signed().into(), *column);
                    }
                }
                add(out, x.scales[at], products.iter().zip(scales[group].0).map(|(p, s)| p * wide(s)));
                if form.meaning == Meaning::Offset {
                    let sum = form.sum(x.sums[at], group) as f32 * x.scales[at];
                    add(out, sum, offsets[group].0.map(wide));
                }
            }
        }
    }
}

/// What the codes of a block stand for, column by column.
fn unpack(form: Form, chunks: &[Chunk]) -> [[f32; ROWS]; WIDTH] {
    let mut columns = [[0.0; ROWS]; WIDTH];
    for (four, columns) in columns.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let values = form.codes(chunks, four).map(|code| f32::from(form.value(code)));
        for (row, values) in values.as_chunks::<4>().0.iter().enumerate() {
            for (column, value) in columns.iter_mut().zip(values) {
                column[row] = *value;
            }
        }
    }
    columns
}

/// The products of a strip of floating-point numbers with rows of `x` that begin `stride` elements apart.
pub(crate) fn floats(strip: Floats<'_>, x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
    out.fill([0.0; ROWS]);
    match strip {
        Floats::F16(lanes) => widened(lanes, wide, x, stride, out),
        Floats::Bf16(lanes) => widened(lanes, |bits| f32::from_bits(u32::from(bits) << 16), x, stride, out),
        Floats::F32(lanes) => part(lanes, x, stride, out),
    }
}

/// Adds the products of numbers that `widen` turns into F32.
fn widened(lanes: &[Lanes], widen: impl Fn(u16) -> f32, x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
    let mut room = [Wide([0.0; ROWS]); PART];
    for (index, lanes) in lanes.chunks(PART).enumerate() {
        for (room, lanes) in room.iter_mut().zip(lanes) {
            for (room, bits) in room.0.iter_mut().zip(lanes.0) {
                *room = widen(bits);
            }
        }
        part(&room[..lanes.len()], &x[index * PART..], stride, out);
    }
}

/// Adds the products of some columns.
fn part(lanes: &[Wide], x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
    for (t, out) in out.iter_mut().enumerate() {
        let mut sums = *out;
        for (lanes, x) in lanes.iter().zip(&x[t * stride..][..lanes.len()]) {
            add(&mut sums, *x, lanes.0);
        }
        *out = sums;
    }
}

/// Adds multiples of numbers.
#[inline]
fn add(sums: &mut [f32; ROWS], factor: f32, lanes: impl IntoIterator<Item = f32>) {
    for (sum, lane) in sums.iter_mut().zip(lanes) {
        *sum += factor * lane;
    }
}

/// A number in half precision, in single precision. [`half::f16`] decides case by case, of which no vectors are made.
#[inline]
fn wide(bits: u16) -> f32 {
    /// 2^112: so far apart are the exponents of both.
    const SCALE: f32 = f32::from_bits((112 + 127) << 23);
    let bits = u32::from(bits);
    let number = f32::from_bits((bits & 0x7fff) << 13) * SCALE;
    // What is infinite or not a number stays so.
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(number.to_bits() | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_in_half_precision_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (found, exact) = (wide(bits), half::f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == exact.to_bits() || found.is_nan() && exact.is_nan(), "{bits:#x}");
        }
    }
}
