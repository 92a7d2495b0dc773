//! The keys and values of the tokens seen so far.
//!
//! Invariants:
//! - New entries are written in place behind the old ones; the buffers are copied only when they
//!   grow, and each time they double, so that a token costs a constant amount of copying.
//! - `len` counts the tokens that every layer has; what lies behind it is leftovers.

use candle_core::{DType, Device, Result, Tensor};

use super::config::Config;

/// Positions that a cache has room for when it is first written to.
const FIRST_STEP: usize = 256;

/// The cache of one conversation with one model.
#[derive(Debug)]
pub struct Cache {
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

impl Cache {
    /// An empty cache that takes up to `capacity` tokens.
    pub(super) fn new(config: &Config, capacity: usize) -> Result<Self> {
        let empty = |width| Tensor::zeros((config.kv_heads, 0, width), DType::F32, &Device::Cpu);
        let layers = (0..config.layers)
            .map(|_| Ok(LayerCache { keys: empty(config.key_length)?, values: empty(config.value_length)? }))
            .collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, capacity })
    }

    /// Tokens in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens that it takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens; what follows then may be computed anew.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Writes a layer's keys and values of `count` new tokens, each of shape (heads, count, width),
    /// and answers those of all tokens, the new ones included, as views into the buffers.
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

    /// Counts tokens that every layer has been given.
    pub(super) fn advance(&mut self, count: usize) {
        self.len += count;
    }
}

fn write(buffer: &mut Tensor, new: &Tensor, start: usize, capacity: usize) -> Result<Tensor> {
    let (heads, room, width) = buffer.dims3()?;
    let end = start + new.dim(1)?;
    if end > room {
        let room = end.next_power_of_two().max(FIRST_STEP).min(capacity.max(end));
        let larger = Tensor::zeros((heads, room, width), buffer.dtype(), buffer.device())?;
        if start > 0 {
            larger.slice_set(&buffer.narrow(1, 0, start)?.contiguous()?, 1, 0)?;
        }
        *buffer = larger;
    }
    buffer.slice_set(new, 1, start)?;
    buffer.narrow(1, 0, end)
}
