//! `POST /tokenize`, `/detokenize` and `/apply-template`, in llama.cpp's form: what a text or a conversation is
//! in tokens.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use serde_json::{Value, json};

use super::body;
use super::chat::render;
use super::error::ApiError;
use super::openai::ChatRequest;
use super::state::{ReadyModel, WorkerState};
use crate::fields::Fields;
use crate::spawn;

pub(super) async fn tokenize(
    State(state): State<Arc<WorkerState>>,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    answer(state, sent, |ready, fields| {
        let content = fields.string("content")?.ok_or_else(|| fields.error("content", "must be a string"))?;
        let special = fields.bool("add_special")?.unwrap_or(false);
        let tokens = match fields.bool("parse_special")?.unwrap_or(true) {
            true => ready.tokenizer.encode_text(content, special, special),
            false => ready.tokenizer.encode(content, false),
        };
        let tokens = tokens.map_err(|failure| ApiError::about("content", failure))?;
        let pieces = |id: &u32| json!({"id": id, "piece": ready.tokenizer.spell(&[*id])});
        Ok(match fields.bool("with_pieces")?.unwrap_or(false) {
            true => json!({"tokens": tokens.iter().map(pieces).collect::<Vec<_>>()}),
            false => json!({"tokens": tokens}),
        })
    })
    .await
}

pub(super) async fn detokenize(
    State(state): State<Arc<WorkerState>>,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    answer(state, sent, |ready, fields| {
        let problem = || fields.error("tokens", "must be an array of tokens");
        let tokens = fields.array("tokens")?.ok_or_else(problem)?;
        let tokens = tokens.iter().map(|token| token.as_u64().and_then(|token| u32::try_from(token).ok()));
        let tokens: Vec<u32> = tokens.collect::<Option<_>>().ok_or_else(problem)?;
        Ok(json!({"content": ready.tokenizer.spell(&tokens)}))
    })
    .await
}

/// Answers what takes too long for an async task.
async fn answer(
    state: Arc<WorkerState>,
    sent: Result<Bytes, BytesRejection>,
    work: impl FnOnce(&ReadyModel, &Fields<'_>) -> Result<Value, ApiError> + Send + 'static,
) -> Result<Json<Value>, ApiError> {
    let sent = body::bytes(sent)?;
    let answer = spawn::blocking(move || work(state.ready()?, &Fields::new("", &body::json(&sent)?)?));
    Ok(Json(answer.await??))
}

pub(super) async fn apply_template(
    State(state): State<Arc<WorkerState>>,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let ready = state.ready()?;
    let sent = body::bytes(sent)?;
    let sampling = ready.sampling.clone();
    let request = spawn::blocking(move || ChatRequest::parse(&body::json(&sent)?, sampling)).await??;
    let (_, prompt) = render(ready, request).await?;
    Ok(Json(json!({"prompt": prompt.text()})))
}
