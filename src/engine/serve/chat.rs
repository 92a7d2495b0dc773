//! `POST /v1/chat/completions`: submits the request and writes the response.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;

use super::answering::respond;
use super::body;
use super::choices::Choices;
use super::error::ApiError;
use super::openai::{BUDGET, ChatAnswer, ChatRequest};
use super::state::{ReadyModel, WorkerState};
use crate::engine::answer::AnswerReader;
use crate::engine::answer::style::{REASONING_MARKS, opens_reasoning};
use crate::engine::answer::told::told;
use crate::engine::generation::{GenerationRequest, ThinkingLimit};
use crate::engine::template::{Conversation, Prompt};
use crate::spawn;

pub(super) async fn completions(
    State(state): State<Arc<WorkerState>>,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let ready = state.ready()?;
    let sent = body::bytes(sent)?;
    // Parsing a long conversation takes too long for an async task.
    let sampling = ready.sampling.clone();
    let request = spawn::blocking(move || ChatRequest::parse(&body::json(&sent)?, sampling)).await??;
    let (request, prompt) = render(ready, request).await?;
    let shared = Arc::clone(&state);
    let (request, generations, reader) =
        spawn::blocking(move || prepare(shared.ready()?, request, &prompt)).await??;
    let stream = request.common.stream;
    let answer = ChatAnswer::new(&ready.model_id, Arc::clone(&ready.tokenizer), request, reader);
    respond(answer, Choices::submit(&ready.generation, generations)?, stream).await
}

/// Renders the conversation, with the tools where the chat template or the engine shows them.
pub(super) async fn render(
    ready: &ReadyModel,
    mut request: ChatRequest,
) -> Result<(ChatRequest, Prompt), ApiError> {
    let tools = request.tools.offered();
    let messages = told(ready.style, std::mem::take(&mut request.messages), tools);
    let tools = if ready.style.knows_tools { tools.to_vec() } else { Vec::new() };
    let variables = std::mem::take(&mut request.variables);
    let conversation = Conversation { messages, tools, variables };
    Ok((request, ready.template.render(&ready.tokenizer, conversation).await?))
}

/// What to generate for each choice, and how to read it. Compiles the grammar of the answer: not for an async
/// task.
fn prepare(
    ready: &ReadyModel,
    mut request: ChatRequest,
    prompt: &Prompt,
) -> Result<(ChatRequest, Vec<GenerationRequest>, impl Fn() -> AnswerReader + use<>), ApiError> {
    let opened = ready.style.thinks && opens_reasoning(&prompt.text());
    let tokens = prompt.tokens(&ready.tokenizer)?;
    ready.generation.check(tokens.len())?;
    let constraint = ready.constraint(request.shape(), opened)?;
    // An answer in a form, of which the prompt has not begun the reasoning, has none.
    let may_think = ready.style.thinks && (opened || constraint.is_none());
    let thinking = thinking_limit(ready, &request, opened)?.filter(|_| may_think);
    if request.thinking.budget.is_some() && !ready.style.thinks {
        request.ignored.push(BUDGET.to_owned());
    }
    let tools = request.tools.allowed();
    let single = GenerationRequest {
        prompt: tokens.into(),
        // A constraint says itself which space there is.
        begins_text: constraint.is_none(),
        sampling: request.common.sampling(&ready.tokenizer),
        constraint,
        thinking,
        max_tokens: request.common.max_tokens,
        stop: request.common.stop.clone(),
        marks: ready.style.marks(&ready.tokenizer, !tools.is_empty()).into(),
        logprobs: request.logprobs,
    };
    let style = ready.style;
    let reader = move || AnswerReader::new(style, opened, tools.clone());
    let generations = single.choices(request.common.choices);
    Ok((request, generations, reader))
}

/// How much the model may think, where the request says.
fn thinking_limit(
    ready: &ReadyModel,
    request: &ChatRequest,
    opened: bool,
) -> Result<Option<ThinkingLimit>, ApiError> {
    let knows_effort = ready.template.mentions("reasoning_effort");
    let Some(tokens) = request.thinking.limit(knows_effort) else { return Ok(None) };
    let end = ready.tokenizer.encode(REASONING_MARKS.1, true)?.into();
    Ok(Some(ThinkingLimit { tokens, opened, marks: REASONING_MARKS, end }))
}
