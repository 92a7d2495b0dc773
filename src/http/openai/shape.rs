//! What requests and answers look like, for the description of the API. Both pass as they are: the engine judges what
//! the hive does not read. These types are never made.
//!
//! The numbers of a request and their ranges are those that the hive checks (`numbers`).

#![expect(dead_code, reason = "the types are read by the derive alone")]

use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Array, Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::config::KeepAlive;
use crate::http::numbers;

/// A request for a chat completion.
pub(super) struct ChatRequest;
/// A request for a completion.
pub(super) struct CompletionRequest;
/// A request for embeddings.
pub(super) struct EmbeddingRequest;
/// A request for a ranking.
pub(super) struct RerankRequest;

/// The parameters of requests that may wait.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Narrated {
    /// Whether the comments of a stream tell what the request waits for.
    #[param(rename = "x-rbee-narrate", value_type = Option<String>)]
    narrate: Option<String>,
}

macro_rules! requests {
    ($($request:ty, $name:literal, $about:literal, [$($field:literal: $schema:expr),+];)+) => {$(
        impl PartialSchema for $request {
            fn schema() -> RefOr<Schema> {
                request($about, [$(($field, $schema)),+])
            }
        }

        impl ToSchema for $request {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                schemas.push((KeepAlive::name().into(), KeepAlive::schema()));
            }
        }
    )+};
}

requests! {
    ChatRequest, "OpenAiChatRequest",
        "A request for a chat completion (<https://platform.openai.com/docs/api-reference/chat>).",
        ["messages": Array::new(object()).into()];
    CompletionRequest, "OpenAiCompletionRequest", "A request for a completion.", ["prompt": text_or_list()];
    EmbeddingRequest, "OpenAiEmbeddingRequest", "A request for embeddings.", ["input": text_or_list()];
    RerankRequest, "RerankRequest", "A request for a ranking.",
        ["query": text().into(), "documents": Array::new(ObjectBuilder::new()).into()];
}

/// The schema of a request with these required fields, besides the model. It takes all others: the engine of the
/// model says which it knows.
fn request<const N: usize>(about: &str, required: [(&str, RefOr<Schema>); N]) -> RefOr<Schema> {
    let model = text().min_length(Some(1)).description(Some("What names the model."));
    let mut fields = ObjectBuilder::new().property("model", model).required("model");
    for (name, schema) in required {
        fields = fields.property(name, schema).required(name);
    }
    let flag = |about| ObjectBuilder::new().schema_type(Type::Boolean).description(Some(about));
    fields = fields
        .property("stream", flag("Whether the answer comes as events."))
        .property("keep_alive", utoipa::openapi::Ref::from_schema_name(KeepAlive::name()));
    for (name, least, most) in numbers::ranges() {
        // Of another type than a number, the engine judges it.
        fields = fields.property(name, ObjectBuilder::new().minimum(Some(least)).maximum(Some(most)));
    }
    let about =
        format!("{about} Other fields reach the engine, which says in its answer which of them it ignores.");
    fields.description(Some(about)).into()
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn object() -> Object {
    ObjectBuilder::new().schema_type(Type::Object).build()
}

/// A text, or texts or tokens.
fn text_or_list() -> RefOr<Schema> {
    OneOfBuilder::new().item(text()).item(Array::new(ObjectBuilder::new())).into()
}

/// A chat completion, or a piece of one in a stream.
#[derive(ToSchema)]
#[schema(as = OpenAiChatAnswer)]
pub(super) struct ChatAnswer {
    id: Option<String>,
    object: Option<String>,
    model: Option<String>,
    #[schema(value_type = Vec<Object>)]
    choices: Value,
    #[schema(value_type = Option<Object>)]
    usage: Value,
}

/// A completion, or a piece of one in a stream.
#[derive(ToSchema)]
#[schema(as = OpenAiCompletionAnswer)]
pub(super) struct CompletionAnswer {
    id: Option<String>,
    object: Option<String>,
    model: Option<String>,
    #[schema(value_type = Vec<Object>)]
    choices: Value,
    #[schema(value_type = Option<Object>)]
    usage: Value,
}

/// Embeddings.
#[derive(ToSchema)]
#[schema(as = OpenAiEmbeddingAnswer)]
pub(super) struct EmbeddingAnswer {
    object: Option<String>,
    model: Option<String>,
    #[schema(value_type = Vec<Object>)]
    data: Value,
    #[schema(value_type = Option<Object>)]
    usage: Value,
}

/// A ranking.
#[derive(ToSchema)]
pub(super) struct RerankAnswer {
    model: Option<String>,
    #[schema(value_type = Vec<Object>)]
    results: Value,
    #[schema(value_type = Option<Object>)]
    usage: Value,
}
