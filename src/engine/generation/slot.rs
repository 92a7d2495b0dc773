//! A slot: it runs one sequence at a time, and keeps the sequence's KV cache for the next one.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use super::counters::GenerationCounters;
use super::embedding::{RunningEmbedding, next_chunk};
use super::handle::{QueuedRequest, Task};
use super::logprobs::TokenLogprob;
use super::request::{FinishReason, GenerationEvent, GenerationSummary};
use super::stop::StopMatcher;
use super::thinking::Thinking;
use crate::engine::forward::{Part, Transformer};
use crate::engine::kv_cache::KvCache;
use crate::engine::sampling::Sampler;
use crate::engine::tokenizer::{Decoder, Tokenizer};
use crate::error::{Failure, Result};

/// A slot.
pub(super) struct Slot {
    cache: KvCache,
    /// Exactly the tokens whose keys and values `cache` holds.
    tokens: Vec<u32>,
    running: Option<Running>,
}

/// What a slot is doing.
enum Running {
    Sequence(Box<RunningSequence>),
    Embedding(RunningEmbedding),
}

/// A sequence in a slot.
struct RunningSequence {
    /// Tokens to evaluate: the rest of the prompt, later the last generated token.
    pending: Vec<u32>,
    /// Those of them that are evaluated in this step.
    chunk: Vec<u32>,
    sampler: Sampler,
    /// None before the first token, and after a stop string.
    decoder: Option<Decoder>,
    begins_text: bool,
    stop: StopMatcher,
    marks: Arc<[u32]>,
    thinking: Option<Thinking>,
    logprobs: Option<usize>,
    max_tokens: usize,
    events: mpsc::UnboundedSender<GenerationEvent>,
    prompt_tokens: usize,
    cached_tokens: usize,
    completion_tokens: usize,
    started: Instant,
    /// When the last token of the prompt was evaluated.
    prompt_done: Option<Instant>,
}

impl Slot {
    pub(super) fn new(cache: KvCache) -> Self {
        Self { cache, tokens: Vec::new(), running: None }
    }

    pub(super) fn is_free(&self) -> bool {
        self.running.is_none()
    }

    /// Ranks the slots for `prompt`; the greatest is the best. It is the one whose cache holds most of
    /// the prompt, and of equal ones the one that loses the fewest cached tokens.
    pub(super) fn fitness(&self, prompt: &[u32]) -> (usize, Reverse<usize>) {
        (self.shared_prefix(prompt), Reverse(self.tokens.len()))
    }

    /// How many tokens of `prompt` the cache holds already. Never all of them: the model must evaluate
    /// at least one to give the logits of the next.
    fn shared_prefix(&self, prompt: &[u32]) -> usize {
        let shared = self.tokens.iter().zip(prompt).take_while(|(left, right)| left == right).count();
        shared.min(prompt.len().saturating_sub(1))
    }

    /// Starts a request in this slot, which must be free.
    pub(super) fn start(&mut self, queued: QueuedRequest) {
        let QueuedRequest { task, events } = queued;
        let request = match task {
            Task::Generate(request) => *request,
            Task::Embed(tokens, pooling) => {
                // The states of all tokens are needed, also of those in the cache.
                self.clear();
                self.running = Some(Running::Embedding(RunningEmbedding::new(tokens, pooling, events)));
                return;
            }
        };
        let cached_tokens = self.shared_prefix(&request.prompt);
        self.cache.truncate(cached_tokens);
        self.tokens.truncate(cached_tokens);
        self.running = Some(Running::Sequence(Box::new(RunningSequence {
            sampler: Sampler::new(request.sampling, &request.prompt, request.constraint),
            decoder: None,
            begins_text: request.begins_text,
            stop: StopMatcher::new(request.stop),
            marks: request.marks,
            thinking: request.thinking.map(Thinking::new),
            logprobs: request.logprobs,
            max_tokens: request.max_tokens.unwrap_or(usize::MAX),
            events,
            prompt_tokens: request.prompt.len(),
            cached_tokens,
            completion_tokens: 0,
            started: Instant::now(),
            prompt_done: None,
            pending: request.prompt[cached_tokens..].to_vec(),
            chunk: Vec::new(),
        })));
    }

    /// Takes the tokens of the next step, at most so many. Returns whether something runs.
    pub(super) fn get_ready(&mut self, model: &Transformer, most: usize) -> bool {
        let Some(running) = &mut self.running else { return false };
        if running.events().is_closed() {
            tracing::debug!("the client disconnected: its request is cancelled");
            self.running = None;
            return false;
        }
        if let Running::Sequence(running) = running {
            running.chunk = next_chunk(&mut running.pending, most);
            if let Err(failure) = model.check(&running.chunk, &self.cache) {
                self.fail(failure);
                return false;
            }
        }
        true
    }

    pub(super) fn has_sequence(&self) -> bool {
        matches!(self.running, Some(Running::Sequence(_)))
    }

