//! The forward pass of the llama architecture: from tokens to the logits of the next token.

#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};

use super::hyperparameters::Hyperparameters;
use super::kv_cache::KvCache;
use super::math;
use super::pooling::Pooling;
use super::rope::Rope;
use super::weights::Matrix;
use crate::error::{Code, Failure, Result};

/// Most tokens that go through the layers as one batch.
const MAX_BATCH: usize = 256;
/// Fewest tokens of a batch, however long the context is.
const MIN_BATCH: usize = 8;
/// Most attention scores in memory at once, as far as `MIN_BATCH` allows (64 MiB of them).
const MAX_SCORES: usize = 16 << 20;

/// A loaded model. It is read-only; each sequence has a [`KvCache`] of its own.
#[derive(Debug)]
pub struct LlamaModel {
    pub(super) hyperparameters: Hyperparameters,
    pub(super) vocab_size: usize,
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<TransformerLayer>,
    pub(super) norm: Vec<f32>,
    pub(super) output: Matrix,
    pub(super) rope: Rope,
}

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct TransformerLayer {
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

impl LlamaModel {
    /// The context that the model was trained for, in tokens.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.hyperparameters.context_length
    }

    /// How many tokens the vocabulary has, which is the number of logits.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Bytes that each token takes in a [`KvCache`].
    #[must_use]
    pub fn cache_bytes_per_token(&self) -> usize {
        let width = self.hyperparameters.key_width() + self.hyperparameters.value_width();
        self.hyperparameters.layers * width * size_of::<f32>()
    }

    /// An empty cache for up to `capacity` tokens. It takes memory as it fills.
    #[must_use]
    pub fn cache(&self, capacity: usize) -> KvCache {
        KvCache::new(&self.hyperparameters, capacity).expect("an empty tensor on the CPU can always be made")
    }

    /// How the model makes an embedding of a text, if it is an embedding model.
    #[must_use]
    pub fn pooling(&self) -> Option<Pooling> {
        self.hyperparameters.pooling
    }

    /// The length of a token's state, and of an embedding.
    #[must_use]
    pub fn width(&self) -> usize {
        self.hyperparameters.embedding_length
    }

    /// Evaluates `tokens` as the continuation of those in the cache, and adds them to it. Returns the
    /// logits of the token after the last, one logit per token of the vocabulary.
    ///
    /// # Errors
    /// `invalid_request` if `tokens` is empty, has a token outside the vocabulary or does not fit the
    /// cache; the cache then stays as it was. After any other failure it may hold some of the tokens.
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        let mut last = Vec::new();
        self.evaluate(tokens, cache, |x| last = x)?;
        self.logits(&last).map_err(failed)
    }

    /// Evaluates `tokens` like [`forward`](Self::forward). Returns their states, a row per token.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn states(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        let mut states = Vec::new();
        self.evaluate(tokens, cache, |x| states.extend(self.normed(&x)))?;
        Ok(states)
    }

    /// Runs the tokens through the layers in batches. `take` gets the residual stream of each, a row per token.
    fn evaluate(
        &self,
        mut tokens: &[u32],
        cache: &mut KvCache,
        mut take: impl FnMut(Vec<f32>),
    ) -> Result<()> {
        self.check(tokens, cache)?;
        while !tokens.is_empty() {
            let most = batch(self.hyperparameters.heads, cache.len());
            let (batch, rest) = tokens.split_at(most.min(tokens.len()));
            take(self.layers(batch, cache).map_err(failed)?);
            tokens = rest;
        }
        Ok(())
    }

    /// Refuses tokens that cannot be evaluated.
    fn check(&self, tokens: &[u32], cache: &KvCache) -> Result<()> {
        let refused = |message| Err(Failure::new(Code::InvalidRequest, message).stage("generate"));
        if tokens.is_empty() {
            return refused("there are no tokens to evaluate".to_owned());
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocab_size) {
            return refused(format!("token {token} is not one of the model's {} tokens", self.vocab_size));
        }
        let (len, capacity) = (cache.len(), cache.capacity());
        if tokens.len() > capacity.saturating_sub(len) {
            return refused(format!(
                "{} more tokens do not fit: the context has {capacity} tokens, of which {len} are taken",
                tokens.len()
            ));
        }
        Ok(())
    }

    /// The logits after the last row of a residual stream.
    fn logits(&self, x: &[f32]) -> candle_core::Result<Vec<f32>> {
        let width = self.width();
        vector(&self.output.forward(&rows(self.normed(&x[x.len() - width..]), width)?)?)
    }

    fn normed(&self, x: &[f32]) -> Vec<f32> {
        math::rms_norm(x, &self.norm, self.hyperparameters.rms_epsilon)
    }

    /// Runs a batch of tokens through all layers. Returns the residual stream, a row per token.
    fn layers(&self, tokens: &[u32], cache: &mut KvCache) -> candle_core::Result<Vec<f32>> {
        let &Hyperparameters { embedding_length: width, rms_epsilon: epsilon, .. } = &self.hyperparameters;
        let rotations = self.rope.rotations(cache.len(), tokens.len());
        let mut x = self.embedding.rows(tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let h = rows(math::rms_norm(&x, &layer.attention_norm, epsilon), width)?;
            let mut query = vector(&layer.query.forward(&h)?)?;
            let mut key = vector(&layer.key.forward(&h)?)?;
            rotations.apply(&mut query, self.hyperparameters.heads, self.hyperparameters.key_length);
            rotations.apply(&mut key, self.hyperparameters.kv_heads, self.hyperparameters.key_length);
            let attention = self.attend(index, query, key, &layer.value.forward(&h)?, cache)?;
            math::add(&mut x, &vector(&layer.attention_output.forward(&attention)?)?);

            let h = rows(math::rms_norm(&x, &layer.feed_forward_norm, epsilon), width)?;
            let mut gate = vector(&layer.gate.forward(&h)?)?;
            math::swiglu(&mut gate, &vector(&layer.up.forward(&h)?)?);
            let gate = rows(gate, self.hyperparameters.feed_forward_length)?;
            math::add(&mut x, &vector(&layer.down.forward(&gate)?)?);
        }
        cache.advance(tokens.len());
        Ok(x)
    }

    /// The attention of one layer. `query`, `key` and `value` have a row per new token, with the heads
    /// side by side, and so has the result. Query heads that share a key head are one matrix.
    fn attend(
        &self,
        layer: usize,
        query: Vec<f32>,
        key: Vec<f32>,
        value: &Tensor,
        cache: &mut KvCache,
    ) -> candle_core::Result<Tensor> {
        let &Hyperparameters { heads, kv_heads, key_length, value_length, .. } = &self.hyperparameters;
        let (past, count) = (cache.len(), value.dim(0)?);
        let by_head =
            |x: Tensor, heads, width| x.reshape((count, heads, width))?.transpose(0, 1)?.contiguous();
        let query = by_head(rows(query, heads * key_length)?, heads, key_length)?;
        let key = by_head(rows(key, kv_heads * key_length)?, kv_heads, key_length)?;
        let value = by_head(value.clone(), kv_heads, value_length)?;
        let (keys, values) = cache.append(layer, &key, &value)?;

        let grouped = heads / kv_heads * count;
        let query = query.reshape((kv_heads, grouped, key_length))?;
        let mut scores = vector(&query.matmul(&keys.t()?)?)?;
        math::causal_softmax(&mut scores, (key_length as f32).sqrt().recip(), past, count);
        let scores = Tensor::from_vec(scores, (kv_heads, grouped, past + count), &Device::Cpu)?;
        let attention = scores.matmul(&values)?.reshape((heads, count, value_length))?;
        attention.transpose(0, 1)?.contiguous()?.reshape((count, heads * value_length))
    }
}

fn failed(error: candle_core::Error) -> Failure {
    Failure::internal("the engine failed to evaluate the tokens").stage("generate").detail(error)
}

/// Tokens that go through the layers as one batch, behind so many in the cache.
fn batch(heads: usize, cached: usize) -> usize {
    (MAX_SCORES / heads.max(1) / cached.saturating_add(MAX_BATCH)).clamp(MIN_BATCH, MAX_BATCH)
}

/// The most bytes that the attention scores take while a prompt fills a context: they are in memory twice, as
/// the product and as the numbers that the softmax is made of.
pub(crate) fn score_bytes(heads: u64, context: u64) -> u64 {
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let rows = heads.saturating_mul(batch(count(heads), count(context)) as u64);
    rows.saturating_mul(context.saturating_add(MAX_BATCH as u64)).saturating_mul(2 * size_of::<f32>() as u64)
}

/// A matrix of rows of `width` elements.
fn rows(x: Vec<f32>, width: usize) -> candle_core::Result<Tensor> {
    let rows = x.len() / width;
    Tensor::from_vec(x, (rows, width), &Device::Cpu)
}

/// A tensor's elements, row by row.
fn vector(x: &Tensor) -> candle_core::Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}
