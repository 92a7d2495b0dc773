//! `POST /v1/completions`: continues texts.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;

use super::answering::respond;
use super::body;
use super::choices::Choices;
use super::error::ApiError;
use super::openai::{CompletionAnswer, CompletionRequest, Text};
use super::state::{ReadyModel, WorkerState};
use crate::engine::generation::GenerationRequest;
use crate::spawn;

pub(super) async fn completions(
    State(state): State<Arc<WorkerState>>,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let ready = state.ready()?;
    let sent = body::bytes(sent)?;
    let shared = Arc::clone(&state);
    // Parsing, encoding and compiling a grammar take too long for an async task.
    let (request, echoes, generations) = spawn::blocking(move || prepare(shared.ready()?, &sent)).await??;
    let stream = request.common.stream;
    let answer = CompletionAnswer::new(&ready.model_id, Arc::clone(&ready.tokenizer), request, &echoes);
    let choices = Choices::submit(&ready.generation, generations);
    respond(answer, choices.map_err(|failure| ApiError::about("prompt", failure))?, stream).await
}

/// The request, the texts with which the choices begin, and what to generate for each.
fn prepare(
    ready: &ReadyModel,
    sent: &[u8],
) -> Result<(CompletionRequest, Vec<String>, Vec<GenerationRequest>), ApiError> {
    let request = CompletionRequest::parse(&body::json(sent)?, ready.sampling.clone())?;
    let constraint = ready.constraint(request.shape(), false)?;
    let (mut echoes, mut generations) = (Vec::new(), Vec::new());
    for prompt in &request.prompts {
        let about_prompt = |failure| ApiError::about("prompt", failure);
        let tokens = tokens(ready, prompt, false).map_err(about_prompt)?;
        ready.generation.check(tokens.len()).map_err(about_prompt)?;
        if request.echo {
            echoes.push(match prompt {
                Text::Text(text) => text.clone(),
                Text::Tokens(tokens) => ready.tokenizer.decode(tokens),
            });
        }
        let single = GenerationRequest {
            prompt: tokens.into(),
            begins_text: false,
            sampling: request.common.sampling(&ready.tokenizer),
            constraint: constraint.clone(),
            thinking: None,
            max_tokens: request.common.max_tokens,
            stop: request.common.stop.clone(),
            marks: Arc::default(),
            logprobs: request.logprobs,
        };
        generations.extend(single.choices(request.common.choices));
    }
    Ok((request, echoes, generations))
}

/// The tokens of a text as the model expects it: with what begins it, and with what ends it if it is `whole`.
pub(super) fn tokens(ready: &ReadyModel, text: &Text, whole: bool) -> crate::error::Result<Vec<u32>> {
    match text {
        Text::Text(text) => ready.tokenizer.encode_text(text, true, whole),
        Text::Tokens(tokens) => Ok(tokens.clone()),
    }
}
