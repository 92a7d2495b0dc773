//! Rows of activations in 8 bits, for products with codes.

use crate::block::WIDTH;

/// Rows of activations. Each block of 32 has a scale.
#[derive(Debug)]
pub(crate) struct Activations {
    /// Blocks of a row.
    blocks: usize,
    /// The 32 signed bytes of a block, 4 in a number.
    codes: Vec<[i32; 8]>,
    scales: Vec<f32>,
    /// The sums of the codes of each half of a block.
    sums: Vec<[i32; 2]>,
}

/// Some of the rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) blocks: usize,
    pub(crate) codes: &'a [[i32; 8]],
    pub(crate) scales: &'a [f32],
    pub(crate) sums: &'a [[i32; 2]],
}

impl Activations {
    /// Rounds rows of that many columns, a multiple of 32.
    pub(crate) fn of(x: &[f32], columns: usize) -> Self {
        let (blocks, _) = x.as_chunks::<WIDTH>();
        let mut all = Self {
            blocks: columns / WIDTH,
            codes: vec![[0; 8]; blocks.len()],
            scales: vec![0.0; blocks.len()],
            sums: vec![[0; 2]; blocks.len()],
        };
        let into = all.codes.iter_mut().zip(&mut all.scales).zip(&mut all.sums);
        for (block, ((codes, scale), sums)) in blocks.iter().zip(into) {
            (*codes, *scale, *sums) = round(block);
        }
        all
    }

    /// The rows from `first` on.
    pub(crate) fn rows(&self, first: usize) -> View<'_> {
        let all = View { blocks: self.blocks, codes: &self.codes, scales: &self.scales, sums: &self.sums };
        all.from(first)
    }
}

impl View<'_> {
    /// The rows from `first` on.
    pub(crate) fn from(self, first: usize) -> Self {
        let at = first * self.blocks;
        Self { codes: &self.codes[at..], scales: &self.scales[at..], sums: &self.sums[at..], ..self }
    }
}

/// The codes of a block, its scale, and the sums of its halves.
#[inline]
fn round(block: &[f32; WIDTH]) -> ([i32; 8], f32, [i32; 2]) {
    /// Adding this to a number below 2^22 leaves the nearest integer in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    // As integers, numbers are ordered by their size, and what is not a number is above all: it is not lost.
    let mut largest = [0i32; 8];
    for eight in block.as_chunks::<8>().0 {
        for (largest, x) in largest.iter_mut().zip(eight) {
            *largest = (*largest).max(x.abs().to_bits().cast_signed());
        }
    }
    let largest = f32::from_bits(largest.iter().copied().fold(0, i32::max).cast_unsigned());
    let inverse = 127.0 / largest;
    if !inverse.is_normal() {
        // All are zero or too small for a scale, or one is infinite or not a number, as is then every product.
        return ([0; 8], if largest.is_finite() { 0.0 } else { f32::NAN }, [0; 2]);
    }
    let mut codes = [0i32; WIDTH];
    for (code, x) in codes.iter_mut().zip(block) {
        *code = (x * inverse + ROUNDING).to_bits().wrapping_sub(ROUNDING.to_bits()).cast_signed();
    }
    let fours = std::array::from_fn(|i| {
        i32::from_le_bytes(std::array::from_fn(|j| codes[4 * i + j].to_le_bytes()[0]))
    });
    (fours, largest / 127.0, [codes[..16].iter().sum(), codes[16..].iter().sum()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_rounded_to_the_nearest_codes() {
        let block: [f32; WIDTH] = std::array::from_fn(|i| (i as f32 - 12.0) * 0.37);
        let (fours, scale, sums) = round(&block);
        let codes: Vec<i32> = fours
            .iter()
            .flat_map(|four| four.to_le_bytes())
            .map(|code| i32::from(code.cast_signed()))
            .collect();
        for (code, x) in codes.iter().zip(block) {
            assert!((*code as f32 * scale - x).abs() <= scale * 0.501, "{x}: {code} * {scale}");
        }
        assert_eq!(sums, [codes[..16].iter().sum::<i32>(), codes[16..].iter().sum()]);
    }

    #[test]
    fn what_has_no_scale_is_zero_or_stays_not_a_number() {
        for tiny in [0.0, 1e-45, 1e-38] {
            assert_eq!(round(&[tiny; WIDTH]), ([0; 8], 0.0, [0; 2]), "{tiny}");
        }
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut block = [1.0; WIDTH];
            block[20] = broken;
            let (codes, scale, sums) = round(&block);
            assert!(codes == [0; 8] && scale.is_nan() && sums == [0; 2], "{broken}");
        }
        let (_, scale, sums) = round(&[f32::MAX; WIDTH]);
        assert!(scale.is_finite() && sums == [127 * 16; 2]);
    }
}
