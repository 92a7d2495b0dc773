//! What requests and answers look like, for the description of the API. Requests are read field by field, so that a
//! refusal names the field; these types are never made.

#![expect(dead_code, reason = "the types are read by the derive alone")]

use serde_json::Value;
use utoipa::ToSchema;

/// A request for a response (<https://platform.openai.com/docs/api-reference/responses/create>). Fields without effect,
/// unknown ones too, are named in the answer's header `x-rbee-ignored-fields`.
#[derive(ToSchema)]
pub(crate) struct ResponseRequest {
    /// What names the model.
    #[schema(min_length = 1)]
    model: String,
    /// A text, or items. It may be missing where the request goes on with a response.
    input: Option<Value>,
    /// The system prompt.
    instructions: Option<String>,
    /// The response with which the request goes on.
    previous_response_id: Option<String>,
    /// The functions and custom tools that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Value,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    #[schema(value_type = Option<Object>)]
    text: Value,
    /// How much the model thinks.
    #[schema(value_type = Option<Object>)]
    reasoning: Value,
    #[schema(minimum = 1)]
    max_output_tokens: Option<u64>,
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u64>,
    include: Option<Vec<String>>,
    stream: Option<bool>,
    /// Whether the response is kept; it is unless this is false.
    store: Option<bool>,
    /// A text, or several, at which the answer ends.
    stop: Option<Value>,
    /// How long the model stays in memory without a request from now on.
    keep_alive: Option<crate::config::KeepAlive>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
}

/// A response.
#[derive(ToSchema)]
#[schema(as = Response)]
pub(crate) struct ResponseAnswer {
    id: String,
    /// Always `response`.
    object: String,
    /// Seconds since the Unix epoch.
    created_at: u64,
    /// `completed`, `incomplete`, `failed` or `in_progress`.
    status: String,
    model: String,
    /// Its items: messages, reasoning, and calls of tools.
    #[schema(value_type = Vec<Object>)]
    output: Value,
    #[schema(value_type = Option<Object>)]
    usage: Value,
    #[schema(value_type = Option<Object>)]
    error: Value,
}

/// The data of an event of a stream; `type` is the event's name.
#[derive(ToSchema)]
pub(crate) struct ResponseEvent {
    r#type: String,
    sequence_number: Option<u64>,
}

/// A page of items.
#[derive(ToSchema)]
#[schema(as = ResponseItems)]
pub(crate) struct ItemList {
    /// Always `list`.
    object: String,
    #[schema(value_type = Vec<Object>)]
    data: Value,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}
