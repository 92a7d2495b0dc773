//! The keys and values of the tokens that a sequence has so far. It takes memory as it fills.

use rbee_kernels::attention::LayerCache;

use super::hyperparameters::Hyperparameters;

/// The KV cache of one sequence with one model.
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for up to `capacity` tokens.
    pub(super) fn new(hyperparameters: &Hyperparameters, capacity: usize) -> Self {
        let &Hyperparameters { layers, kv_heads, key_length, value_length, .. } = hyperparameters;
        let layer = |_| LayerCache::new(kv_heads, key_length, value_length, capacity);
        let layers = (0..layers).map(layer).collect();
        Self { layers, len: 0, capacity }
    }

    /// Tokens in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the cache holds no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens that the cache takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Drops all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts tokens whose keys and values were written to every layer.
    pub(super) fn advance(&mut self, count: usize) {
        self.len += count;
    }
}
