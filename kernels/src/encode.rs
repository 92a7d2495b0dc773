//! Weights in the types of files, for models that are made here: simply, and not as well as llama.cpp does it.

use half::{bf16, f16};

use crate::block::{IQ4_VALUES, Type};

/// Encodes elements, which fill whole blocks of the type, as they are in a file.
#[must_use]
pub fn encode(kind: Type, x: &[f32]) -> Vec<u8> {
    let (elements, bytes) = kind.layout();
    assert!(x.len().is_multiple_of(elements), "{} elements are not whole blocks of {kind:?}", x.len());
    let mut out = Vec::with_capacity(x.len() / elements * bytes);
    for block in x.chunks_exact(elements) {
        match kind {
            Type::F32 => out.extend(block[0].to_le_bytes()),
            Type::F16 => out.extend(f16::from_f32(block[0]).to_le_bytes()),
            Type::Bf16 => out.extend(bf16::from_f32(block[0]).to_le_bytes()),
            Type::Q4_0 => {
                let (codes, scale) = about_zero(block, 8);
                out.extend(scale.to_le_bytes());
                out.extend(nibbles(&codes));
            }
            Type::Q4_1 => {
                let (codes, scale, least) = from_least(block, 15);
                out.extend([scale.to_le_bytes(), least.to_le_bytes()].concat());
                out.extend(nibbles(&codes));
            }
            Type::Q5_0 => {
                let (codes, scale) = about_zero(block, 16);
                out.extend(scale.to_le_bytes());
                out.extend(fifth_bits(&codes));
                out.extend(nibbles(&codes));
            }
            Type::Q5_1 => {
                let (codes, scale, least) = from_least(block, 31);
                out.extend([scale.to_le_bytes(), least.to_le_bytes()].concat());
                out.extend(fifth_bits(&codes));
                out.extend(nibbles(&codes));
            }
            Type::Q8_0 => {
                let scale = f16::from_f32(largest(block) / 127.0);
                out.extend(scale.to_le_bytes());
                out.extend(block.iter().map(|x| ratio(*x, scale.to_f32()).round() as i8 as u8));
            }
            Type::Q2K => q2k(block, &mut out),
            Type::Q3K => q3k(block, &mut out),
            Type::Q4K | Type::Q5K => q45k(kind, block, &mut out),
            Type::Q6K => q6k(block, &mut out),
            Type::Iq4Nl => {
                let scale = f16::from_f32(largest(block) / 127.0);
                out.extend(scale.to_le_bytes());
                out.extend(nibbles(&table(block, scale.to_f32())));
            }
            Type::Iq4Xs => iq4xs(block, &mut out),
        }
    }
    out
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

fn ratio(x: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { x / scale }
}

/// The code nearest to `x`, at most `most`.
fn code(x: f32, most: u8) -> u8 {
    x.round().clamp(0.0, f32::from(most)) as u8
}

/// Codes around a zero point: the element that is largest has the code 0.
fn about_zero(block: &[f32], point: u8) -> (Vec<u8>, f16) {
    let extreme = block.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    let scale = f16::from_f32(-extreme / f32::from(point));
    let codes = block.iter().map(|x| code(ratio(*x, scale.to_f32()) + f32::from(point), 2 * point - 1));
    (codes.collect(), scale)
}

/// Codes from the least element on.
fn from_least(block: &[f32], most: u8) -> (Vec<u8>, f16, f16) {
    let (least, span) = span(block);
    let (scale, least) = (f16::from_f32(span / f32::from(most)), f16::from_f32(least));
    let codes = block.iter().map(|x| code(ratio(x - least.to_f32(), scale.to_f32()), most));
    (codes.collect(), scale, least)
}

/// The least element, and how far the others are above it.
fn span(block: &[f32]) -> (f32, f32) {
    let least = block.iter().copied().fold(f32::INFINITY, f32::min);
    (least, block.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least)
}

fn nibbles(codes: &[u8]) -> Vec<u8> {
    (0..16).map(|i| codes[i] & 15 | (codes[i + 16] & 15) << 4).collect()
}

fn fifth_bits(codes: &[u8]) -> [u8; 4] {
    let bits = codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4) << i);
    bits.to_le_bytes()
}

