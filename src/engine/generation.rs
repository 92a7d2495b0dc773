//! The engine's thread: it alone owns the model, and advances every running sequence in turn.
//!
//! Invariants:
//! - Requests start in the order they came, as soon as one of the slots is free; a running one
//!   never waits for more than one step (a token, or `PREFILL_CHUNK` tokens of a prompt) of each
//!   other.
//! - Each request gets exactly one last event, [`Event::Finished`] or [`Event::Failed`], unless
//!   its receiver is gone: that cancels it, at its next step.
//! - A slot keeps the cache of its last sequence; the next one that begins with the same tokens
//!   does not compute them again.

mod slot;
mod stop;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::forward::Model;
use super::sampling::SamplingParams;
use super::tokenizer::Tokenizer;
use crate::error::{Code, Failure, Result};
use slot::Slot;

/// How many tokens of a prompt are computed in one step. Small enough that a cancelled request
/// frees its slot, and other sequences get their turn, within moments.
const PREFILL_CHUNK: usize = 64;

/// How many requests may wait for a slot.
const MAX_WAITING: usize = 256;

/// What to generate.
#[derive(Debug)]
pub struct Request {
    /// The prompt's tokens: at least one.
    pub prompt: Vec<u32>,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// At most so many tokens; as many as the context holds where absent.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation, and are not shown.
    pub stop: Vec<String>,
}

/// What becomes of a request, in order.
#[derive(Debug)]
pub enum Event {
    /// More text; whole characters.
    Text(String),
    /// The end.
    Finished(Finish),
    /// The end, before its time.
    Failed(Failure),
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came up.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// How a generation ended, and what it took.
#[derive(Clone, Copy, Debug)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that a former sequence had left in the slot's cache.
    pub cached_tokens: usize,
    /// Generated tokens, the one that ends the turn included.
    pub completion_tokens: usize,
    /// From the start in a slot to the end of the prompt.
    pub prompt_time: Duration,
    /// From there to the end.
    pub generation_time: Duration,
}

/// Running numbers of the engine, read at any time.
#[derive(Debug, Default)]
pub struct Counters {
    waiting: AtomicUsize,
    busy_slots: AtomicUsize,
    requests: AtomicU64,
    tokens_generated: AtomicU64,
    prompt_tokens: AtomicU64,
}

impl Counters {
    /// Slots with a running sequence.
    #[must_use]
    pub fn busy_slots(&self) -> usize {
        self.busy_slots.load(Ordering::Relaxed)
    }

    /// Requests that were accepted since the start.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Tokens that were generated since the start.
    #[must_use]
    pub fn tokens_generated(&self) -> u64 {
        self.tokens_generated.load(Ordering::Relaxed)
    }

    /// Tokens of the prompts that were computed since the start, without those found in a cache.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens.load(Ordering::Relaxed)
    }
}

/// A request on its way to a slot, or in it.
struct Job {
    request: Request,
    events: mpsc::UnboundedSender<Event>,
}

/// Wakes the engine's thread, where it has nothing to do, so that it notices the shutdown.
enum Command {
    Generate(Box<Job>),
    Wake,
}

/// The way to an engine's thread.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    counters: Arc<Counters>,
    context_length: usize,
    shutdown: CancellationToken,
}

impl Handle {
    /// Hands in a request. Dropping the receiver cancels it.
    ///
    /// # Errors
    /// `invalid_field` for an empty prompt or one longer than the context, `queue_full` where too
    /// many requests wait, `shutting_down` once the engine stops.
    pub fn submit(&self, request: Request) -> Result<mpsc::UnboundedReceiver<Event>> {
        let (asked, context) = (request.prompt.len(), self.context_length);
        if asked == 0 {
            return Err(Failure::new(Code::InvalidField, "the prompt has no tokens")
                .hint("send at least one message with text"));
        }
        if asked > context {
            return Err(Failure::new(
                Code::InvalidField,
                format!("the prompt has {asked} tokens, more than the context of {context} tokens"),
            )
            .hint("shorten the messages, or load the model with a larger context_length"));
        }
        if self.shutdown.is_cancelled() {
            return Err(shutting_down());
        }
        let waiting = self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= MAX_WAITING {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::new(Code::QueueFull, format!("{waiting} requests wait for this model"))
                .hint("try again later, or spawn another worker of the model"));
        }
        let (events, receiver) = mpsc::unbounded_channel();
        let job = Box::new(Job { request, events });
        self.commands.send(Command::Generate(job)).map_err(|_| {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            shutting_down()
        })?;
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        Ok(receiver)
    }

    /// The engine's numbers.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Tokens that a prompt and what is generated from it may have together.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Ends the engine: running and waiting requests fail with `shutting_down`.
    pub fn stop(&self) {
        self.shutdown.cancel();
        // An engine that is gone needs no waking.
        self.commands.send(Command::Wake).ok();
    }
}

