//! The products with AVX2, FMA and F16C: a strip's 16 rows are the lanes of two registers.

#![expect(unsafe_code, reason = "loads and stores of registers take pointers")]

use std::arch::x86_64::*;

use crate::activations::View;
use crate::block::IQ4_VALUES;
use crate::packed::{Chunk, Floats, Form, Lanes, Meaning, ROWS, Wide, by_form};

/// How many bytes of weights ahead are fetched: the processor alone does not look far enough, and waits for memory.
pub(crate) const PREFETCHED: usize = 4 << 10;
/// Bytes of a line of the processor's cache.
const LINE: usize = 64;

/// Fetches what lies so many times the length of `part` after it, if there is something.
#[inline(always)]
pub(crate) fn prefetch<T>(part: &[T], ahead: usize) {
    let start = part.as_ptr().wrapping_add(ahead * part.len()).cast::<i8>();
    for at in (0..size_of_val(part)).step_by(LINE) {
        // SAFETY: a fetch ahead reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at)) };
    }
}

/// As [`crate::scalar::codes`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn codes(form: Form, chunks: &[Chunk], lanes: &[Lanes], x: View<'_>, out: &mut [[f32; ROWS]]) {
    // Codes of 8 bits are made signed when they are loaded, and those of the table are.
    let point = match form.meaning {
        Meaning::Zero(point) if form.bits < 8 => point.into(),
        _ => 0,
    };
    by_form!(form, rows(point, chunks, lanes, x, out), crate::scalar::codes(form, chunks, lanes, x, out));
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn rows<const BITS: usize, const GROUP: usize, const OFFSET: bool, const TABLE: bool>(
    point: i32,
    chunks: &[Chunk],
    lanes: &[Lanes],
    x: View<'_>,
    out: &mut [[f32; ROWS]],
) {
    let mut first = 0;
    while first < out.len() {
        let left = out.len() - first;
        let part = x.from(first);
        first += match left {
            4.. => tile::<BITS, GROUP, OFFSET, TABLE, 4>(point, chunks, lanes, part, &mut out[first..]),
            2.. => tile::<BITS, GROUP, OFFSET, TABLE, 2>(point, chunks, lanes, part, &mut out[first..]),
            _ => tile::<BITS, GROUP, OFFSET, TABLE, 1>(point, chunks, lanes, part, &mut out[first..]),
        };
    }
}

/// The first `T` rows of activations. Returns `T`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tile<const BITS: usize, const GROUP: usize, const OFFSET: bool, const TABLE: bool, const T: usize>(
    point: i32,
    chunks: &[Chunk],
    lanes: &[Lanes],
    x: View<'_>,
    out: &mut [[f32; ROWS]],
) -> usize {
    let groups = 32 / GROUP;
    let lanes_of_block = if OFFSET { 2 * groups } else { groups };
    for side in 0..2 {
        let mut total = [_mm256_setzero_ps(); T];
        let blocks = chunks.chunks_exact(BITS).zip(lanes.chunks_exact(lanes_of_block));
        for (block, (chunks, lanes)) in blocks.enumerate() {
            // The second side finds them in the cache.
            if side == 0 {
                let ahead = PREFETCHED / (BITS * size_of::<Chunk>());
                prefetch(chunks, ahead);
                prefetch(lanes, ahead);
            }
            let codes = unpack::<BITS, TABLE>(chunks, side);
            for (t, total) in total.iter_mut().enumerate() {
                let at = t * x.blocks + block;
                let (x_codes, x_scale, x_sums) = (&x.codes[at], x.scales[at], x.sums[at]);
                for group in 0..groups {
                    let sum = if groups == 2 { x_sums[group] } else { x_sums[0] + x_sums[1] };
                    let mut dot = _mm256_set1_epi32(-point * sum);
                    for four in group * GROUP / 4..(group + 1) * GROUP / 4 {
                        let x = _mm256_set1_epi32(x_codes[four]);
                        // Codes of 8 bits are signed here: the sum of two products of unsigned ones exceeds 16 bits.
                        let pairs = if BITS == 8 || TABLE {
                            _mm256_maddubs_epi16(
                                _mm256_abs_epi8(codes[four]),
                                _mm256_sign_epi8(x, codes[four]),
                            )
                        } else {
                            _mm256_maddubs_epi16(codes[four], x)
                        };
                        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                    }
                    let scale = _mm256_mul_ps(load_lanes(&lanes[group], side), _mm256_set1_ps(x_scale));
                    *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, *total);
                    if OFFSET {
                        let weight = _mm256_set1_ps(sum as f32 * x_scale);
                        *total = _mm256_fmadd_ps(load_lanes(&lanes[groups + group], side), weight, *total);
                    }
                }
            }
        }
        for (out, total) in out.iter_mut().zip(total) {
            // SAFETY: each half of `out` has room for 8 lanes.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * side), total) };
        }
    }
    T
}