    /// The tokens of this step, if a sequence runs.
    pub(super) fn part(&mut self) -> Option<Part<'_>> {
        match &self.running {
            Some(Running::Sequence(running)) => Some(Part { tokens: &running.chunk, cache: &mut self.cache }),
            _ => None,
        }
    }

    /// Goes on with the logits after the tokens of this step.
    pub(super) fn take(&mut self, logits: Vec<f32>, tokenizer: &Tokenizer, counters: &GenerationCounters) {
        let Some(Running::Sequence(running)) = &mut self.running else { return };
        self.tokens.extend_from_slice(&running.chunk);
        let is_full = self.cache.len() >= self.cache.capacity();
        match running.advance(logits, is_full, tokenizer, counters) {
            Ok(None) => {}
            Ok(Some(reason)) => {
                running.finish(reason);
                self.running = None;
            }
            Err(failure) => self.fail(failure),
        }
    }

    /// Evaluates the next tokens of a text of which an embedding is made, if one is.
    pub(super) fn embed(&mut self, model: &Transformer, counters: &GenerationCounters) {
        let Some(Running::Embedding(running)) = &mut self.running else { return };
        match running.advance(model, &mut self.cache, &mut self.tokens, counters) {
            Ok(false) => {}
            Ok(true) => self.running = None,
            Err(failure) => {
                self.fail(failure);
                // The failed step may have written some of its tokens to the cache.
                self.clear();
            }
        }
    }

    /// Ends what runs, if something does, with a failure.
    pub(super) fn fail(&mut self, failure: Failure) {
        if let Some(running) = self.running.take() {
            // The send fails only if the client has disconnected.
            running.events().send(GenerationEvent::Failed(failure)).ok();
        }
    }

    /// Forgets the cached tokens.
    fn clear(&mut self) {
        self.cache.truncate(0);
        self.tokens.clear();
    }
}

impl Running {
    fn events(&self) -> &mpsc::UnboundedSender<GenerationEvent> {
        match self {
            Self::Sequence(running) => &running.events,
            Self::Embedding(running) => &running.events,
        }
    }
}

impl RunningSequence {
    /// Does the work of [`Slot::take`]. Returns the reason once the generation has ended.
    fn advance(
        &mut self,
        logits: Vec<f32>,
        is_full: bool,
        tokenizer: &Tokenizer,
        counters: &GenerationCounters,
    ) -> Result<Option<FinishReason>> {
        if self.prompt_done.is_none() {
            counters.prompt_tokens.fetch_add(self.chunk.len() as u64, Ordering::Relaxed);
            if !self.pending.is_empty() {
                return Ok(None);
            }
            self.prompt_done = Some(Instant::now());
        }

        let raw = self.logprobs.map(|count| (logits.clone(), count));
        let token = match self.thinking.as_mut().and_then(Thinking::due) {
            Some(token) => {
                self.sampler.take(token)?;
                token
            }
            None => self.sampler.sample(logits)?,
        };
        self.completion_tokens += 1;
        counters.tokens_generated.fetch_add(1, Ordering::Relaxed);
        if tokenizer.is_end_of_generation(token) {
            return Ok(Some(FinishReason::Stop));
        }
        let decoder = self.decoder.get_or_insert_with(|| tokenizer.decoder(self.begins_text));
        let text = match self.marks.contains(&token) {
            true => tokenizer.spell_next(decoder, token),
            false => tokenizer.decode_next(decoder, token),
        };
        self.sampler.hear(&text);
        if let Some(thinking) = &mut self.thinking {
            thinking.hear(&text);
        }
        if let Some((logits, count)) = raw {
            // As for a text.
            self.events.send(GenerationEvent::Logprob(TokenLogprob::new(token, &logits, count))).ok();
        }
        let (text, stopped) = self.stop.push(&text);
        self.send_text(text);
        if stopped {
            // The bytes that the decoder still holds come after the stop string.
            self.decoder = None;
            return Ok(Some(FinishReason::Stop));
        }
        if self.sampler.has_ended() {
            return Ok(Some(FinishReason::Stop));
        }
        if self.completion_tokens >= self.max_tokens || is_full {
            return Ok(Some(FinishReason::Length));
        }
        self.pending.push(token);
        Ok(None)
    }

    fn send_text(&self, text: String) {
        if !text.is_empty() {
            // The next step notices a client that has disconnected.
            self.events.send(GenerationEvent::Text(text)).ok();
        }
    }

    /// Sends the rest of the text and the last event.
    fn finish(&mut self, reason: FinishReason) {
        let incomplete = self.decoder.as_mut().map(Decoder::finish).unwrap_or_default();
        let now = Instant::now();
        let prompt_done = self.prompt_done.unwrap_or(now);
        let (mut text, stopped) = self.stop.push(&incomplete);
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        self.send_text(text);
        let summary = GenerationSummary {
            reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            prompt_time: prompt_done - self.started,
            generation_time: now - prompt_done,
        };
        self.events.send(GenerationEvent::Finished(summary)).ok();
    }
}
