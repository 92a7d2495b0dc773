//! The forward pass of the llama architecture: from tokens to the logits of the next one.

#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};

use super::cache::Cache;
use super::config::Config;
use super::ops;
use super::rope::Rope;
use super::weights::Matrix;
use crate::error::{Code, Failure, Result};

/// Most tokens that go through the layers together.
const MOST_ROWS: usize = 256;
/// Fewest, however long the context is.
const FEWEST_ROWS: usize = 8;
/// Attention scores that are in memory together, where `FEWEST_ROWS` allows (64 MiB of them).
const MOST_SCORES: usize = 16 << 20;

/// A loaded model. It is read-only; whoever generates has a [`Cache`] of their own.
#[derive(Debug)]
pub struct Model {
    pub(super) config: Config,
    pub(super) vocabulary: usize,
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    pub(super) output: Matrix,
    pub(super) rope: Rope,
}

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    pub(super) attention_output: Matrix,
    pub(super) feed_forward_norm: Vec<f32>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

impl Model {
    /// The context that the model was trained for, in tokens.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.config.context_length
    }

    /// How many tokens the model knows, and so how many logits there are.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocabulary
    }

    /// Bytes that each token in a [`Cache`] takes.
    #[must_use]
    pub fn cache_bytes_per_token(&self) -> usize {
        let width = self.config.kv_heads * (self.config.key_length + self.config.value_length);
        self.config.layers * width * size_of::<f32>()
    }

    /// An empty cache for up to `capacity` tokens. It takes memory as it fills.
    #[must_use]
    pub fn cache(&self, capacity: usize) -> Cache {
        Cache::new(&self.config, capacity).expect("an empty tensor on the CPU can always be made")
    }

    /// Takes `tokens` in behind those that the cache has, and answers the logits, one per token of
    /// the vocabulary, of what follows the last of them.
    ///
    /// # Errors
    /// `invalid_request` where there is no token, one is not of the vocabulary, or they do not fit
    /// the cache; it then keeps what it had. After any other failure the cache may have taken some.
    pub fn forward(&self, tokens: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        let refused = |message| Err(Failure::new(Code::InvalidRequest, message).stage("generate"));
        if tokens.is_empty() {
            return refused("there is no token to continue".to_owned());
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            return refused(format!("token {token} is not one of the model's {}", self.vocabulary));
        }
        let (len, capacity) = (cache.len(), cache.capacity());
        if tokens.len() > capacity.saturating_sub(len) {
            return refused(format!(
                "{} more tokens do not fit a context of {capacity} that has {len}",
                tokens.len()
            ));
        }
        self.take_in(tokens, cache).map_err(|error| {
            Failure::internal("the engine failed to compute").stage("generate").detail(error)
        })
    }

    fn take_in(&self, mut tokens: &[u32], cache: &mut Cache) -> candle_core::Result<Vec<f32>> {
        loop {
            let most = MOST_SCORES / self.config.heads / (cache.len() + MOST_ROWS);
            let (some, rest) = tokens.split_at(most.clamp(FEWEST_ROWS, MOST_ROWS).min(tokens.len()));
            let x = self.layers(some, cache)?;
            if rest.is_empty() {
                let last = &x[x.len() - self.config.embedding..];
                let last = ops::rms_norm(last, &self.norm, self.config.rms_epsilon);
                return vector(&self.output.forward(&rows(last, self.config.embedding)?)?);
            }
            tokens = rest;
        }
    }

    /// Takes tokens through all layers; answers the residual stream, a row per token.
    fn layers(&self, tokens: &[u32], cache: &mut Cache) -> candle_core::Result<Vec<f32>> {
        let width = self.config.embedding;
        let epsilon = self.config.rms_epsilon;
        let turns = self.rope.turns(cache.len(), tokens.len());
        let mut x = self.embedding.rows(tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let h = rows(ops::rms_norm(&x, &layer.attention_norm, epsilon), width)?;
            let mut query = vector(&layer.query.forward(&h)?)?;
            let mut key = vector(&layer.key.forward(&h)?)?;
            turns.apply(&mut query, self.config.heads, self.config.key_length);
            turns.apply(&mut key, self.config.kv_heads, self.config.key_length);
            let mixed = self.attend(index, query, key, &layer.value.forward(&h)?, cache)?;
            ops::add(&mut x, &vector(&layer.attention_output.forward(&mixed)?)?);

            let h = rows(ops::rms_norm(&x, &layer.feed_forward_norm, epsilon), width)?;
            let mut gate = vector(&layer.gate.forward(&h)?)?;
            ops::swiglu(&mut gate, &vector(&layer.up.forward(&h)?)?);
            let gate = rows(gate, self.config.feed_forward)?;
            ops::add(&mut x, &vector(&layer.down.forward(&gate)?)?);
        }
        cache.advance(tokens.len());
        Ok(x)
    }

    /// Attention of one layer. `query`, `key` and `value` have a row per new token, the heads side
    /// by side; so has the answer. Query heads that share a key head are computed as one matrix.
    fn attend(
        &self,
        layer: usize,
        query: Vec<f32>,
        key: Vec<f32>,
        value: &Tensor,
        cache: &mut Cache,
    ) -> candle_core::Result<Tensor> {
        let &Config { heads, kv_heads, key_length, value_length, .. } = &self.config;
        let (past, count) = (cache.len(), value.dim(0)?);
        let by_head =
            |x: Tensor, heads, width| x.reshape((count, heads, width))?.transpose(0, 1)?.contiguous();
        let query = by_head(rows(query, heads * key_length)?, heads, key_length)?;
        let key = by_head(rows(key, kv_heads * key_length)?, kv_heads, key_length)?;
        let value = by_head(value.clone(), kv_heads, value_length)?;
        let (keys, values) = cache.append(layer, &key, &value)?;

        let shared = heads / kv_heads * count;
        let query = query.reshape((kv_heads, shared, key_length))?;
        let mut scores = vector(&query.matmul(&keys.t()?)?)?;
        ops::causal_softmax(&mut scores, (key_length as f32).sqrt().recip(), past, count);
        let scores = Tensor::from_vec(scores, (kv_heads, shared, past + count), &Device::Cpu)?;
        let mixed = scores.matmul(&values)?.reshape((heads, count, value_length))?;
        mixed.transpose(0, 1)?.contiguous()?.reshape((count, heads * value_length))
    }
}

/// A slice of rows as a matrix.
fn rows(x: Vec<f32>, width: usize) -> candle_core::Result<Tensor> {
    let rows = x.len() / width;
    Tensor::from_vec(x, (rows, width), &Device::Cpu)
}

/// A tensor's elements, row by row.
fn vector(x: &Tensor) -> candle_core::Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}
