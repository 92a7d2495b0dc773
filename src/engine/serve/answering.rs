//! Writes an answer to the client: as one object, or as server-sent events.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::choices::{Choices, Progress};
use super::error::ApiError;

/// How long a stream may be silent (while it waits for a slot or evaluates a long prompt) before a
/// comment keeps the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An answer in the form of one route.
pub(super) trait Answer: Send + 'static {
    /// The first chunks of a stream.
    fn begin(&mut self) -> Vec<Value>;
    /// Takes what happened to a choice. Returns its chunks of a stream.
    fn take(&mut self, choice: usize, progress: Progress) -> Vec<Value>;
    /// The last chunks of a stream.
    fn end(&mut self) -> Vec<Value>;
    /// The answer as one object, once all choices have finished.
    fn whole(&self) -> Value;
}

/// Responds with the answer. When the client disconnects, `choices` is dropped, which cancels them.
pub(super) async fn respond(
    mut answer: impl Answer,
    mut choices: Choices,
    stream: bool,
) -> Result<Response, ApiError> {
    if stream {
        return Ok(chunks(answer, choices));
    }
    while let Some((choice, progress)) = choices.next().await? {
        answer.take(choice, progress);
    }
    Ok(axum::Json(answer.whole()).into_response())
}

/// Responds with server-sent events, as soon as each is there.
fn chunks(mut answer: impl Answer, choices: Choices) -> Response {
    let queue = answer.begin().iter().map(sse_event).collect();
    let chunks = ChunkStream { answer, choices, queue, ended: false };
    let body = Body::from_stream(futures::stream::unfold(chunks, |mut chunks| async move {
        let bytes = chunks.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), chunks))
    }));
    (crate::event_stream::headers(), body).into_response()
}

/// Turns what happens to the choices into server-sent events.
struct ChunkStream<A> {
    answer: A,
    choices: Choices,
    /// Server-sent events that are ready to be written.
    queue: VecDeque<Bytes>,
    ended: bool,
}

impl<A: Answer> ChunkStream<A> {
    async fn next(&mut self) -> Option<Bytes> {
        while self.queue.is_empty() && !self.ended {
            match tokio::time::timeout(KEEP_ALIVE, self.choices.next()).await {
                Err(_) => self.queue.push_back(Bytes::from_static(b": working\n\n")),
                Ok(Ok(Some((choice, progress)))) => {
                    self.queue.extend(self.answer.take(choice, progress).iter().map(sse_event));
                }
                Ok(Ok(None)) => {
                    self.ended = true;
                    self.queue.extend(self.answer.end().iter().map(sse_event));
                    self.queue.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                }
                // The status is sent already. OpenAI's clients raise an exception for a chunk with
                // `error`, and without [DONE] no client takes the text for complete.
                Ok(Err(error)) => {
                    self.ended = true;
                    self.queue.push_back(sse_event(&error.body()));
                }
            }
        }
        self.queue.pop_front()
    }
}

/// One server-sent event. `serde_json` writes no newlines, so one `data:` line is enough.
fn sse_event(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}
