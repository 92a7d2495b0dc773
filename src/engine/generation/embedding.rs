//! The embedding of one text in a slot.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::counters::GenerationCounters;
use super::request::GenerationEvent;
use crate::engine::forward::Transformer;
use crate::engine::kv_cache::KvCache;
use crate::engine::pooling::{Pooler, Pooling};
use crate::error::Result;

/// How many tokens of a prompt are evaluated in one step. Small enough that a cancelled request
/// frees its slot, and other sequences advance, within moments.
const PREFILL_CHUNK: usize = 64;

/// Takes the tokens of the next step from those that are to be evaluated: at most so many, and at least one.
pub(super) fn next_chunk(pending: &mut Vec<u32>, most: usize) -> Vec<u32> {
    let rest = pending.split_off(pending.len().min(most.clamp(1, PREFILL_CHUNK)));
    std::mem::replace(pending, rest)
}

/// A text of which an embedding is made.
pub(super) struct RunningEmbedding {
    /// Tokens to evaluate.
    pending: Vec<u32>,
    pooling: Pooling,
    /// None before the first tokens.
    pooler: Option<Pooler>,
    pub(super) events: mpsc::UnboundedSender<GenerationEvent>,
}

impl RunningEmbedding {
    pub(super) fn new(
        tokens: Vec<u32>,
        pooling: Pooling,
        events: mpsc::UnboundedSender<GenerationEvent>,
    ) -> Self {
        Self { pending: tokens, pooling, pooler: None, events }
    }

    /// Evaluates the next tokens. Returns whether the embedding is complete, and sent.
    pub(super) fn advance(
        &mut self,
        model: &Transformer,
        cache: &mut KvCache,
        tokens: &mut Vec<u32>,
        counters: &GenerationCounters,
    ) -> Result<bool> {
        let chunk = next_chunk(&mut self.pending, PREFILL_CHUNK);
        let states = model.states(&chunk, cache)?;
        tokens.extend_from_slice(&chunk);
        counters.prompt_tokens.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let pooler = self.pooler.get_or_insert_with(|| Pooler::new(self.pooling, model.width()));
        pooler.add(&states);
        if !self.pending.is_empty() {
            return Ok(false);
        }
        if let Some(pooler) = self.pooler.take() {
            // The send fails only if the client has disconnected.
            self.events.send(GenerationEvent::Embedding(pooler.finish())).ok();
        }
        Ok(true)
    }
}
