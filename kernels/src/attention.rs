//! The keys and values of a sequence, and attention to them (Vaswani et al., 2017), with fewer heads of keys than of
//! queries (Ainslie et al., 2023) and with a window (Beltagy et al., 2020).
//!
//! Keys and values are in half precision, in strips as weights are: the keys of 16 tokens side by side, and 16
//! elements of a value. The scores are products of queries with keys, the result those of the scores with values.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use crate::math::softmax;
use crate::packed::{Floats, Lanes, ROWS};
use crate::processor::Processor;

/// Rows of queries that a thread takes at once.
const SHARE: usize = 16;
/// Fewest products of numbers that are worth another thread.
const MIN_PRODUCTS: usize = 1 << 18;

/// The keys and values of one layer of a sequence.
#[derive(Clone, Debug)]
pub struct LayerCache {
    key_length: usize,
    value_length: usize,
    heads: Vec<Head>,
}

/// Those of one head.
#[derive(Clone, Debug, Default)]
struct Head {
    /// Strips of 16 tokens.
    keys: Vec<Lanes>,
    /// Strips of 16 elements; each has a number for each token.
    values: Vec<Vec<Lanes>>,
}

/// How queries attend.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads of queries: a multiple of the heads of keys.
    pub heads: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many tokens a token sees, itself among them; none for all before it.
    pub window: Option<usize>,
}

impl LayerCache {
    /// An empty cache for so many tokens. It takes memory as it fills.
    #[must_use]
    pub fn new(heads: usize, key_length: usize, value_length: usize, tokens: usize) -> Self {
        let head = |_| Head {
            keys: reserved(tokens.div_ceil(ROWS).saturating_mul(key_length)),
            values: (0..value_length.div_ceil(ROWS)).map(|_| reserved(tokens)).collect(),
        };
        Self { key_length, value_length, heads: (0..heads).map(head).collect() }
    }

    /// Bytes that each token takes.
    #[must_use]
    pub const fn bytes_per_token(heads: usize, key_length: usize, value_length: usize) -> usize {
        heads * (key_length + value_length.next_multiple_of(ROWS)) * size_of::<u16>()
    }

    /// Writes the keys and values of tokens from the position `at` on, over those that are there. Both have a row per
    /// token, with the heads side by side.
    pub fn write(&mut self, at: usize, keys: &[f32], values: &[f32]) {
        let (key_width, value_width) =
            (self.heads.len() * self.key_length, self.heads.len() * self.value_length);
        let tokens = keys.chunks_exact(key_width).zip(values.chunks_exact(value_width));
        for (position, (keys, values)) in (at..).zip(tokens) {
            let parts = keys.chunks_exact(self.key_length).zip(values.chunks_exact(self.value_length));
            for (head, (key, value)) in self.heads.iter_mut().zip(parts) {
                head.write(position, key, value);
            }
        }
    }

    /// The attention of queries of consecutive tokens, of which the first has the position `past`. `query` has a row
    /// per token, with the heads side by side, and so has the result. The keys and values of the tokens themselves
    /// have been written.
    #[must_use]
    pub fn attend(&self, query: &[f32], past: usize, how: &Attention) -> Vec<f32> {
        self.attend_on(Processor::this(), query, past, how)
    }

    fn attend_on(&self, processor: Processor, query: &[f32], past: usize, how: &Attention) -> Vec<f32> {
        let group = how.heads / self.heads.len();
        let count = query.len() / (how.heads * self.key_length);
        let share = (SHARE / group).clamp(1, count.max(1));
        let shares: Vec<(usize, Range<usize>)> = (0..self.heads.len())
            .flat_map(|head| {
                (0..count).step_by(share).map(move |first| (head, first..count.min(first + share)))
            })
            .collect();
        let part = |(head, tokens): &(usize, Range<usize>)| {
            self.part(processor, *head, query, tokens.clone(), past, how)
        };
        let products = count * how.heads * (past + count) * (self.key_length + self.value_length);
        let parts: Vec<Vec<f32>> = match products < MIN_PRODUCTS {
            true => shares.iter().map(part).collect(),
            false => shares.par_iter().map(part).collect(),
        };
        let width = how.heads * self.value_length;
        let mut out = vec![0.0; count * width];
        for ((head, tokens), part) in shares.into_iter().zip(parts) {
            let columns = head * group * self.value_length..(head + 1) * group * self.value_length;
            for (token, part) in tokens.zip(part.chunks_exact(columns.len())) {
                out[token * width..][columns.clone()].copy_from_slice(part);
            }
        }
        out
    }

