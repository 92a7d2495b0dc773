//! Counters of the generation thread, which any thread may read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The counters. Totals count from the start of the process.
#[derive(Debug, Default)]
pub struct GenerationCounters {
    pub(super) waiting: AtomicUsize,
    pub(super) busy_slots: AtomicUsize,
    pub(super) requests: AtomicU64,
    pub(super) tokens_generated: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
}

impl GenerationCounters {
    /// Slots with a running sequence.
    #[must_use]
    pub fn busy_slots(&self) -> usize {
        self.busy_slots.load(Ordering::Relaxed)
    }

    /// Accepted requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Generated tokens.
    #[must_use]
    pub fn tokens_generated(&self) -> u64 {
        self.tokens_generated.load(Ordering::Relaxed)
    }

    /// Evaluated tokens of prompts, without those that were in a cache.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens.load(Ordering::Relaxed)
    }
}
