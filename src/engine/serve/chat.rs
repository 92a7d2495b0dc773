//! `POST /v1/chat/completions`: from a request to its last byte.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;

use super::openai::{ApiError, ChatRequest, Reply};
use super::state::WorkerState;
use crate::engine::generation::{Event, Request};
use crate::error::{Code, Failure};
use crate::spawn;

/// How long a stream may be silent (waiting for a slot, computing a long prompt) before a comment
/// says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn completions(
    State(state): State<Arc<WorkerState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    state.ready()?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(rejection.status(), Code::BodyTooLarge.name(), "the body is larger than 4 MiB")
        }
        status => ApiError::new(status, Code::InvalidRequest.name(), "the body could not be read"),
    })?;
    // A long conversation takes a while to parse, render and encode.
    let prepare = spawn::blocking(move || {
        let ready = state.ready()?;
        let request = ChatRequest::parse(&body)?;
        let prompt = ready.template.prompt(&ready.tokenizer, &request.messages)?;
        let events = ready.engine.submit(Request {
            prompt,
            sampling: request.sampling,
            max_tokens: request.max_tokens,
            stop: request.stop,
        })?;
        let reply = Reply::new(&ready.model_id, request.include_usage);
        Ok::<_, ApiError>((reply, events, request.stream))
    });
    let (reply, events, stream) =
        prepare.await.map_err(|error| Failure::internal("preparing the prompt panicked").detail(error))??;
    if stream { Ok(streamed(reply, events)) } else { whole(&reply, events).await }
}

/// One object, once all is said. The client's leaving drops this future and with it `events`.
async fn whole(reply: &Reply, mut events: mpsc::UnboundedReceiver<Event>) -> Result<Response, ApiError> {
    let mut text = String::new();
    loop {
        match events.recv().await {
            Some(Event::Text(more)) => text.push_str(&more),
            Some(Event::Finished(finish)) => {
                return Ok(axum::Json(reply.completion(&text, &finish)).into_response());
            }
            Some(Event::Failed(failure)) => return Err(failure.into()),
            None => return Err(engine_gone()),
        }
    }
}

/// Server-sent events, each token in its own as soon as it is there. The client's leaving drops the
/// body and with it `events`.
fn streamed(reply: Reply, events: mpsc::UnboundedReceiver<Event>) -> Response {
    let first = VecDeque::from([data(&reply.role_chunk())]);
    let feed = Feed { reply, events, queue: first, ended: false };
    let body = Body::from_stream(futures::stream::unfold(feed, |mut feed| async move {
        let bytes = feed.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), feed))
    }));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

struct Feed {
    reply: Reply,
    events: mpsc::UnboundedReceiver<Event>,
    queue: VecDeque<Bytes>,
    ended: bool,
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        if self.queue.is_empty() && !self.ended {
            match tokio::time::timeout(KEEP_ALIVE, self.events.recv()).await {
                Err(_) => self.queue.push_back(Bytes::from_static(b": working\n\n")),
                Ok(Some(Event::Text(text))) => self.queue.push_back(data(&self.reply.text_chunk(&text))),
                Ok(Some(Event::Finished(finish))) => {
                    self.ended = true;
                    self.queue.push_back(data(&self.reply.finish_chunk(&finish)));
                    self.queue.extend(self.reply.usage_chunk(&finish).as_ref().map(data));
                    self.queue.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                }
                // The status was sent long ago. OpenAI's clients raise an `error` in a chunk, and
                // without [DONE] nobody takes the text for complete.
                Ok(Some(Event::Failed(failure))) => self.end_with(&failure.into()),
                Ok(None) => self.end_with(&engine_gone()),
            }
        }
        self.queue.pop_front()
    }

    fn end_with(&mut self, error: &ApiError) {
        self.ended = true;
        self.queue.push_back(data(&error.body()));
    }
}

/// One event. JSON on one line has no newline to break it.
fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn engine_gone() -> ApiError {
    Failure::internal("the engine ended in the middle of the answer").into()
}
