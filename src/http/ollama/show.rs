//! `POST /api/show`: what one model is.

use axum::Json;
use axum::extract::{Request, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::asked::{Answered, model, read};
use super::card::{Details, capabilities};
use super::shape::{ShowRequest, Shown};
use crate::app::{App, AppState, Target};
use crate::error::{Code, Failure};
use crate::fields::Fields;
use crate::http::caller::holder;
use crate::http::ignored::telling;
use crate::http::problem::Problem;
use crate::models::gguf::{Array, Arrays, Header, Value as Gguf};

/// The key of the chat template, which has a member of its own.
const TEMPLATE: &str = "tokenizer.chat_template";

/// Shows one model: its details, its metadata and what it can do.
#[utoipa::path(
    post,
    path = "/api/show",
    operation_id = "ollama_show",
    tag = "Ollama",
    request_body = ShowRequest,
    responses((status = 200, description = "The model.", body = Shown)),
    extensions(("x-errors" = json!([Code::ModelNotFound, Code::ModelAmbiguous, Code::InvalidId, Code::ModelCorrupt,
        Code::ModelIncomplete, Code::Io])))
)]
pub(crate) async fn show(State(app): State<AppState>, request: Request) -> Answered {
    let holder = holder(request.extensions()).cloned();
    let body = read(&app, request).await?;
    let fields = Fields::new("", &body)?;
    let name = model(&fields)?;
    let verbose = fields.bool("verbose")?.unwrap_or(false);
    let shown = match app.find_target(name).await {
        Ok(target) => {
            app.check_may_use(holder.as_ref(), &target.served_id())?;
            shown_here(&app, &target, verbose).await?
        }
        Err(failure) => {
            let there = app.fleet.others().filter(|_| failure.code == Code::ModelNotFound);
            let there =
                there.and_then(|others| Some((others.holders(&[name], None).into_iter().next()?, others)));
            let Some((holder_there, others)) = there else { return Err(failure.into()) };
            app.check_may_use(holder.as_ref(), name)?;
            let question = ShownThere { model: holder_there.served_id, verbose };
            others.peer(&holder_there.hive)?.ask(SHOW, &question).await?
        }
    };
    Ok(telling(Json(shown), &fields.others(&["model", "name", "verbose"])))
}

/// The path at which a hive asks another one what a model is.
pub(crate) const SHOW: &str = "/show";

/// What a hive asks another one.
#[derive(Deserialize, Serialize)]
pub(crate) struct ShownThere {
    model: String,
    verbose: bool,
}

/// Shows a model to another hive.
pub(crate) async fn show_to_hive(
    State(app): State<AppState>,
    Json(ShownThere { model, verbose }): Json<ShownThere>,
) -> Result<Json<Value>, Problem> {
    let target = app.find_target(&model).await?;
    Ok(Json(shown_here(&app, &target, verbose).await?))
}

async fn shown_here(app: &App, target: &Target, verbose: bool) -> Result<Value, Failure> {
    let arrays = if verbose { Arrays::Keep } else { Arrays::Skip };
    let header = app.catalog.header(&target.model, arrays).await?;
    app.workers.engines().await;
    Ok(shown(app, target, &header))
}

fn shown(app: &App, target: &Target, header: &Header) -> Value {
    let (model, name) = (&target.model, target.served_id());
    let template = header.metadata.chat_template().unwrap_or_default();
    let parameters = parameters(target);
    let mut shown = json!({
        "modelfile": modelfile(&name, template, target, &parameters),
        "template": template,
        "details": Details::of(&name, model),
        "model_info": model_info(header),
        "capabilities": capabilities(app, model, &name),
        "modified_at": model.added_at,
    });
    if !parameters.is_empty() {
        let lines: Vec<_> = parameters.iter().map(|(name, value)| format!("{name:<30} {value}")).collect();
        shown["parameters"] = lines.join("\n").into();
    }
    if let Some(system) = &target.settings.system_prompt {
        shown["system"] = system.as_str().into();
    }
    if let Some(license) = header.metadata.str("general.license") {
        shown["license"] = license.into();
    }
    shown
}

/// What requests get where they do not say, under Ollama's names.
fn parameters(target: &Target) -> Vec<(String, Value)> {
    let sampling = target.model.sampling.unwrap_or_default();
    let sampling = target.settings.sampling.or(sampling);
    let Ok(Value::Object(sampling)) = serde_json::to_value(sampling) else { return Vec::new() };
    let of_ollama = |name: String| if name == "max_tokens" { "num_predict".to_owned() } else { name };
    let set = sampling.into_iter().filter(|(_, value)| !value.is_null());
    let mut parameters: Vec<_> = set.map(|(name, value)| (of_ollama(name), value)).collect();
    parameters.extend(target.settings.context_length.map(|tokens| ("num_ctx".to_owned(), tokens.into())));
    parameters
}

fn modelfile(name: &str, template: &str, target: &Target, parameters: &[(String, Value)]) -> String {
    let mut text = format!("# The settings of a model of rbee-hive, as Ollama writes them\nFROM {name}\n");
    if !template.is_empty() {
        text += &format!("TEMPLATE \"\"\"{template}\"\"\"\n");
    }
    if let Some(system) = &target.settings.system_prompt {
        text += &format!("SYSTEM \"\"\"{system}\"\"\"\n");
    }
    for (name, value) in parameters {
        text += &format!("PARAMETER {name} {value}\n");
    }
    text
}

/// The metadata of the file. Arrays that were not read are `null`, as Ollama has them.
fn model_info(header: &Header) -> Map<String, Value> {
    let pairs = header.metadata.iter().filter(|(key, _)| *key != TEMPLATE);
    let mut info: Map<_, _> = pairs.map(|(key, value)| (key.to_owned(), in_json(value))).collect();
    info.entry("general.parameter_count").or_insert_with(|| header.parameter_count().into());
    info
}

fn in_json(value: &Gguf) -> Value {
    match value {
        Gguf::U8(number) => json!(number),
        Gguf::I8(number) => json!(number),
        Gguf::U16(number) => json!(number),
        Gguf::I16(number) => json!(number),
        Gguf::U32(number) => json!(number),
        Gguf::I32(number) => json!(number),
        Gguf::U64(number) => json!(number),
        Gguf::I64(number) => json!(number),
        Gguf::F32(number) => json!(number),
        Gguf::F64(number) => json!(number),
        Gguf::Bool(is_so) => json!(is_so),
        Gguf::String(text) => json!(text),
        Gguf::Array(array) => array_in_json(array),
    }
}

fn array_in_json(array: &Array) -> Value {
    match array {
        Array::U8(items) => json!(items),
        Array::I8(items) => json!(items),
        Array::U16(items) => json!(items),
        Array::I16(items) => json!(items),
        Array::U32(items) => json!(items),
        Array::I32(items) => json!(items),
        Array::U64(items) => json!(items),
        Array::I64(items) => json!(items),
        Array::F32(items) => json!(items),
        Array::F64(items) => json!(items),
        Array::Bool(items) => json!(items),
        Array::String(items) => json!(items),
        Array::Nested(items) => items.iter().map(array_in_json).collect(),
        Array::Skipped { .. } => Value::Null,
    }
}
