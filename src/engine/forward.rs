//! The forward pass: from tokens to the logits of the next token.

#[cfg(test)]
mod tests;

use rbee_kernels::attention::Attention;
use rbee_kernels::math::{add, geglu, rms_norm, rms_norm_in_place, swiglu};
use rbee_kernels::{Input, Matrix};

use super::hyperparameters::{Architecture, Hyperparameters};
use super::kv_cache::KvCache;
use super::pooling::Pooling;
use super::rope::{Rope, Rotations};
use crate::error::{Code, Failure, Result};

/// Most tokens that go through the layers as one batch.
pub(crate) const MAX_BATCH: usize = 256;

/// About how many rows of scores a thread has at once.
const SCORED_ROWS: u64 = 16;

#[cfg(test)]
thread_local! {
    /// How often this thread has sent tokens through the layers.
    pub(super) static PASSES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A loaded model. It is read-only; each sequence has a [`KvCache`] of its own.
#[derive(Debug)]
pub struct Transformer {
    pub(super) hyperparameters: Hyperparameters,
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    /// None where the embedding is used for it (tied embeddings).
    pub(super) output: Option<Matrix>,
    pub(super) rope: Rope,
    /// That of layers with a window.
    pub(super) window_rope: Option<Rope>,
}

/// The weights of one layer. What only some architectures have is optional.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) query: Projection,
    pub(super) key: Projection,
    pub(super) value: Projection,
    /// A norm of each head.
    pub(super) query_norm: Option<Vec<f32>>,
    pub(super) key_norm: Option<Vec<f32>>,
    pub(super) attention_output: Matrix,
    pub(super) attention_post_norm: Option<Vec<f32>>,
    pub(super) feed_forward_norm: Vec<f32>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
    pub(super) feed_forward_post_norm: Option<Vec<f32>>,
}

/// A product, and what is added to it.
#[derive(Debug)]
pub(super) struct Projection {
    pub(super) matrix: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

/// Tokens that go on with the sequence of a cache.
#[derive(Debug)]
pub struct Part<'a> {
    /// At least one.
    pub tokens: &'a [u32],
    /// It gets the keys and values of the tokens.
    pub cache: &'a mut KvCache,
}

