//! The KV cache: the keys and values of the tokens that a sequence has so far.
//!
//! Invariants:
//! - New entries are written in place behind the old ones. The buffers are copied only when they
//!   grow, and each time they double, so that the copying per token is constant on average.
//! - `len` counts the tokens that every layer holds. What a buffer holds beyond it is stale.

use candle_core::{DType, Device, Result, Tensor};

use super::hyperparameters::Hyperparameters;

/// Positions that the buffers have room for after the first write.
const INITIAL_ROOM: usize = 256;

/// The KV cache of one sequence with one model.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

#[derive(Debug)]
struct LayerCache {
    /// Shape (heads, room, width), as is `values`.
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    /// An empty cache for up to `capacity` tokens.
    pub(super) fn new(hyperparameters: &Hyperparameters, capacity: usize) -> Result<Self> {
        let &Hyperparameters { layers, kv_heads, key_length, value_length, .. } = hyperparameters;
        let empty = |width| Tensor::zeros((kv_heads, 0, width), DType::F32, &Device::Cpu);
        let layers = (0..layers)
            .map(|_| Ok(LayerCache { keys: empty(key_length)?, values: empty(value_length)? }))
            .collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, capacity })
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

    /// Writes a layer's keys and values of `count` new tokens, each of shape (heads, count, width).
    /// Returns those of all tokens, the new ones included, as views into the buffers.
    pub(super) fn append(
        &mut self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (start, capacity) = (self.len, self.capacity);
        let layer = &mut self.layers[layer];
        Ok((
            write(&mut layer.keys, keys, start, capacity)?,
            write(&mut layer.values, values, start, capacity)?,
        ))
    }

    /// Counts tokens that were appended to every layer.
    pub(super) fn advance(&mut self, count: usize) {
        self.len += count;
    }
}

fn write(buffer: &mut Tensor, new: &Tensor, start: usize, capacity: usize) -> Result<Tensor> {
    let (heads, room, width) = buffer.dims3()?;
    let end = start + new.dim(1)?;
    if end > room {
        let room = end.next_power_of_two().max(INITIAL_ROOM).min(capacity.max(end));
        let larger = Tensor::zeros((heads, room, width), buffer.dtype(), buffer.device())?;
        if start > 0 {
            larger.slice_set(&buffer.narrow(1, 0, start)?.contiguous()?, 1, 0)?;
        }
        *buffer = larger;
    }
    buffer.slice_set(new, 1, start)?;
    buffer.narrow(1, 0, end)
}