/// The codes of the nearest values of the table.
fn table(block: &[f32], scale: f32) -> Vec<u8> {
    let distance = |x: f32, code: u8| (x - f32::from(IQ4_VALUES[usize::from(code)])).abs();
    let nearest = |x: f32| (0..16).min_by(|a, b| distance(x, *a).total_cmp(&distance(x, *b))).unwrap_or(0);
    block.iter().map(|x| nearest(ratio(*x, scale))).collect()
}

/// Scales and least values of groups, as multiples of a common one; and the codes with these.
struct Groups {
    scale: f16,
    least: f16,
    /// Multiples for each group.
    scales: Vec<u8>,
    leasts: Vec<u8>,
    codes: Vec<u8>,
}

impl Groups {
    /// Groups of so many elements, with codes and multiples up to these. Values below the least are above 0, and no
    /// least value is above 0.
    fn of(block: &[f32], group: usize, most_code: u8, most_multiple: u8) -> Self {
        let spans: Vec<(f32, f32)> = block
            .chunks_exact(group)
            .map(|group| {
                let (least, span) = span(group);
                (least.min(0.0), span + least - least.min(0.0))
            })
            .collect();
        let most = f32::from(most_multiple);
        let scale = spans.iter().map(|(_, span)| span / f32::from(most_code)).fold(0.0, f32::max) / most;
        let least = spans.iter().map(|(least, _)| -least).fold(0.0, f32::max) / most;
        let (scale, least) = (f16::from_f32(scale), f16::from_f32(least));
        let multiple = |x: f32, unit: f16| code(ratio(x, unit.to_f32()), most_multiple);
        let scales: Vec<u8> =
            spans.iter().map(|(_, span)| multiple(span / f32::from(most_code), scale)).collect();
        let leasts: Vec<u8> = spans.iter().map(|(below, _)| multiple(-below, least)).collect();
        let codes = block.iter().enumerate().map(|(i, x)| {
            let (scales, leasts) = (f32::from(scales[i / group]), f32::from(leasts[i / group]));
            code(ratio(x + least.to_f32() * leasts, scale.to_f32() * scales), most_code)
        });
        let codes = codes.collect();
        Self { scale, least, scales, leasts, codes }
    }
}

fn q2k(block: &[f32], out: &mut Vec<u8>) {
    let Groups { scale, least, scales, leasts, codes } = Groups::of(block, 16, 3, 15);
    out.extend(scales.iter().zip(&leasts).map(|(scale, least)| scale | least << 4));
    out.extend(quarters(&codes));
    out.extend([scale.to_le_bytes(), least.to_le_bytes()].concat());
}

/// Two bits of each of 256 codes: a byte has those of four codes, which are 32 elements apart.
fn quarters(codes: &[u8]) -> Vec<u8> {
    codes
        .chunks_exact(128)
        .flat_map(|codes| {
            (0..32).map(|i| (0..4).fold(0, |byte, part| byte | (codes[32 * part + i] & 3) << (2 * part)))
        })
        .collect()
}

fn q45k(kind: Type, block: &[f32], out: &mut Vec<u8>) {
    let Groups { scale, least, scales, leasts, codes } =
        Groups::of(block, 32, if kind == Type::Q4K { 15 } else { 31 }, 63);
    out.extend([scale.to_le_bytes(), least.to_le_bytes()].concat());
    out.extend((0..4).map(|i| scales[i] | (scales[i + 4] >> 4) << 6));
    out.extend((0..4).map(|i| leasts[i] | (leasts[i + 4] >> 4) << 6));
    out.extend((4..8).map(|i| scales[i] & 15 | (leasts[i] & 15) << 4));
    if kind == Type::Q5K {
        out.extend((0..32).map(|i| (0..8).fold(0, |byte, part| byte | (codes[32 * part + i] >> 4) << part)));
    }
    for pair in codes.chunks_exact(64) {
        out.extend((0..32).map(|i| pair[i] & 15 | (pair[32 + i] & 15) << 4));
    }
}

