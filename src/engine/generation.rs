//! The generation thread: it alone owns the model, and advances all running sequences together.
//!
//! Invariants:
//! - Requests start in the order of arrival, as soon as a slot is free. In each step every running
//!   sequence advances: by a token, or by up to `PREFILL_CHUNK` tokens of its prompt. All of these tokens go
//!   through the model together, at most [`MAX_BATCH`] of them: no prompt holds the answers up for long, and
//!   memory is planned for that many.
//! - Each request gets exactly one last event, [`GenerationEvent::Finished`] (or
//!   [`GenerationEvent::Embedding`]) or [`GenerationEvent::Failed`], unless its receiver is dropped: that
//!   cancels it at its next step.
//! - A slot keeps the KV cache of its last sequence. Tokens that the next sequence has in common
//!   with it from the start on are not evaluated again.

#[cfg(test)]
mod tests;
mod slot;
mod embedding;
mod handle;
mod counters;
mod request;
mod logprobs;
mod thinking;
mod stop;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::forward::{MAX_BATCH, Part, Transformer};
use super::tokenizer::Tokenizer;
pub use counters::GenerationCounters;
pub use handle::GenerationHandle;
pub(in crate::engine) use handle::MAX_WAITING;
use handle::{Command, QueuedRequest, shutting_down};
pub use logprobs::TokenLogprob;
pub use request::{FinishReason, GenerationEvent, GenerationRequest, GenerationSummary};
use slot::Slot;
pub use thinking::ThinkingLimit;

/// The state of the generation thread. [`run`](Self::run) is the thread's body.
pub struct Generator {
    model: Transformer,
    tokenizer: Arc<Tokenizer>,
    slots: Vec<Slot>,
    waiting: VecDeque<Box<QueuedRequest>>,
    commands: mpsc::UnboundedReceiver<Command>,
    counters: Arc<GenerationCounters>,
    shutdown: CancellationToken,
}

impl Generator {
    /// A generator with `slots` slots (at least one), each with a context of `context_length` tokens.
    #[must_use]
    pub fn new(
        model: Transformer,
        tokenizer: Arc<Tokenizer>,
        slots: usize,
        context_length: usize,
    ) -> (Self, GenerationHandle) {
        let (sender, commands) = mpsc::unbounded_channel();
        let handle = GenerationHandle {
            commands: sender,
            counters: Arc::default(),
            context_length,
            shutdown: CancellationToken::new(),
        };
        let slots = (0..slots.max(1)).map(|_| Slot::new(model.cache(context_length))).collect();
        let generator = Self {
            model,
            tokenizer,
            slots,
            waiting: VecDeque::new(),
            commands,
            counters: Arc::clone(&handle.counters),
            shutdown: handle.shutdown.clone(),
        };
        (generator, handle)
    }

    /// Serves requests until [`GenerationHandle::stop`], or until the last handle is dropped.
    pub fn run(mut self) {
        loop {
            if !self.receive() {
                return self.fail_all();
            }
            self.start_waiting();
            self.step();
            self.count_busy();
        }
    }

    /// Queues the requests that have arrived, and waits for one if no sequence runs. Returns false
    /// once the thread is to end.
    fn receive(&mut self) -> bool {
        if self.slots.iter().all(Slot::is_free) && self.waiting.is_empty() {
            match self.commands.blocking_recv() {
                Some(Command::Request(request)) => self.waiting.push_back(request),
                Some(Command::Wake) => {}
                None => return false,
            }
        }
        self.queue_received();
        !self.shutdown.is_cancelled()
    }

    fn queue_received(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Request(request) = command {
                self.waiting.push_back(request);
            }
        }
    }

    /// Starts waiting requests in free slots.
    fn start_waiting(&mut self) {
        // A client that disconnected while it waited never gets a slot.
        let before = self.waiting.len();
        self.waiting.retain(|queued| !queued.events.is_closed());
        while let Some(queued) = self.waiting.front() {
            let best = self
                .slots
                .iter_mut()
                .filter(|slot| slot.is_free())
                .max_by_key(|slot| slot.fitness(queued.task.prompt()));
            let Some(slot) = best else { break };
            if let Some(queued) = self.waiting.pop_front() {
                slot.start(*queued);
            }
        }
        self.counters.waiting.fetch_sub(before - self.waiting.len(), Ordering::Relaxed);
        self.count_busy();
    }

    /// Advances every running sequence.
    fn step(&mut self) {
        let Self { model, tokenizer, slots, counters, .. } = self;
        let running = slots.iter().filter(|slot| !slot.is_free()).count();
        let most = MAX_BATCH / running.max(1);
        let mut ready: Vec<&mut Slot> =
            slots.iter_mut().filter_map(|slot| slot.get_ready(model, most).then_some(slot)).collect();
        let mut parts: Vec<Part<'_>> = ready.iter_mut().filter_map(|slot| slot.part()).collect();
        let logits = model.forward_together(&mut parts);
        let sequences = ready.iter_mut().filter(|slot| slot.has_sequence());
        for (slot, logits) in sequences.zip(logits) {
            slot.take(logits, tokenizer, counters);
        }
        for slot in ready {
            slot.embed(model, counters);
        }
    }

    fn count_busy(&self) {
        let busy = self.slots.iter().filter(|slot| !slot.is_free()).count();
        self.counters.busy_slots.store(busy, Ordering::Relaxed);
    }

    /// Fails all waiting and running requests.
    fn fail_all(mut self) {
        self.commands.close();
        self.queue_received();
        for queued in &self.waiting {
            // The send fails only if the client has disconnected.
            queued.events.send(GenerationEvent::Failed(shutting_down())).ok();
        }
        for slot in &mut self.slots {
            slot.fail(shutting_down());
        }
        self.counters.waiting.store(0, Ordering::Relaxed);
        self.count_busy();
    }
}
