//! `POST /v1/embeddings`: vectors of texts, where the model is an embedding model.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;

use super::body;
use super::completions::tokens;
use super::error::ApiError;
use super::openai::EmbeddingRequest;
use super::state::{ReadyModel, WorkerState};
use crate::spawn;

pub(super) async fn embeddings(
    State(state): State<Arc<WorkerState>>,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let ready = state.ready()?;
    let sent = body::bytes(sent)?;
    let Some(pooling) = ready.pooling else {
        let problem = "is no embedding model: its file has no `llama.pooling_type` of mean, cls or last";
        return Err(ApiError::field("model", problem));
    };
    let shared = Arc::clone(&state);
    let (request, texts) = spawn::blocking(move || prepare(shared.ready()?, &sent)).await??;
    let count = texts.iter().map(Vec::len).sum();
    let vectors = futures::stream::iter(texts)
        .map(|tokens| ready.generation.embed(tokens, pooling))
        .buffered(ready.slots)
        .try_collect()
        .await
        .map_err(|failure| ApiError::about("input", failure))?;
    Ok(Json(request.answer(&ready.model_id, vectors, count)))
}

/// The request, and the tokens of its texts.
fn prepare(ready: &ReadyModel, sent: &[u8]) -> Result<(EmbeddingRequest, Vec<Vec<u32>>), ApiError> {
    let request = EmbeddingRequest::parse(&body::json(sent)?)?;
    if request.dimensions.is_some_and(|dimensions| dimensions > ready.width) {
        let problem = format_args!("is more than the {} that the model's vectors have", ready.width);
        return Err(ApiError::field("dimensions", problem));
    }
    let texts =
        request.input.iter().map(|text| tokens(ready, text, true)).collect::<crate::error::Result<_>>();
    Ok((request, texts.map_err(|failure| ApiError::about("input", failure))?))
}