impl Transformer {
    /// The context that the model was trained for, in tokens.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.hyperparameters.context_length
    }

    /// How many tokens the vocabulary has, which is the number of logits.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.embedding.rows()
    }

    /// An empty cache for up to `capacity` tokens. It takes memory as it fills.
    #[must_use]
    pub fn cache(&self, capacity: usize) -> KvCache {
        KvCache::new(&self.hyperparameters, capacity)
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
    /// cache; the cache then stays as it was.
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        let mut last = Vec::new();
        self.evaluate(tokens, cache, |x| last = x)?;
        Ok(self.logits(&last[last.len() - self.width()..]))
    }

    /// Evaluates the tokens of several sequences together, which is quicker than one after the other. Returns the
    /// logits of each. The parts have passed [`check`](Self::check).
    #[must_use]
    pub fn forward_together(&self, parts: &mut [Part<'_>]) -> Vec<Vec<f32>> {
        if parts.is_empty() {
            return Vec::new();
        }
        let (x, width) = (self.through_layers(parts), self.width());
        let mut last = Vec::with_capacity(parts.len() * width);
        let mut end = 0;
        for part in parts.iter() {
            end += part.tokens.len() * width;
            last.extend_from_slice(&x[end - width..end]);
        }
        self.logits(&last).chunks_exact(self.vocab_size()).map(<[f32]>::to_vec).collect()
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
    fn evaluate(&self, tokens: &[u32], cache: &mut KvCache, mut take: impl FnMut(Vec<f32>)) -> Result<()> {
        self.check(tokens, cache)?;
        for tokens in tokens.chunks(MAX_BATCH) {
            take(self.through_layers(&mut [Part { tokens, cache }]));
        }
        Ok(())
    }

    /// Refuses tokens that cannot be evaluated.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn check(&self, tokens: &[u32], cache: &KvCache) -> Result<()> {
        let refused = |message| Err(Failure::new(Code::InvalidRequest, message).stage("generate"));
        if tokens.is_empty() {
            return refused("there are no tokens to evaluate".to_owned());
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocab_size()) {
            return refused(format!("token {token} is not one of the model's {} tokens", self.vocab_size()));
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

    /// The logits after rows of a residual stream.
    fn logits(&self, x: &[f32]) -> Vec<f32> {
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        rayon::scope(|_| output.product(&Input::new(&self.normed(x), self.width())))
    }

    fn normed(&self, x: &[f32]) -> Vec<f32> {
        rms_norm(x, &self.norm, self.hyperparameters.rms_epsilon)
    }

    /// Runs the tokens of all parts through the layers. Returns the residual stream, a row per token.
    fn through_layers(&self, parts: &mut [Part<'_>]) -> Vec<f32> {
        #[cfg(test)]
        PASSES.set(PASSES.get() + 1);
        // On a thread of the pool, because each product would else have to wake one.
        rayon::scope(|_| self.layer_by_layer(parts))
    }

    fn layer_by_layer(&self, parts: &mut [Part<'_>]) -> Vec<f32> {
        let positions = || parts.iter().flat_map(|part| (part.cache.len()..).take(part.tokens.len()));
        let rotations = self.rope.rotations(positions());
        let window_rotations = self.window_rope.as_ref().map(|rope| rope.rotations(positions()));
        let mut x = self.embeddings(parts);
        for (index, layer) in self.layers.iter().enumerate() {
            let window = self.hyperparameters.window_of(index);
            let rotations = window_rotations.as_ref().filter(|_| window.is_some()).unwrap_or(&rotations);
            let how = Attention {
                heads: self.hyperparameters.heads,
                scale: self.hyperparameters.attention_scale(),
                window: window.map(|window| window.tokens),
            };
            self.attend(index, layer, &how, rotations, &mut x, parts);
            self.feed_forward(layer, &mut x);
        }
        for part in parts {
            part.cache.advance(part.tokens.len());
        }
        x
    }

    /// The rows of the embedding for the tokens of all parts.
    fn embeddings(&self, parts: &[Part<'_>]) -> Vec<f32> {
        let count: usize = parts.iter().map(|part| part.tokens.len()).sum();
        let mut x = vec![0.0; count * self.width()];
        let tokens = parts.iter().flat_map(|part| part.tokens);
        for (row, token) in x.chunks_exact_mut(self.width()).zip(tokens) {
            self.embedding.row(*token as usize, row);
        }
        let scale = self.hyperparameters.embedding_scale();
        if scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        x
    }

    /// Adds the attention of a layer to the residual stream.
    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        how: &Attention,
        rotations: &Rotations,
        x: &mut [f32],
        parts: &mut [Part<'_>],
    ) {
        let shape = &self.hyperparameters;
        let normed = rms_norm(x, &layer.attention_norm, shape.rms_epsilon);
        let input = Input::new(&normed, self.width());
        let projections = [&layer.query, &layer.key, &layer.value];
        let products = Matrix::products(projections.map(|projection| &projection.matrix), &input);
        let [mut query, mut key, value] = Projection::biased(projections, products);
        for (rows, norm, heads) in
            [(&mut query, &layer.query_norm, shape.heads), (&mut key, &layer.key_norm, shape.kv_heads)]
        {
            if let Some(norm) = norm {
                rms_norm_in_place(rows, norm, shape.rms_epsilon);
            }
            rotations.apply(rows, heads, shape.key_length);
        }
        let mut attention = Vec::with_capacity(x.len() / self.width() * shape.attention_width());
        let mut first = 0;
        for part in parts {
            let rows = first..first + part.tokens.len();
            first = rows.end;
            let of = |width: usize| rows.start * width..rows.end * width;
            let (past, cache) = (part.cache.len(), &mut part.cache.layers[index]);
            cache.write(past, &key[of(shape.key_width())], &value[of(shape.value_width())]);
            attention.extend(cache.attend(&query[of(shape.query_width())], past, how));
        }
        let attention = layer.attention_output.product(&Input::new(&attention, shape.attention_width()));
        self.add(x, attention, layer.attention_post_norm.as_deref());
    }

    /// Adds the feed-forward network of a layer to the residual stream.
    fn feed_forward(&self, layer: &Layer, x: &mut [f32]) {
        let shape = &self.hyperparameters;
        let normed = rms_norm(x, &layer.feed_forward_norm, shape.rms_epsilon);
        let input = Input::new(&normed, self.width());
        let [mut gate, up] = Matrix::products([&layer.gate, &layer.up], &input);
        match shape.architecture {
            Architecture::Gemma3 => geglu(&mut gate, &up),
            _ => swiglu(&mut gate, &up),
        }
        let down = layer.down.product(&Input::new(&gate, shape.feed_forward_length));
        self.add(x, down, layer.feed_forward_post_norm.as_deref());
    }

    /// Adds to the residual stream, after a norm if there is one.
    fn add(&self, x: &mut [f32], mut y: Vec<f32>, norm: Option<&[f32]>) {
        if let Some(norm) = norm {
            rms_norm_in_place(&mut y, norm, self.hyperparameters.rms_epsilon);
        }
        add(x, &y);
    }
}

/// The most bytes that evaluating a batch of tokens takes: of each token three rows of the residual stream's width and
/// two of the feed-forward network's, which are there at once, and the scores of attention of each thread.
pub(crate) fn working_bytes(width: u64, feed_forward: u64, context: u64) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let token = width.saturating_mul(3).saturating_add(feed_forward.saturating_mul(2));
    let scores = context.saturating_mul(SCORED_ROWS).saturating_mul(threads);
    token.saturating_mul(MAX_BATCH as u64).saturating_add(scores).saturating_mul(size_of::<f32>() as u64)
}

impl Projection {
    /// Adds the biases, if there are any.
    fn biased<const N: usize>(projections: [&Self; N], mut products: [Vec<f32>; N]) -> [Vec<f32>; N] {
        for (projection, product) in projections.into_iter().zip(&mut products) {
            if let Some(bias) = &projection.bias {
                product.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
            }
        }
        products
    }
}
