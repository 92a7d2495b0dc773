//! The types of weights in a file, and the blocks of those that have few bits.
//!
//! The layouts are ggml's (`ggml-common.h`, `dequantize_row_*` in `ggml-quants.c`).

use half::f16;

/// Columns of a [`Block`].
pub(crate) const WIDTH: usize = 32;

/// The values of the codes of `IQ4_NL` and `IQ4_XS` (`kvalues_iq4nl`).
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// A type of weights in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are ggml's names")]
pub enum Type {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

/// 32 neighbouring elements of a row. The element at `i` is `scale[i / 16] * value + offset[i / 16]`, where the value
/// is the code itself, or that of [`IQ4_VALUES`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) codes: [u8; WIDTH],
    pub(crate) scale: [f32; 2],
    pub(crate) offset: [f32; 2],
}

impl Type {
    /// Every type.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// Elements and bytes of a block in the file. A row is a whole number of blocks.
    #[must_use]
    pub const fn layout(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 | Self::Iq4Nl => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Iq4Xs => (256, 136),
        }
    }

    /// Bytes of a row of that many elements in the file.
    #[must_use]
    pub const fn row_bytes(self, columns: usize) -> usize {
        let (elements, bytes) = self.layout();
        columns / elements * bytes
    }

    /// The elements from `32 * index` on of a row of the file. The type has blocks.
    pub(crate) fn block(self, row: &[u8], index: usize) -> Block {
        let (elements, bytes) = self.layout();
        let part = index % (elements / WIDTH);
        let data = &row[index / (elements / WIDTH) * bytes..][..bytes];
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => unreachable!("{self:?} has no blocks"),
            Self::Q4_0 => about_zero(nibbles(&data[2..]), half(data, 0), 8),
            Self::Q4_1 => uniform(nibbles(&data[4..]), half(data, 0), half(data, 2)),
            Self::Q5_0 => about_zero(fifth_bits(nibbles(&data[6..]), &data[2..]), half(data, 0), 16),
            Self::Q5_1 => uniform(fifth_bits(nibbles(&data[8..]), &data[4..]), half(data, 0), half(data, 2)),
            Self::Q8_0 => about_zero(std::array::from_fn(|i| data[2 + i] ^ 0x80), half(data, 0), 128),
            Self::Q2K => q2k(data, part),
            Self::Q3K => q3k(data, part),
            Self::Q4K => {
                let (scale, least) = six_bits(&data[4..16], part);
                uniform(half_bytes(&data[16..], part), half(data, 0) * scale, -half(data, 2) * least)
            }
            Self::Q5K => {
                let (scale, least) = six_bits(&data[4..16], part);
                let mut codes = half_bytes(&data[48..], part);
                for (code, high) in codes.iter_mut().zip(&data[16..48]) {
                    *code |= (high >> part & 1) << 4;
                }
                uniform(codes, half(data, 0) * scale, -half(data, 2) * least)
            }
            Self::Q6K => q6k(data, part),
            Self::Iq4Nl => uniform(nibbles(&data[2..]), half(data, 0), 0.0),
            Self::Iq4Xs => {
                let low = data[4 + part / 2] >> (4 * (part % 2)) & 15;
                let high = u16::from_le_bytes([data[2], data[3]]) >> (2 * part) & 3;
                let scale = f32::from(u16::from(low) | high << 4) - 32.0;
                uniform(nibbles(&data[8 + 16 * part..]), half(data, 0) * scale, 0.0)
            }
        }
    }
}

fn half(data: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([data[at], data[at + 1]]).to_f32()
}

fn uniform(codes: [u8; WIDTH], scale: f32, offset: f32) -> Block {
    Block { codes, scale: [scale; 2], offset: [offset; 2] }
}

/// A block whose elements are the distances of the codes from a zero point.
fn about_zero(codes: [u8; WIDTH], scale: f32, point: u8) -> Block {
    uniform(codes, scale, -scale * f32::from(point))
}

/// 16 bytes whose lower halves are the first 16 codes, and whose upper halves are the others.
fn nibbles(data: &[u8]) -> [u8; WIDTH] {
    std::array::from_fn(|i| data[i % 16] >> (4 * (i / 16)) & 15)
}

/// The codes with their fifth bits, which lie one after the other.
fn fifth_bits(mut codes: [u8; WIDTH], high: &[u8]) -> [u8; WIDTH] {
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (high[i / 8] >> (i % 8) & 1) << 4;
    }
    codes
}

/// The lower halves of 32 bytes for an even part, the upper halves of the same for the odd one after it.
fn half_bytes(data: &[u8], part: usize) -> [u8; WIDTH] {
    std::array::from_fn(|i| data[32 * (part / 2) + i] >> (4 * (part % 2)) & 15)
}

/// The scale and the least value of a part of `Q4_K` and `Q5_K`, of 6 bits each.
fn six_bits(data: &[u8], part: usize) -> (f32, f32) {
    let (scale, least) = match part {
        0..4 => (data[part] & 63, data[part + 4] & 63),
        _ => (data[part + 4] & 15 | (data[part - 4] >> 6) << 4, data[part + 4] >> 4 | (data[part] >> 6) << 4),
    };
    (f32::from(scale), f32::from(least))
}

fn q2k(data: &[u8], part: usize) -> Block {
    let (scale, least) = (half(data, 80), half(data, 82));
    let quants = &data[16 + 32 * (part / 4)..];
    let both = |i: usize| data[2 * part + i];
    Block {
        codes: std::array::from_fn(|i| quants[i] >> (2 * (part % 4)) & 3),
        scale: [0, 1].map(|i| scale * f32::from(both(i) & 15)),
        offset: [0, 1].map(|i| -least * f32::from(both(i) >> 4)),
    }
}

fn q3k(data: &[u8], part: usize) -> Block {
    let (high, quants, scales) = (&data[..32], &data[32 + 32 * (part / 4)..], &data[96..108]);
    let scale = [0, 1].map(|i| {
        let at = 2 * part + i;
        let low = scales[at % 8] >> (4 * (at / 8)) & 15;
        let top = scales[8 + at % 4] >> (2 * (at / 4)) & 3;
        half(data, 108) * (f32::from(low | top << 4) - 32.0)
    });
    Block {
        codes: std::array::from_fn(|i| quants[i] >> (2 * (part % 4)) & 3 | (high[i] >> part & 1) << 2),
        scale,
        offset: scale.map(|scale| -4.0 * scale),
    }
}

fn q6k(data: &[u8], part: usize) -> Block {
    // Each half of 128 elements has 64 bytes of low bits and 32 of high ones.
    let (side, quarter) = (part / 4, part % 4);
    let (low, high) = (&data[64 * side..], &data[128 + 32 * side..]);
    let codes = std::array::from_fn(|i| {
        let low = low[32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
        low | (high[i] >> (2 * quarter) & 3) << 4
    });
    let scale = [0, 1].map(|i| half(data, 208) * f32::from(data[192 + 2 * part + i] as i8));
    Block { codes, scale, offset: scale.map(|scale| -32.0 * scale) }
}
