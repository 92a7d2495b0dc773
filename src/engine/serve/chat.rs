//! `POST /v1/chat/completions`: submits the request and writes the response.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;

use super::openai::{ApiError, ChatRequest, ChatResponse, Wanted};
use super::state::WorkerState;
use crate::engine::constraint::Constraint;
use crate::engine::generation::{GenerationEvent, GenerationRequest};
use crate::error::{Code, Failure};
use crate::spawn;

/// Largest body of a request, in bytes.
pub(super) const MAX_BODY: usize = 32 << 20;

/// How long a stream may be silent (while it waits for a slot or evaluates a long prompt) before a
/// comment keeps the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn completions(
    State(state): State<Arc<WorkerState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let ready = state.ready()?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let problem = format!("the body is larger than {} MiB", MAX_BODY >> 20);
            ApiError::new(rejection.status(), Code::BodyTooLarge.name(), problem)
        }
        status => ApiError::new(status, Code::InvalidRequest.name(), "the body could not be read"),
    })?;
    // Parsing a long conversation takes too long for an async task.
    let sampling = ready.sampling.clone();
    let request = spawn::blocking(move || ChatRequest::parse(&body, sampling)).await??;
    let constraint = match request.wanted {
        Some(wanted) => Some(constraint(&state, wanted).await?),
        None => None,
    };
    let prompt = ready.template.prompt(&ready.tokenizer, request.messages, request.variables).await?;
    let events = ready.generation.submit(GenerationRequest {
        prompt,
        sampling: request.sampling,
        constraint,
        max_tokens: request.max_tokens,
        stop: request.stop,
    })?;
    let response = ChatResponse::new(&ready.model_id, request.include_usage, request.ignored);
    if request.stream { Ok(stream_chunks(response, events)) } else { complete(&response, events).await }
}

/// The constraint to the form of the answer.
async fn constraint(state: &Arc<WorkerState>, wanted: Wanted) -> Result<Constraint, ApiError> {
    let state = Arc::clone(state);
    spawn::blocking(move || Ok(wanted.constraint(state.ready()?.grammars()?)?)).await?
}

/// Responds with one object once the generation has ended. When the client disconnects, this future
/// and with it `events` is dropped, which cancels the generation.
async fn complete(
    response: &ChatResponse,
    mut events: mpsc::UnboundedReceiver<GenerationEvent>,
) -> Result<Response, ApiError> {
    let mut text = String::new();
    loop {
        match events.recv().await {
            Some(GenerationEvent::Text(more)) => text.push_str(&more),
            Some(GenerationEvent::Finished(summary)) => {
                return Ok(axum::Json(response.completion(&text, &summary)).into_response());
            }
            Some(GenerationEvent::Failed(failure)) => return Err(failure.into()),
            None => return Err(generation_thread_ended()),
        }
    }
}

/// Responds with server-sent events, one per generated text, as soon as each is there. When the client
/// disconnects, the body and with it `events` is dropped, which cancels the generation.
fn stream_chunks(response: ChatResponse, events: mpsc::UnboundedReceiver<GenerationEvent>) -> Response {
    let first = VecDeque::from([sse_event(&response.role_chunk())]);
    let chunks = ChunkStream { response, events, queue: first, ended: false };
    let body = Body::from_stream(futures::stream::unfold(chunks, |mut chunks| async move {
        let bytes = chunks.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), chunks))
    }));
    (crate::event_stream::headers(), body).into_response()
}

/// Turns generation events into server-sent events.
struct ChunkStream {
    response: ChatResponse,
    events: mpsc::UnboundedReceiver<GenerationEvent>,
    /// Server-sent events that are ready to be written.
    queue: VecDeque<Bytes>,
    ended: bool,
}

impl ChunkStream {
    async fn next(&mut self) -> Option<Bytes> {
        if self.queue.is_empty() && !self.ended {
            match tokio::time::timeout(KEEP_ALIVE, self.events.recv()).await {
                Err(_) => self.queue.push_back(Bytes::from_static(b": working\n\n")),
                Ok(Some(GenerationEvent::Text(text))) => {
                    self.queue.push_back(sse_event(&self.response.text_chunk(&text)));
                }
                Ok(Some(GenerationEvent::Finished(summary))) => {
                    self.ended = true;
                    self.queue.push_back(sse_event(&self.response.finish_chunk(&summary)));
                    self.queue.extend(self.response.usage_chunk(&summary).as_ref().map(sse_event));
                    self.queue.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                }
                // The status is sent already. OpenAI's clients raise an exception for a chunk with
                // `error`, and without [DONE] no client takes the text for complete.
                Ok(Some(GenerationEvent::Failed(failure))) => self.end_with(&failure.into()),
                Ok(None) => self.end_with(&generation_thread_ended()),
            }
        }
        self.queue.pop_front()
    }

    fn end_with(&mut self, error: &ApiError) {
        self.ended = true;
        self.queue.push_back(sse_event(&error.body()));
    }
}

/// One server-sent event. `serde_json` writes no newlines, so one `data:` line is enough.
fn sse_event(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn generation_thread_ended() -> ApiError {
    Failure::internal("the generation thread ended before the answer was complete").into()
}