fn shutting_down() -> Failure {
    Failure::new(Code::ShuttingDown, "the worker is stopping").hint("send the request again")
}

/// The engine, to be run on a thread of its own.
pub struct Engine {
    model: Model,
    tokenizer: Arc<Tokenizer>,
    slots: Vec<Slot>,
    waiting: VecDeque<Box<Job>>,
    commands: mpsc::UnboundedReceiver<Command>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
}

impl Engine {
    /// An engine with so many slots, each with a context of `context_length` tokens.
    #[must_use]
    pub fn new(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        slots: usize,
        context_length: usize,
    ) -> (Self, Handle) {
        let (sender, commands) = mpsc::unbounded_channel();
        let handle = Handle {
            commands: sender,
            counters: Arc::default(),
            context_length,
            shutdown: CancellationToken::new(),
        };
        let slots = (0..slots.max(1)).map(|_| Slot::new(model.cache(context_length))).collect();
        let engine = Self {
            model,
            tokenizer,
            slots,
            waiting: VecDeque::new(),
            commands,
            counters: Arc::clone(&handle.counters),
            shutdown: handle.shutdown.clone(),
        };
        (engine, handle)
    }

    /// Serves requests until [`Handle::stop`], or until the last handle is dropped.
    pub fn run(mut self) {
        loop {
            if !self.receive() {
                return self.end();
            }
            self.start_waiting();
            for slot in &mut self.slots {
                slot.step(&self.model, &self.tokenizer, &self.counters);
            }
            self.count_busy();
        }
    }

    /// Takes in what has arrived; waits for it where nothing runs. False at the end.
    fn receive(&mut self) -> bool {
        if self.slots.iter().all(Slot::is_free) && self.waiting.is_empty() {
            match self.commands.blocking_recv() {
                Some(Command::Generate(job)) => self.waiting.push_back(job),
                Some(Command::Wake) => {}
                None => return false,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Generate(job) = command {
                self.waiting.push_back(job);
            }
        }
        !self.shutdown.is_cancelled()
    }

    fn start_waiting(&mut self) {
        // A client that left while it waited never gets a slot.
        let before = self.waiting.len();
        self.waiting.retain(|job| !job.events.is_closed());
        while let Some(job) = self.waiting.front() {
            let best = self
                .slots
                .iter_mut()
                .filter(|slot| slot.is_free())
                .max_by_key(|slot| slot.fitness(&job.request.prompt));
            let Some(slot) = best else { break };
            if let Some(job) = self.waiting.pop_front() {
                slot.start(*job);
            }
        }
        self.counters.waiting.fetch_sub(before - self.waiting.len(), Ordering::Relaxed);
        self.count_busy();
    }

    fn count_busy(&self) {
        let busy = self.slots.iter().filter(|slot| !slot.is_free()).count();
        self.counters.busy_slots.store(busy, Ordering::Relaxed);
    }

    fn end(mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Generate(job) = command {
                self.waiting.push_back(job);
            }
        }
        for job in &self.waiting {
            // A client that is gone needs no answer.
            job.events.send(Event::Failed(shutting_down())).ok();
        }
        for slot in &mut self.slots {
            slot.fail(shutting_down());
        }
        self.counters.waiting.store(0, Ordering::Relaxed);
        self.count_busy();
    }
}
