//! The choices of one answer, as they are generated side by side.

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::error::ApiError;
use crate::engine::generation::{
    GenerationEvent, GenerationHandle, GenerationRequest, GenerationSummary, TokenLogprob,
};
use crate::error::Failure;

/// What happens to one choice.
#[derive(Debug)]
pub(super) enum Progress {
    Text(String),
    Logprob(TokenLogprob),
    /// Its last event.
    Finished(GenerationSummary),
}

/// The events of all choices. Dropping it cancels those that still run.
pub(super) struct Choices {
    events: SelectAll<BoxStream<'static, (usize, GenerationEvent)>>,
    /// Choices that have not finished.
    running: usize,
}

impl Choices {
    /// Starts the choices.
    ///
    /// # Errors
    /// Those of [`GenerationHandle::submit`].
    pub(super) fn submit(
        generation: &GenerationHandle,
        requests: Vec<GenerationRequest>,
    ) -> Result<Self, Failure> {
        let running = requests.len();
        let mut events = SelectAll::new();
        for (index, request) in requests.into_iter().enumerate() {
            let of_choice = UnboundedReceiverStream::new(generation.submit(request)?);
            events.push(of_choice.map(move |event| (index, event)).boxed());
        }
        Ok(Self { events, running })
    }

    /// What happens next, and to which choice; `None` once all have finished.
    ///
    /// # Errors
    /// One of the choices has failed. The others are of no use then.
    pub(super) async fn next(&mut self) -> Result<Option<(usize, Progress)>, ApiError> {
        if self.running == 0 {
            return Ok(None);
        }
        let ended = || Failure::internal("the generation thread ended before the answer was complete");
        let (index, event) = self.events.next().await.ok_or_else(ended)?;
        Ok(Some((
            index,
            match event {
                GenerationEvent::Text(text) => Progress::Text(text),
                GenerationEvent::Logprob(logprob) => Progress::Logprob(logprob),
                GenerationEvent::Finished(summary) => {
                    self.running -= 1;
                    Progress::Finished(summary)
                }
                GenerationEvent::Failed(failure) => return Err(failure.into()),
                GenerationEvent::Embedding(_) => return Err(ended().into()),
            },
        )))
    }
}
