//! The products with AVX-512 and its VNNI: a strip's 16 rows are the 16 lanes of a register.

#![expect(unsafe_code, reason = "loads and stores of registers take pointers")]

use std::arch::x86_64::*;

use crate::activations::View;
use crate::avx2::{PREFETCHED, prefetch};
use crate::block::IQ4_VALUES;
use crate::packed::{Chunk, Floats, Form, Lanes, Meaning, ROWS, Wide, by_form};

/// As [`crate::scalar::codes`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) fn codes(form: Form, chunks: &[Chunk], lanes: &[Lanes], x: View<'_>, out: &mut [[f32; ROWS]]) {
    let point = match form.meaning {
        Meaning::Zero(point) => point.into(),
        Meaning::Offset => 0,
        // See `table`.
        Meaning::Table => 127,
    };
    by_form!(form, rows(point, chunks, lanes, x, out), crate::scalar::codes(form, chunks, lanes, x, out));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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
            8.. => tile::<BITS, GROUP, OFFSET, TABLE, 8>(point, chunks, lanes, part, &mut out[first..]),
            4.. => tile::<BITS, GROUP, OFFSET, TABLE, 4>(point, chunks, lanes, part, &mut out[first..]),
            2.. => tile::<BITS, GROUP, OFFSET, TABLE, 2>(point, chunks, lanes, part, &mut out[first..]),
            _ => tile::<BITS, GROUP, OFFSET, TABLE, 1>(point, chunks, lanes, part, &mut out[first..]),
        };
    }
}

