//! The routes of messages.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderName;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::count::count;
use crate::app::AppState;
use crate::dialects::anthropic::{MessageWriter, read};
use crate::dialects::chat::Chat;
use crate::error::{Code, Failure};
use crate::http::caller;
use crate::http::gateway::{self, Call};
use crate::http::ignored::telling;
use crate::http::problem::Problem;

/// The header by which Anthropic's clients know a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// `POST /v1/messages`
pub(crate) async fn messages(State(app): State<AppState>, request: Request) -> Response {
    let answered = gateway::serve(&app, request, |body| {
        let chat = chat(&body)?;
        let writer = Box::new(MessageWriter::new(&chat));
        Call::chat(chat, writer)
    });
    let mut response = answered.await;
    if let Some(id) = response.headers().get(gateway::REQUEST_ID).cloned() {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// `POST /v1/messages/count_tokens`
pub(crate) async fn count_tokens(State(app): State<AppState>, request: Request) -> Response {
    let caller = caller::of(request.extensions());
    let counted = async {
        let body = gateway::read(&app, request).await?;
        let chat = chat(&body)?;
        let ignored = chat.ignored.clone();
        Ok::<_, Problem>((count(&app, &caller, chat).await?, ignored))
    };
    match counted.await {
        Ok((tokens, ignored)) => telling(Json(json!({"input_tokens": tokens})), &ignored),
        Err(problem) => problem.into_response(),
    }
}

fn chat(body: &[u8]) -> Result<Chat, Problem> {
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        Failure::new(Code::InvalidJson, format!("the body cannot be read: {error}"))
            .hint(r#"send {"model":"ID","max_tokens":1024,"messages":[{"role":"user","content":"Hello"}]}"#)
    })?;
    Ok(read(&body)?)
}