/// Scales of groups of 16 about zero as signed multiples of a common one, and the codes with these.
fn signed_groups(block: &[f32], group: usize, point: u8, most: i8) -> (f16, Vec<i8>, Vec<u8>) {
    let wanted: Vec<f32> = block
        .chunks_exact(group)
        .map(|group| {
            let extreme = group.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
            -extreme / f32::from(point)
        })
        .collect();
    let scale = f16::from_f32(largest(&wanted) / f32::from(most));
    let scales: Vec<i8> = wanted.iter().map(|wanted| ratio(*wanted, scale.to_f32()).round() as i8).collect();
    let codes = block.iter().enumerate().map(|(i, x)| {
        code(ratio(*x, scale.to_f32() * f32::from(scales[i / group])) + f32::from(point), 2 * point - 1)
    });
    let codes = codes.collect();
    (scale, scales, codes)
}

fn q3k(block: &[f32], out: &mut Vec<u8>) {
    let (scale, scales, codes) = signed_groups(block, 16, 4, 31);
    let scales: Vec<u8> = scales.iter().map(|scale| (scale + 32) as u8).collect();
    out.extend((0..32).map(|i| (0..8).fold(0, |byte, part| byte | (codes[32 * part + i] >> 2) << part)));
    out.extend(quarters(&codes));
    out.extend((0..8).map(|i| scales[i] & 15 | (scales[i + 8] & 15) << 4));
    out.extend((0..4).map(|i| (0..4).fold(0, |byte, part| byte | (scales[i + 4 * part] >> 4) << (2 * part))));
    out.extend(scale.to_le_bytes());
}

fn q6k(block: &[f32], out: &mut Vec<u8>) {
    let (scale, scales, codes) = signed_groups(block, 16, 32, 127);
    for half in codes.chunks_exact(128) {
        out.extend((0..64).map(|i| half[i] & 15 | (half[64 + i] & 15) << 4));
    }
    for half in codes.chunks_exact(128) {
        out.extend(
            (0..32).map(|i| (0..4).fold(0, |byte, part| byte | (half[32 * part + i] >> 4) << (2 * part))),
        );
    }
    out.extend(scales.iter().map(|scale| scale.cast_unsigned()));
    out.extend(scale.to_le_bytes());
}

fn iq4xs(block: &[f32], out: &mut Vec<u8>) {
    let wanted: Vec<f32> = block.chunks_exact(32).map(|group| largest(group) / 127.0).collect();
    let scale = f16::from_f32(largest(&wanted) / 31.0);
    let scales: Vec<u8> = wanted.iter().map(|wanted| 32 + code(ratio(*wanted, scale.to_f32()), 31)).collect();
    out.extend(scale.to_le_bytes());
    let high =
        scales.iter().enumerate().fold(0u16, |bits, (i, scale)| bits | u16::from(scale >> 4) << (2 * i));
    out.extend(high.to_le_bytes());
    out.extend((0..4).map(|i| scales[2 * i] & 15 | (scales[2 * i + 1] & 15) << 4));
    for (group, multiple) in block.chunks_exact(32).zip(&scales) {
        out.extend(nibbles(&table(group, scale.to_f32() * (f32::from(*multiple) - 32.0))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Builder;

    #[test]
    fn what_is_encoded_is_read_back_within_the_precision_of_its_type() {
        let (rows, columns) = (19, 512);
        let x: Vec<f32> =
            (0..rows * columns).map(|i| ((i * i) as f32 * 0.37).sin() * (1.0 + (i % 300) as f32)).collect();
        for kind in Type::ALL {
            let mut builder = Builder::new(kind, rows, columns).unwrap();
            builder.push(&encode(kind, &x));
            let matrix = builder.finish();
            let mut row = vec![0.0; columns];
            let (mut error, mut norm) = (0.0, 0.0);
            for (index, expected) in x.chunks_exact(columns).enumerate() {
                matrix.row(index, &mut row);
                error += row.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
                norm += expected.iter().map(|x| x * x).sum::<f32>();
            }
            let (error, (elements, bytes)) = ((error / norm).sqrt(), kind.layout());
            // A bit more halves the error. Half a bit is of the scales.
            let bits = 8.0 * bytes as f32 / elements as f32;
            let expected = 1.6 * 0.5f32.powf((bits - 0.5).floor().min(9.0)) + 1e-9;
            assert!(error < expected, "{kind:?}: {error}, {expected}");
        }
    }
}