/// The first `T` rows of activations. Returns `T`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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
    let mut total = [_mm512_setzero_ps(); T];
    let blocks = chunks.chunks_exact(BITS).zip(lanes.chunks_exact(lanes_of_block));
    for (block, (chunks, lanes)) in blocks.enumerate() {
        let ahead = PREFETCHED / (BITS * size_of::<Chunk>());
        prefetch(chunks, ahead);
        prefetch(lanes, ahead);
        let codes = unpack::<BITS, TABLE>(chunks);
        for (t, total) in total.iter_mut().enumerate() {
            let at = t * x.blocks + block;
            let (x_codes, x_scale, x_sums) = (&x.codes[at], x.scales[at], x.sums[at]);
            for group in 0..groups {
                let sum = if groups == 2 { x_sums[group] } else { x_sums[0] + x_sums[1] };
                let mut dot = _mm512_set1_epi32(if OFFSET { 0 } else { -point * sum });
                for four in group * GROUP / 4..(group + 1) * GROUP / 4 {
                    dot = _mm512_dpbusd_epi32(dot, codes[four], _mm512_set1_epi32(x_codes[four]));
                }
                let scale = _mm512_mul_ps(load_lanes(&lanes[group]), _mm512_set1_ps(x_scale));
                *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, *total);
                if OFFSET {
                    let weight = _mm512_set1_ps(sum as f32 * x_scale);
                    *total = _mm512_fmadd_ps(load_lanes(&lanes[groups + group]), weight, *total);
                }
            }
        }
    }
    for (out, total) in out.iter_mut().zip(total) {
        // SAFETY: `out` has room for the 16 lanes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
    }
    T
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn unpack<const BITS: usize, const TABLE: bool>(chunks: &[Chunk]) -> [__m512i; 8] {
    if BITS == 8 {
        return std::array::from_fn(|four| load(&chunks[four]));
    }
    let low = _mm512_set1_epi8(15);
    let table = _mm512_broadcast_i32x4(table());
    std::array::from_fn(|four| {
        let chunk = load(&chunks[four % 4]);
        let chunk = if four < 4 { chunk } else { _mm512_srli_epi16::<4>(chunk) };
        let code = _mm512_and_si512(chunk, low);
        match BITS {
            5 => {
                let high = load(&chunks[4]);
                let high = if four < 4 { shift_left(high, 4 - four) } else { shift_right(high, four - 4) };
                _mm512_or_si512(code, _mm512_and_si512(high, _mm512_set1_epi8(16)))
            }
            6 => {
                let high = load(&chunks[4 + four / 4]);
                let at = 2 * (four % 4);
                let high = if at < 4 { shift_left(high, 4 - at) } else { shift_right(high, at - 4) };
                _mm512_or_si512(code, _mm512_and_si512(high, _mm512_set1_epi8(48)))
            }
            _ if TABLE => _mm512_shuffle_epi8(table, code),
            _ => code,
        }
    })
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn shift_left(x: __m512i, bits: usize) -> __m512i {
    _mm512_sll_epi16(x, _mm_cvtsi32_si128(bits as i32))
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn shift_right(x: __m512i, bits: usize) -> __m512i {
    _mm512_srl_epi16(x, _mm_cvtsi32_si128(bits as i32))
}

/// The table's values, 127 above what they are.
#[target_feature(enable = "sse2")]
#[inline]
fn table() -> __m128i {
    let values: [u8; 16] = IQ4_VALUES.map(|value| (i16::from(value) + 127) as u8);
    // SAFETY: the array has 16 bytes.
    unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(chunk: &Chunk) -> __m512i {
    // SAFETY: a chunk has 64 bytes, and is aligned to them.
    unsafe { _mm512_load_si512(chunk.0.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_lanes(lanes: &Lanes) -> __m512 {
    // SAFETY: lanes have 32 bytes, and are aligned to them.
    _mm512_cvtph_ps(unsafe { _mm256_load_si256(lanes.0.as_ptr().cast()) })
}

/// As [`crate::scalar::floats`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn floats(strip: Floats<'_>, x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
    let mut first = 0;
    while first < out.len() {
        let (x, out) = (&x[first * stride..], &mut out[first..]);
        first += match out.len() {
            8.. => float_tile::<8, 1>(strip, x, stride, out),
            4.. => float_tile::<4, 2>(strip, x, stride, out),
            2.. => float_tile::<2, 4>(strip, x, stride, out),
            _ => float_tile::<1, 8>(strip, x, stride, out),
        };
    }
}

/// The first `T` rows of `x`, summed up in `U` parts, which do not wait for each other. Returns `T`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn float_tile<const T: usize, const U: usize>(
    strip: Floats<'_>,
    x: &[f32],
    stride: usize,
    out: &mut [[f32; ROWS]],
) -> usize {
    let mut parts = [[_mm512_setzero_ps(); T]; U];
    let x: [*const f32; T] = std::array::from_fn(|t| x[t * stride..][..strip.columns()].as_ptr());
    macro_rules! sum {
        ($lanes:ident, $load:ident) => {{
            let (chunks, rest) = $lanes.as_chunks::<U>();
            let mut k = 0;
            for lanes in chunks {
                prefetch(lanes, PREFETCHED / size_of_val(lanes));
                for u in 0..U {
                    let weights = $load(&lanes[u]);
                    for t in 0..T {
                        // SAFETY: each row of `x` has as many elements as there are lanes.
                        let x = unsafe { *x[t].add(k + u) };
                        parts[u][t] = _mm512_fmadd_ps(weights, _mm512_set1_ps(x), parts[u][t]);
                    }
                }
                k += U;
            }
            for (u, lanes) in rest.iter().enumerate() {
                let weights = $load(lanes);
                for t in 0..T {
                    // SAFETY: as above.
                    let x = unsafe { *x[t].add(k + u) };
                    parts[0][t] = _mm512_fmadd_ps(weights, _mm512_set1_ps(x), parts[0][t]);
                }
            }
        }};
    }
    match strip {
        Floats::F16(lanes) => sum!(lanes, load_lanes),
        Floats::Bf16(lanes) => sum!(lanes, load_bf16),
        Floats::F32(lanes) => sum!(lanes, load_wide),
    }
    for (t, out) in out.iter_mut().enumerate().take(T) {
        let total = parts.iter().fold(_mm512_setzero_ps(), |total, part| _mm512_add_ps(total, part[t]));
        // SAFETY: `out` has room for the 16 lanes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
    }
    T
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load_bf16(lanes: &Lanes) -> __m512 {
    // SAFETY: lanes have 32 bytes, and are aligned to them.
    let lanes = unsafe { _mm256_load_si256(lanes.0.as_ptr().cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(lanes)))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_wide(lanes: &Wide) -> __m512 {
    // SAFETY: wide lanes have 64 bytes, and are aligned to them.
    unsafe { _mm512_load_ps(lanes.0.as_ptr()) }
}