#[target_feature(enable = "avx2")]
#[inline]
fn unpack<const BITS: usize, const TABLE: bool>(chunks: &[Chunk], side: usize) -> [__m256i; 8] {
    if BITS == 8 {
        let sign = _mm256_set1_epi8(-128);
        return std::array::from_fn(|four| _mm256_xor_si256(load(&chunks[four], side), sign));
    }
    let low = _mm256_set1_epi8(15);
    std::array::from_fn(|four| {
        let chunk = load(&chunks[four % 4], side);
        let chunk = if four < 4 { chunk } else { _mm256_srli_epi16::<4>(chunk) };
        let code = _mm256_and_si256(chunk, low);
        match BITS {
            5 => {
                let high = load(&chunks[4], side);
                let high = if four < 4 { shift_left(high, 4 - four) } else { shift_right(high, four - 4) };
                _mm256_or_si256(code, _mm256_and_si256(high, _mm256_set1_epi8(16)))
            }
            6 => {
                let high = load(&chunks[4 + four / 4], side);
                let at = 2 * (four % 4);
                let high = if at < 4 { shift_left(high, 4 - at) } else { shift_right(high, at - 4) };
                _mm256_or_si256(code, _mm256_and_si256(high, _mm256_set1_epi8(48)))
            }
            _ if TABLE => {
                // SAFETY: the table has 16 bytes.
                let table = unsafe { _mm_loadu_si128(IQ4_VALUES.as_ptr().cast()) };
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), code)
            }
            _ => code,
        }
    })
}

#[target_feature(enable = "avx2")]
#[inline]
fn shift_left(x: __m256i, bits: usize) -> __m256i {
    _mm256_sll_epi16(x, _mm_cvtsi32_si128(bits as i32))
}

#[target_feature(enable = "avx2")]
#[inline]
fn shift_right(x: __m256i, bits: usize) -> __m256i {
    _mm256_srl_epi16(x, _mm_cvtsi32_si128(bits as i32))
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(chunk: &Chunk, side: usize) -> __m256i {
    // SAFETY: a chunk has two halves of 32 bytes, and is aligned.
    unsafe { _mm256_load_si256(chunk.0.as_ptr().add(32 * (side & 1)).cast()) }
}

#[target_feature(enable = "avx2,f16c")]
#[inline]
fn load_lanes(lanes: &Lanes, side: usize) -> __m256 {
    // SAFETY: lanes have two halves of 16 bytes, and are aligned.
    _mm256_cvtph_ps(unsafe { _mm_load_si128(lanes.0.as_ptr().add(8 * (side & 1)).cast()) })
}

/// As [`crate::scalar::floats`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn floats(strip: Floats<'_>, x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
    let mut first = 0;
    while first < out.len() {
        let (x, out) = (&x[first * stride..], &mut out[first..]);
        first += match out.len() {
            4.. => float_tile::<4, 1>(strip, x, stride, out),
            2.. => float_tile::<2, 2>(strip, x, stride, out),
            _ => float_tile::<1, 4>(strip, x, stride, out),
        };
    }
}

/// The first `T` rows of `x`, summed up in `U` parts, which do not wait for each other. Returns `T`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn float_tile<const T: usize, const U: usize>(
    strip: Floats<'_>,
    x: &[f32],
    stride: usize,
    out: &mut [[f32; ROWS]],
) -> usize {
    let mut parts = [[[_mm256_setzero_ps(); 2]; T]; U];
    let x: [*const f32; T] = std::array::from_fn(|t| x[t * stride..][..strip.columns()].as_ptr());
    macro_rules! add {
        ($lanes:ident, $load:ident) => {{
            let (chunks, rest) = $lanes.as_chunks::<U>();
            for (chunk, lanes) in chunks.iter().enumerate() {
                prefetch(lanes, PREFETCHED / size_of_val(lanes));
                for u in 0..U {
                    let weights = $load(&lanes[u]);
                    for t in 0..T {
                        // SAFETY: each row of `x` has as many elements as there are lanes.
                        let x = _mm256_set1_ps(unsafe { *x[t].add(U * chunk + u) });
                        for side in 0..2 {
                            parts[u][t][side] = _mm256_fmadd_ps(weights[side], x, parts[u][t][side]);
                        }
                    }
                }
            }
            for (u, lanes) in rest.iter().enumerate() {
                let weights = $load(lanes);
                for t in 0..T {
                    // SAFETY: as above.
                    let x = _mm256_set1_ps(unsafe { *x[t].add(U * chunks.len() + u) });
                    for side in 0..2 {
                        parts[0][t][side] = _mm256_fmadd_ps(weights[side], x, parts[0][t][side]);
                    }
                }
            }
        }};
    }
    match strip {
        Floats::F16(lanes) => add!(lanes, load_f16),
        Floats::Bf16(lanes) => add!(lanes, load_bf16),
        Floats::F32(lanes) => add!(lanes, load_wide),
    }
    for (t, out) in out.iter_mut().enumerate().take(T) {
        for side in 0..2 {
            let total = parts.iter().fold(_mm256_setzero_ps(), |sum, part| _mm256_add_ps(sum, part[t][side]));
            // SAFETY: each half of `out` has room for 8 lanes.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * side), total) };
        }
    }
    T
}

#[target_feature(enable = "avx2,f16c")]
#[inline]
fn load_f16(lanes: &Lanes) -> [__m256; 2] {
    [load_lanes(lanes, 0), load_lanes(lanes, 1)]
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_bf16(lanes: &Lanes) -> [__m256; 2] {
    // SAFETY: lanes have two halves of 16 bytes, and are aligned.
    let half = |side: usize| unsafe { _mm_load_si128(lanes.0.as_ptr().add(8 * side).cast()) };
    let wide = |side: usize| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half(side))));
    [wide(0), wide(1)]
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_wide(lanes: &Wide) -> [__m256; 2] {
    // SAFETY: wide lanes have two halves of 32 bytes, and are aligned.
    unsafe { [_mm256_load_ps(lanes.0.as_ptr()), _mm256_load_ps(lanes.0.as_ptr().add(8))] }
}
