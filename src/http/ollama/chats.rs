//! `/api/chat`, `/api/generate` and the embeddings: what workers answer.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::asked::{Answered, asker, parse};
use crate::app::AppState;
use crate::config::{KeepAlive, Role};
use crate::dialects::ollama::{self, Asked, Embed, Form, OllamaWriter, Work, idle_answer};
use crate::dialects::ollama::{
    ChatLine, ChatRequest, EmbedAnswer, EmbedRequest, EmbeddingsAnswer, EmbeddingsRequest, GenerateLine,
    GenerateRequest,
};
use crate::error::{Code, Result};
use crate::fields::FieldError;
use crate::http::caller::Sender;
use crate::http::gateway::{self, Call};
use crate::http::ignored::telling;
use crate::http::operation::run;
use crate::ops::Asker;
use crate::residency::not_loaded;
use crate::time::monotonic;
use crate::workers::Route;

/// Says the next message of a conversation. Without messages the model is only loaded or unloaded.
#[utoipa::path(
    post,
    path = "/api/chat",
    operation_id = "ollama_chat",
    tag = "Ollama",
    request_body(content = ChatRequest, example = json!({
        "model": "rbee-quickstart", "messages": [{ "role": "user", "content": "Hello" }],
    })),
    responses((status = 200, description = "The answer as a whole, or in lines of JSON.", content(
        (ChatLine = "application/json"),
        (ChatLine = "application/x-ndjson"),
    ))),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn chat(State(app): State<AppState>, request: Request) -> Answered {
    answer(&app, request, Form::Chat, ollama::chat).await
}

/// Answers a prompt. Without one the model is only loaded or unloaded.
#[utoipa::path(
    post,
    path = "/api/generate",
    operation_id = "ollama_generate",
    tag = "Ollama",
    request_body(content = GenerateRequest, example = json!({
        "model": "rbee-quickstart", "prompt": "Hello", "stream": false,
    })),
    responses((status = 200, description = "The answer as a whole, or in lines of JSON.", content(
        (GenerateLine = "application/json"),
        (GenerateLine = "application/x-ndjson"),
    ))),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn generate(State(app): State<AppState>, request: Request) -> Answered {
    answer(&app, request, Form::Generate, ollama::generate).await
}

async fn answer(
    app: &AppState,
    request: Request,
    form: Form,
    read: impl FnOnce(&Value) -> std::result::Result<Asked, FieldError>,
) -> Answered {
    let (asker, head) = (asker(&request), gateway::Head::of(&request));
    let sender = Sender::of(request.extensions());
    let body = gateway::read(app, request).await?;
    let Asked { work, keep_alive, mut context_length } = read(&parse(&body)?)?;
    // Requests load nothing then.
    let is_unmet = !app.in_effect().residency.on_demand && context_length.take().is_some();
    let unmet = is_unmet.then(|| "options.num_ctx".to_owned());
    let keep_alive = gateway::keep_alive(keep_alive)?;
    let call = match work {
        Work::Chat(chat) => {
            let writer = OllamaWriter::new(form, &chat.model);
            Call::chat(*chat, Box::new(writer))?
        }
        Work::Raw { model, body, streams, ignored } => {
            let writer = OllamaWriter::new(form, &model);
            Call { ignored, ..Call::completion(&model, &body, streams, Box::new(writer))? }
        }
        Work::Nothing { model, streams, mut ignored } => {
            ignored.extend(unmet);
            sender.count()?;
            let reason = place(app, &sender, &asker, &model, keep_alive, context_length).await?;
            let line = format!("{}\n", idle_answer(form, &model, reason));
            let kind = if streams { "application/x-ndjson" } else { "application/json" };
            return Ok(telling(([(CONTENT_TYPE, kind)], line), &ignored));
        }
    };
    let mut call = Call { keep_alive, context_length, ..call };
    call.ignored.extend(unmet);
    Ok(gateway::serve_call(app, head, call).await)
}

/// Loads the model, or unloads it where it is not to stay. Returns which of the two. Everybody who may use the model
/// may load it; others may use it too, so only who manages the hive may unload it.
async fn place(
    app: &AppState,
    sender: &Sender,
    asker: &Asker,
    model: &str,
    keep_alive: Option<KeepAlive>,
    context_length: Option<u64>,
) -> Result<&'static str> {
    let holder = sender.holder.as_ref();
    if keep_alive == Some(KeepAlive::For(Duration::ZERO)) {
        holder.map_or(Ok(()), |holder| holder.require(Role::Manage, "unloading a model"))?;
        let id = app.find_target(model).await?.served_id();
        return match run(app, asker, &json!({ "ModelUnload": { "id": id } })).await {
            Err(failure) if failure.code != Code::ModelNotLoaded => Err(failure),
            _ => Ok("unload"),
        };
    }
    let id = app.find_requested(model).await?.served_id();
    app.check_may_use(holder, &id)?;
    if !app.in_effect().residency.on_demand && app.workers.statuses(&id).is_empty() {
        return Err(not_loaded(&id, &app.workers.list()));
    }
    let keep_alive = keep_alive.unwrap_or_else(|| app.residency.idle(&id));
    let context_length = match context_length {
        Some(least) => gateway::lacking(app, &id, least).await?,
        None => None,
    };
    let load = json!({ "id": id, "keep_alive": keep_alive, "context_length": context_length,
                       "reason": "a client of Ollama's asked for it" });
    run(app, asker, &json!({ "ModelLoad": load })).await?;
    Ok("load")
}

/// Makes vectors of a text, or of several.
#[utoipa::path(
    post,
    path = "/api/embed",
    operation_id = "ollama_embed",
    tag = "Ollama",
    request_body(content = EmbedRequest, example = json!({
        "model": "rbee-quickstart", "input": "Hello",
    })),
    responses((status = 200, description = "The vectors.", body = EmbedAnswer)),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn embed(State(app): State<AppState>, request: Request) -> Answered {
    vectors(&app, request, Embed::read).await
}

/// Makes a vector of one text: the older form.
#[utoipa::path(
    post,
    path = "/api/embeddings",
    operation_id = "ollama_embeddings",
    tag = "Ollama",
    request_body = EmbeddingsRequest,
    responses((status = 200, description = "The vectors.", body = EmbeddingsAnswer)),
    extensions(("x-errors" = json!(gateway::ERRORS)))
)]
pub(crate) async fn embeddings(State(app): State<AppState>, request: Request) -> Answered {
    vectors(&app, request, Embed::read_single).await
}

async fn vectors(
    app: &AppState,
    request: Request,
    read: impl FnOnce(&Value) -> std::result::Result<Embed, FieldError>,
) -> Answered {
    let (asked_at, sender) = (monotonic(), Sender::of(request.extensions()));
    let answered = gateway::serve_questions(app, &sender, async |recorder| {
        let body = gateway::read(app, request).await?;
        let asked = read(&parse(&body)?)?;
        let keep_alive = gateway::keep_alive(asked.keep_alive.as_ref())?;
        let engines = if asked.is_empty() {
            app.find_requested(&asked.model).await?;
            Value::Null
        } else {
            let question = Call::question(&asked.model, Route::Embeddings, &asked.for_engine());
            gateway::ask(app, &sender, Call { keep_alive, ..question }, &recorder).await?
        };
        let took = u64::try_from(asked_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(telling(Json(asked.answer(&engines, took)), &asked.ignored))
    });
    Ok(answered.await)
}
