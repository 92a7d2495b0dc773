//! The routes of messages.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::count::Counter;
use crate::app::AppState;
use crate::dialects::anthropic::{MessageWriter, MessagesAnswer, MessagesEvent, MessagesRequest, read};
use crate::dialects::chat::Chat;
use crate::error::{Code, Failure};
use crate::http::caller::Sender;
use crate::http::gateway::{self, Call};
use crate::http::ignored::telling;
use crate::http::problem::Problem;

/// The answer of a count.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenCount {
    input_tokens: u64,
}

/// Answers the messages of a conversation, in Anthropic's form.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "messages",
    tag = "Anthropic",
    request_body(content = MessagesRequest, example = json!({
        "model": "rbee-quickstart", "stream": true, "max_tokens": 100,
        "messages": [{ "role": "user", "content": "Hello" }],
    })),
    responses((status = 200, description = "The message, or its events where `stream` is true.", content(
        (MessagesAnswer = "application/json"),
        (MessagesEvent = "text/event-stream"),
    ))),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn messages(State(app): State<AppState>, request: Request) -> Response {
    gateway::serve(&app, request, |body| {
        let chat = chat(&body)?;
        let writer = Box::new(MessageWriter::new(&chat));
        Call::chat(chat, writer)
    })
    .await
}

/// Counts the tokens of a prompt. The model is loaded for it.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    operation_id = "count_tokens",
    tag = "Anthropic",
    request_body = MessagesRequest,
    responses((status = 200, description = "The count.", body = TokenCount)),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn count_tokens(State(app): State<AppState>, request: Request) -> Response {
    let sender = Sender::of(request.extensions());
    gateway::serve_questions(&app, &sender, async |recorder| {
        let body = gateway::read(&app, request).await?;
        let chat = chat(&body)?;
        let ignored = chat.ignored.clone();
        let tokens = Counter { app: &app, sender: &sender, recorder }.count(chat).await?;
        Ok(telling(Json(TokenCount { input_tokens: tokens }), &ignored))
    })
    .await
}

fn chat(body: &[u8]) -> Result<Chat, Problem> {
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        Failure::new(Code::InvalidJson, format!("the body cannot be read: {error}"))
            .hint(r#"send {"model":"ID","max_tokens":1024,"messages":[{"role":"user","content":"Hello"}]}"#)
    })?;
    Ok(read(&body)?)
}
