//! What requests and answers look like, for the description of the API. Requests are read field by field, so that a
//! refusal names the field; these types are never made.

#![expect(dead_code, reason = "the types are read by the derive alone")]

use serde_json::Value;
use utoipa::ToSchema;

use crate::config::KeepAlive;
use crate::time::Instant;

/// A request of `/api/chat` (<https://docs.ollama.com/api/chat>). Fields without effect, unknown ones too, are named
/// in the answer's header `x-rbee-ignored-fields`.
#[derive(ToSchema)]
#[schema(as = OllamaChatRequest)]
pub(crate) struct ChatRequest {
    #[serde(flatten)]
    common: Common,
    messages: Option<Vec<Message>>,
    /// The tools that the model may call, in OpenAI's form.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Value,
}

/// A request of `/api/generate`. Fields without effect are named as those of `/api/chat` are.
#[derive(ToSchema)]
#[schema(as = OllamaGenerateRequest)]
pub(crate) struct GenerateRequest {
    #[serde(flatten)]
    common: Common,
    prompt: Option<String>,
    /// The system prompt.
    system: Option<String>,
    /// Images in Base64.
    images: Option<Vec<String>>,
    /// Whether the prompt goes to the model as it is, without a template.
    raw: Option<bool>,
}

/// What both have.
#[derive(ToSchema)]
#[schema(as = OllamaCommon)]
struct Common {
    /// What names the model.
    #[schema(min_length = 1)]
    model: String,
    /// `json`, or a JSON Schema.
    format: Option<Value>,
    options: Option<Options>,
    /// Whether the answer comes in pieces: lines of JSON. It does unless this is false.
    stream: Option<bool>,
    /// How long the model stays in memory without a request from now on.
    keep_alive: Option<KeepAlive>,
    /// Whether the model thinks, or how much.
    think: Option<Value>,
    logprobs: Option<bool>,
    #[schema(minimum = 0)]
    top_logprobs: Option<u64>,
}

/// How to sample, and how much context. Others have no effect.
#[derive(ToSchema)]
#[schema(as = OllamaOptions)]
struct Options {
    /// The most tokens of the answer; 0 or less for no limit.
    num_predict: Option<i64>,
    /// The least context, in tokens.
    num_ctx: Option<u64>,
    temperature: Option<f64>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    typical_p: Option<f64>,
    seed: Option<i64>,
    /// A text, or several, at which the answer ends.
    stop: Option<Value>,
    repeat_penalty: Option<f64>,
    repeat_last_n: Option<i64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    mirostat: Option<u32>,
    mirostat_tau: Option<f64>,
    mirostat_eta: Option<f64>,
}

/// One message of a conversation.
#[derive(ToSchema)]
#[schema(as = OllamaMessage)]
struct Message {
    role: Role,
    content: Option<String>,
    /// Images in Base64.
    images: Option<Vec<String>>,
    thinking: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    tool_calls: Value,
    /// Of a result: the tool's name.
    tool_name: Option<String>,
}

/// Who says a message.
#[derive(ToSchema)]
#[schema(as = OllamaRole)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// An answer of `/api/chat`, or a line of one.
#[derive(ToSchema)]
#[schema(as = OllamaChatAnswer)]
pub(crate) struct ChatLine {
    #[serde(flatten)]
    end: End,
    message: Message,
}

/// An answer of `/api/generate`, or a line of one.
#[derive(ToSchema)]
#[schema(as = OllamaGenerateAnswer)]
pub(crate) struct GenerateLine {
    #[serde(flatten)]
    end: End,
    response: String,
    thinking: Option<String>,
}

/// What both have. The counts, and the times in nanoseconds, are in the last line alone.
#[derive(ToSchema)]
#[schema(as = OllamaEnd)]
struct End {
    model: String,
    created_at: Instant,
    done: bool,
    /// `stop`, `length`, `load` or `unload`.
    done_reason: Option<String>,
    total_duration: Option<u64>,
    load_duration: Option<u64>,
    prompt_eval_count: Option<u64>,
    prompt_eval_duration: Option<u64>,
    eval_count: Option<u64>,
    eval_duration: Option<u64>,
}

/// A request of `/api/embed`.
#[derive(ToSchema)]
#[schema(as = OllamaEmbedRequest)]
pub(crate) struct EmbedRequest {
    /// What names the model.
    #[schema(min_length = 1)]
    model: String,
    input: Texts,
    /// The length of the vectors at most.
    #[schema(minimum = 1)]
    dimensions: Option<u64>,
    keep_alive: Option<KeepAlive>,
}

/// A text, or several.
#[derive(ToSchema)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

/// A request of `/api/embeddings`.
#[derive(ToSchema)]
#[schema(as = OllamaEmbeddingsRequest)]
pub(crate) struct EmbeddingsRequest {
    /// What names the model.
    #[schema(min_length = 1)]
    model: String,
    prompt: String,
    keep_alive: Option<KeepAlive>,
}

/// An answer of `/api/embed`.
#[derive(ToSchema)]
#[schema(as = OllamaEmbedAnswer)]
pub(crate) struct EmbedAnswer {
    model: String,
    embeddings: Vec<Vec<f64>>,
    total_duration: Option<u64>,
    load_duration: Option<u64>,
    prompt_eval_count: Option<u64>,
}

/// An answer of `/api/embeddings`.
#[derive(ToSchema)]
#[schema(as = OllamaEmbeddingsAnswer)]
pub(crate) struct EmbeddingsAnswer {
    embedding: Vec<f64>,
}
