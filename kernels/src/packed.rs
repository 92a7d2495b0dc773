//! The form in which weights are in memory: 16 rows side by side.
//!
//! A *strip* is 16 rows. For floating-point weights it is the 16 numbers of its first column, those of its second,
//! and so on. For codes it is a row of blocks of 32 columns. A block has chunks of 64 bytes, in which each row has 4
//! bytes. Codes of 8 bits take 8 chunks, each with the next 4 columns. Of narrower codes the lower half of chunk `j`
//! of the first 4 has the low bits of the columns from `4 * j` on, the upper half those from `16 + 4 * j` on; the
//! fifth bits of all columns share one more chunk, fifth and sixth bits two.

use half::f16;

use crate::block::{Block, IQ4_VALUES, Type, WIDTH};

/// Rows of a strip.
pub(crate) const ROWS: usize = 16;

/// 64 bytes of codes, in one line of the processor's cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub(crate) [u8; 64]);

/// A 16-bit number for each row of a strip.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Lanes(pub(crate) [u16; ROWS]);

/// A number in single precision for each row of a strip.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Wide(pub(crate) [f32; ROWS]);

/// The columns of a strip of floating-point numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats<'a> {
    F16(&'a [Lanes]),
    Bf16(&'a [Lanes]),
    F32(&'a [Wide]),
}

#[cfg(target_arch = "x86_64")]
impl Floats<'_> {
    pub(crate) fn columns(self) -> usize {
        match self {
            Self::F16(lanes) | Self::Bf16(lanes) => lanes.len(),
            Self::F32(lanes) => lanes.len(),
        }
    }
}

/// How codes are stored, and what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Bits of a code: 4, 5, 6 or 8; so many chunks has a block.
    pub(crate) bits: usize,
    /// Columns that share a scale: 16 or 32.
    pub(crate) group: usize,
    pub(crate) meaning: Meaning,
}

/// What a code stands for, before the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Its distance from a zero point.
    Zero(u8),
    /// Itself; an offset is added after the scale.
    Offset,
    /// An element of [`IQ4_VALUES`].
    Table,
}