    /// The attention of some tokens' queries to one head: a row per token, with the heads of queries side by side.
    fn part(
        &self,
        processor: Processor,
        head: usize,
        query: &[f32],
        tokens: Range<usize>,
        past: usize,
        how: &Attention,
    ) -> Vec<f32> {
        let (key_length, value_length) = (self.key_length, self.value_length);
        let (group, head) = (how.heads / self.heads.len(), (head, &self.heads[head]));
        let (index, head) = head;
        let mut queries = Vec::with_capacity(tokens.len() * group * key_length);
        for row in query.chunks_exact(how.heads * key_length).take(tokens.end).skip(tokens.start) {
            let row = &row[index * group * key_length..][..group * key_length];
            queries.extend(row.iter().map(|x| x * how.scale));
        }
        let visible = |token: usize| {
            let end = past + token + 1;
            how.window.map_or(0, |window| end.saturating_sub(window))..end
        };
        let (first, end) = (visible(tokens.start).start / ROWS * ROWS, visible(tokens.end - 1).end);
        let rows = tokens.len() * group;
        let stride = (end - first).next_multiple_of(ROWS);
        let mut scores = vec![0.0; rows * stride];
        let mut products = vec![[0.0; ROWS]; rows];
        for strip in 0..stride / ROWS {
            let keys = &head.keys[(first / ROWS + strip) * key_length..][..key_length];
            processor.floats(Floats::F16(keys), &queries, key_length, &mut products);
            for (scores, products) in scores.chunks_exact_mut(stride).zip(&products) {
                scores[strip * ROWS..][..ROWS].copy_from_slice(products);
            }
        }
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let visible = visible(tokens.start + row / group);
            softmax(scores, visible.start - first..visible.end - first);
        }
        let mut out = vec![0.0; rows * value_length];
        for (strip, values) in head.values.iter().enumerate() {
            processor.floats(Floats::F16(&values[first..end]), &scores, stride, &mut products);
            for (out, products) in out.chunks_exact_mut(value_length).zip(&products) {
                let out = &mut out[strip * ROWS..value_length.min((strip + 1) * ROWS)];
                out.copy_from_slice(&products[..out.len()]);
            }
        }
        out
    }
}

/// Room for so many lanes, which the system gives as they are written: a vector that grew would be copied, and have
/// pieces of memory left over. Where there is no such room, it grows all the same.
fn reserved(count: usize) -> Vec<Lanes> {
    let mut lanes = Vec::new();
    lanes.try_reserve_exact(count).ok();
    lanes
}

impl Head {
    fn write(&mut self, position: usize, key: &[f32], value: &[f32]) {
        const EMPTY: Lanes = Lanes([0; ROWS]);
        let start = position / ROWS * key.len();
        if self.keys.len() < start + key.len() {
            self.keys.resize(start + key.len(), EMPTY);
        }
        for (lanes, x) in self.keys[start..].iter_mut().zip(key) {
            lanes.0[position % ROWS] = f16::from_f32(*x).to_bits();
        }
        for (values, value) in self.values.iter_mut().zip(value.chunks(ROWS)) {
            if values.len() <= position {
                values.resize(position + 1, EMPTY);
            }
            for (lane, x) in values[position].0.iter_mut().zip(value) {
                *lane = f16::from_f32(*x).to_bits();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 that look random.
    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        (0..count as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(97)) >> 8) as f32)
            .map(|x| x / (1 << 23) as f32 - 1.0)
            .collect()
    }

    #[test]
    fn attention_is_what_its_definition_says_on_every_processor() {
        for (heads, kv_heads, key, value, window) in
            [(4, 2, 16, 16, None), (3, 1, 24, 40, None), (2, 2, 8, 20, Some(5)), (6, 3, 64, 64, Some(33))]
        {
            let total = 53;
            let keys = numbers(1, total * kv_heads * key);
            let values = numbers(2, total * kv_heads * value);
            let query = numbers(3, total * heads * key);
            let how = Attention { heads, scale: 0.7, window };
            let mut cache = LayerCache::new(kv_heads, key, value, total);
            // What is written first is written over.
            cache.write(0, &values.repeat(3)[..9 * kv_heads * key], &keys.repeat(3)[..9 * kv_heads * value]);
            cache.write(0, &keys, &values);
            for (past, count) in [(0, total), (0, 1), (50, 1), (20, 17), (31, 22)] {
                let rows = &query[past * heads * key..][..count * heads * key];
                let expected: Vec<f32> = (0..count * heads)
                    .flat_map(|row| {
                        let (position, head) = (past + row / heads, row % heads / (heads / kv_heads));
                        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                        let query = &rows[row * key..][..key];
                        let weights: Vec<f32> = (first..=position)
                            .map(|seen| {
                                let key = &keys[(seen * kv_heads + head) * key..][..key];
                                (query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() * 0.7).exp()
                            })
                            .collect();
                        let sum: f32 = weights.iter().sum();
                        let values = &values;
                        (0..value)
                            .map(move |i| {
                                let value = |seen: usize| values[(seen * kv_heads + head) * value + i];
                                (first..).zip(&weights).map(|(seen, weight)| weight / sum * value(seen)).sum()
                            })
                            .collect::<Vec<f32>>()
                    })
                    .collect();
                for processor in Processor::all() {
                    let found = cache.attend_on(processor, rows, past, &how);
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found - expected).abs() < 2e-3, "{processor:?}: {found}, {expected}");
                    }
                }
            }
        }
    }
}
