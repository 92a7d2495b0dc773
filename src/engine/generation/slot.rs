//! One place for a running sequence, with the cache that outlives it.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use super::stop::StopMatcher;
use super::{Counters, Event, Finish, FinishReason, Job, PREFILL_CHUNK};
use crate::engine::cache::Cache;
use crate::engine::forward::Model;
use crate::engine::sampling::Sampler;
use crate::engine::tokenizer::{Decoder, Tokenizer};
use crate::error::{Failure, Result};

/// A slot. `tokens` are exactly those whose keys and values `cache` holds.
pub(super) struct Slot {
    cache: Cache,
    tokens: Vec<u32>,
    running: Option<Running>,
}

/// A sequence in a slot.
struct Running {
    /// Tokens that the model has not seen yet: the rest of the prompt, then the last token.
    pending: Vec<u32>,
    sampler: Sampler,
    decoder: Option<Decoder>,
    stop: StopMatcher,
    max_tokens: usize,
    events: mpsc::UnboundedSender<Event>,
    prompt_tokens: usize,
    cached_tokens: usize,
    completion_tokens: usize,
    started: Instant,
    prompt_done: Option<Instant>,
}

impl Slot {
    pub(super) fn new(cache: Cache) -> Self {
        Self { cache, tokens: Vec::new(), running: None }
    }

    pub(super) fn is_free(&self) -> bool {
        self.running.is_none()
    }

    /// The greater, the better this slot is for `prompt`: what it can use of the cache, and among
    /// equals what little of it is lost.
    pub(super) fn fitness(&self, prompt: &[u32]) -> (usize, Reverse<usize>) {
        (self.shared_prefix(prompt), Reverse(self.tokens.len()))
    }

    /// How many tokens of `prompt` the cache holds already. Never all of them: the model needs one
    /// to say what comes next.
    fn shared_prefix(&self, prompt: &[u32]) -> usize {
        let shared = self.tokens.iter().zip(prompt).take_while(|(left, right)| left == right).count();
        shared.min(prompt.len().saturating_sub(1))
    }

    pub(super) fn start(&mut self, job: Job) {
        let Job { request, events } = job;
        let cached_tokens = self.shared_prefix(&request.prompt);
        self.cache.truncate(cached_tokens);
        self.tokens.truncate(cached_tokens);
        self.running = Some(Running {
            sampler: Sampler::new(request.sampling, &request.prompt),
            decoder: None,
            stop: StopMatcher::new(request.stop),
            max_tokens: request.max_tokens.unwrap_or(usize::MAX),
            events,
            prompt_tokens: request.prompt.len(),
            cached_tokens,
            completion_tokens: 0,
            started: Instant::now(),
            prompt_done: None,
            pending: request.prompt[cached_tokens..].to_vec(),
        });
    }

    /// Computes one token, or one piece of the prompt.
    pub(super) fn step(&mut self, model: &Model, tokenizer: &Tokenizer, counters: &Counters) {
        let Some(running) = &mut self.running else { return };
        if running.events.is_closed() {
            tracing::debug!(tokens = running.completion_tokens, "the client is gone: generation cancelled");
            self.running = None;
            return;
        }
        match running.advance(model, &mut self.cache, &mut self.tokens, tokenizer, counters) {
            Ok(None) => {}
            Ok(Some(reason)) => {
                running.finish(reason);
                self.running = None;
            }
            Err(failure) => {
                self.fail(failure);
                // What the failed step left in the cache is not known.
                self.cache.truncate(0);
                self.tokens.clear();
            }
        }
    }

    /// Ends the running sequence, if any, before its time.
    pub(super) fn fail(&mut self, failure: Failure) {
        if let Some(running) = self.running.take() {
            // A client that is gone needs no answer.
            running.events.send(Event::Failed(failure)).ok();
        }
    }
}

impl Running {
    fn advance(
        &mut self,
        model: &Model,
        cache: &mut Cache,
        tokens: &mut Vec<u32>,
        tokenizer: &Tokenizer,
        counters: &Counters,
    ) -> Result<Option<FinishReason>> {
        let rest = self.pending.split_off(self.pending.len().min(PREFILL_CHUNK));
        let chunk = std::mem::replace(&mut self.pending, rest);
        let logits = model.forward(&chunk, cache)?;
        tokens.extend_from_slice(&chunk);
        if self.prompt_done.is_none() {
            counters.prompt_tokens.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if !self.pending.is_empty() {
                return Ok(None);
            }
            self.prompt_done = Some(Instant::now());
        }

        let token = self.sampler.sample(logits)?;
        self.completion_tokens += 1;
        counters.tokens_generated.fetch_add(1, Ordering::Relaxed);
        if tokenizer.is_end_of_generation(token) {
            return Ok(Some(FinishReason::Stop));
        }
        let decoder = self.decoder.get_or_insert_with(|| tokenizer.decoder());
        let (text, stopped) = self.stop.push(&decoder.push(tokenizer, token));
        self.say(text);
        if stopped {
            // What it still holds comes after the stop string.
            self.decoder = None;
            return Ok(Some(FinishReason::Stop));
        }
        if self.completion_tokens >= self.max_tokens || cache.len() >= cache.capacity() {
            return Ok(Some(FinishReason::Length));
        }
        self.pending.push(token);
        Ok(None)
    }

    fn say(&self, text: String) {
        if !text.is_empty() {
            // A client that is gone is noticed at the next step.
            self.events.send(Event::Text(text)).ok();
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        let half = self.decoder.as_mut().map(Decoder::finish).unwrap_or_default();
        let now = Instant::now();
        let prompt_done = self.prompt_done.unwrap_or(now);
        let (mut text, stopped) = self.stop.push(&half);
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        self.say(text);
        let finish = Finish {
            reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            prompt_time: prompt_done - self.started,
            generation_time: now - prompt_done,
        };
        self.events.send(Event::Finished(finish)).ok();
    }
}