/// Calls `$rows` with what a form says as constants: bits, columns that share a scale, whether an offset is added, and
/// whether codes are of the table. A form without such a kernel takes `$otherwise`.
#[cfg(target_arch = "x86_64")]
macro_rules! by_form {
    ($form:expr, $rows:ident $arguments:tt, $otherwise:expr) => {
        match ($form.bits, $form.group, $form.meaning) {
            (4, 32, $crate::packed::Meaning::Zero(_)) => $rows::<4, 32, false, false> $arguments,
            (4, 32, $crate::packed::Meaning::Offset) => $rows::<4, 32, true, false> $arguments,
            (4, 32, $crate::packed::Meaning::Table) => $rows::<4, 32, false, true> $arguments,
            (4, 16, $crate::packed::Meaning::Zero(_)) => $rows::<4, 16, false, false> $arguments,
            (4, 16, $crate::packed::Meaning::Offset) => $rows::<4, 16, true, false> $arguments,
            (5, 32, $crate::packed::Meaning::Zero(_)) => $rows::<5, 32, false, false> $arguments,
            (5, 32, $crate::packed::Meaning::Offset) => $rows::<5, 32, true, false> $arguments,
            (6, 16, $crate::packed::Meaning::Zero(_)) => $rows::<6, 16, false, false> $arguments,
            (8, 32, $crate::packed::Meaning::Zero(_)) => $rows::<8, 32, false, false> $arguments,
            _ => $otherwise,
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use by_form;

impl Form {
    /// The form of a type's codes; none for floating-point numbers.
    pub(crate) const fn of(kind: Type) -> Option<Self> {
        let (bits, group, meaning) = match kind {
            Type::F32 | Type::F16 | Type::Bf16 => return None,
            Type::Q4_0 => (4, 32, Meaning::Zero(8)),
            Type::Q4_1 | Type::Q4K => (4, 32, Meaning::Offset),
            Type::Q5_0 => (5, 32, Meaning::Zero(16)),
            Type::Q5_1 | Type::Q5K => (5, 32, Meaning::Offset),
            Type::Q8_0 => (8, 32, Meaning::Zero(128)),
            Type::Q2K => (4, 16, Meaning::Offset),
            Type::Q3K => (4, 16, Meaning::Zero(4)),
            Type::Q6K => (6, 16, Meaning::Zero(32)),
            Type::Iq4Nl | Type::Iq4Xs => (4, 32, Meaning::Table),
        };
        Some(Self { bits, group, meaning })
    }

    pub(crate) const fn chunks(self) -> usize {
        self.bits
    }

    /// Lanes of a block: the scales, then the offsets.
    pub(crate) const fn lanes(self) -> usize {
        WIDTH / self.group * if matches!(self.meaning, Meaning::Offset) { 2 } else { 1 }
    }

    /// What a code stands for, before the scale and the offset.
    pub(crate) fn value(self, code: u8) -> i16 {
        match self.meaning {
            Meaning::Zero(point) => i16::from(code) - i16::from(point),
            Meaning::Offset => i16::from(code),
            Meaning::Table => i16::from(IQ4_VALUES[usize::from(code)]),
        }
    }

    /// Writes a block of one row.
    pub(crate) fn write(self, chunks: &mut [Chunk], lanes: &mut [Lanes], row: usize, block: &Block) {
        for (column, &code) in block.codes.iter().enumerate() {
            let (four, byte) = (column / 4, 4 * row + column % 4);
            if self.bits == 8 {
                chunks[four].0[byte] = code;
                continue;
            }
            chunks[four % 4].0[byte] |= (code & 15) << (4 * (four / 4));
            match self.bits {
                5 => chunks[4].0[byte] |= (code >> 4) << four,
                6 => chunks[4 + four / 4].0[byte] |= (code >> 4) << (2 * (four % 4)),
                _ => {}
            }
        }
        let groups = WIDTH / self.group;
        for group in 0..groups {
            lanes[group].0[row] = f16::from_f32(block.scale[group]).to_bits();
            if self.meaning == Meaning::Offset {
                lanes[groups + group].0[row] = f16::from_f32(block.offset[group]).to_bits();
            }
        }
    }

    /// The sum of the activations of a group, of the sums of both halves of a block.
    pub(crate) fn sum(self, halves: [i32; 2], group: usize) -> i32 {
        if self.group == WIDTH { halves[0] + halves[1] } else { halves[group] }
    }

    /// Chunk `four` of a block whose codes had 8 bits.
    pub(crate) fn codes(self, chunks: &[Chunk], four: usize) -> [u8; 64] {
        if self.bits == 8 {
            return chunks[four].0;
        }
        let mut codes = chunks[four % 4].0;
        for code in &mut codes {
            *code = *code >> (4 * (four / 4)) & 15;
        }
        let (high, shift, mask) = match self.bits {
            5 => (chunks[4], four, 1),
            6 => (chunks[4 + four / 4], 2 * (four % 4), 3),
            _ => return codes,
        };
        for (code, high) in codes.iter_mut().zip(high.0) {
            *code |= (high >> shift & mask) << 4;
        }
        codes
    }

    /// Reads the 32 elements of one row of a block.
    pub(crate) fn read(self, chunks: &[Chunk], lanes: &[Lanes], row: usize) -> [f32; WIDTH] {
        let groups = WIDTH / self.group;
        let codes: [[u8; 64]; 8] = std::array::from_fn(|four| self.codes(chunks, four));
        std::array::from_fn(|column| {
            let code = codes[column / 4][4 * row + column % 4];
            let group = column / self.group;
            let lane = |at: usize| f16::from_bits(lanes[at].0[row]).to_f32();
            let offset = if self.meaning == Meaning::Offset { lane(groups + group) } else { 0.0 };
            lane(group) * f32::from(self.value(code)) + offset
        })
    }
}
