//! Submits requests to the generation thread, from any other thread or task.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::counters::GenerationCounters;
use super::request::{GenerationEvent, GenerationRequest};
use crate::engine::pooling::Pooling;
use crate::error::{Code, Failure, Result};

/// Most requests that may wait for a slot.
pub(in crate::engine) const MAX_WAITING: usize = 256;

/// What a request asks for.
pub(super) enum Task {
    Generate(Box<GenerationRequest>),
    /// The embedding of these tokens.
    Embed(Vec<u32>, Pooling),
}

impl Task {
    /// The tokens to evaluate first.
    pub(super) fn prompt(&self) -> &[u32] {
        match self {
            Self::Generate(request) => &request.prompt,
            Self::Embed(tokens, _) => tokens,
        }
    }
}

/// A request and the channel for its events.
pub(super) struct QueuedRequest {
    pub(super) task: Task,
    pub(super) events: mpsc::UnboundedSender<GenerationEvent>,
}

/// A message to the generation thread.
pub(super) enum Command {
    Request(Box<QueuedRequest>),
    /// Wakes an idle thread, so that it notices the shutdown.
    Wake,
}

/// A handle of the generation thread.
#[derive(Clone)]
pub struct GenerationHandle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) counters: Arc<GenerationCounters>,
    pub(super) context_length: usize,
    pub(super) shutdown: CancellationToken,
}

impl GenerationHandle {
    /// Submits a request. Dropping the receiver cancels it.
    ///
    /// # Errors
    /// `invalid_field` for a prompt that is empty, `context_length_exceeded` for one that is longer than the
    /// context, `queue_full` if too many requests wait, `shutting_down` once the worker stops.
    pub fn submit(&self, request: GenerationRequest) -> Result<mpsc::UnboundedReceiver<GenerationEvent>> {
        self.queue(Task::Generate(Box::new(request)))
    }

    /// Makes the embedding of a text, which is not normalised. Dropping the future cancels it.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit), and a failure to evaluate the tokens.
    pub async fn embed(&self, tokens: Vec<u32>, pooling: Pooling) -> Result<Vec<f32>> {
        let mut events = self.queue(Task::Embed(tokens, pooling))?;
        match events.recv().await {
            Some(GenerationEvent::Embedding(vector)) => Ok(vector),
            Some(GenerationEvent::Failed(failure)) => Err(failure),
            _ => Err(Failure::internal("the generation thread ended before the embedding was complete")),
        }
    }

    fn queue(&self, task: Task) -> Result<mpsc::UnboundedReceiver<GenerationEvent>> {
        self.check(task.prompt().len())?;
        if self.shutdown.is_cancelled() {
            return Err(shutting_down());
        }
        let waiting = self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= MAX_WAITING {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            let message = format!("{waiting} requests are already waiting for this model");
            return Err(Failure::new(Code::QueueFull, message)
                .hint("try again later, or start another worker for the model"));
        }
        let (events, receiver) = mpsc::unbounded_channel();
        let queued = Box::new(QueuedRequest { task, events });
        self.commands.send(Command::Request(queued)).map_err(|_| {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            shutting_down()
        })?;
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        Ok(receiver)
    }

    /// Checks that a prompt of so many tokens can be evaluated.
    ///
    /// # Errors
    /// `invalid_field` for none, `context_length_exceeded` for more than the context has.
    pub fn check(&self, prompt_tokens: usize) -> Result<()> {
        let context = self.context_length;
        if prompt_tokens == 0 {
            return Err(Failure::new(Code::InvalidField, "the prompt has no tokens").hint("send some text"));
        }
        if prompt_tokens > context {
            return Err(Failure::new(
                Code::ContextLengthExceeded,
                format!("the prompt has {prompt_tokens} tokens, more than the context of {context} tokens"),
            )
            .hint("shorten the messages, or load the model with a larger context_length"));
        }
        Ok(())
    }

    /// The counters of the generation thread.
    #[must_use]
    pub fn counters(&self) -> &GenerationCounters {
        &self.counters
    }

    /// The context of a slot: most tokens of a prompt and its generated text together.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Ends the generation thread. Running and waiting requests fail with `shutting_down`.
    pub fn stop(&self) {
        self.shutdown.cancel();
        // The send fails only if the thread has ended already.
        self.commands.send(Command::Wake).ok();
    }
}

/// The failure of a request that a stopping worker does not finish.
pub(super) fn shutting_down() -> Failure {
    Failure::new(Code::ShuttingDown, "the worker is stopping").hint("send the request again")
}
