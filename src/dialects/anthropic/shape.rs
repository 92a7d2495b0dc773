//! What requests and answers look like, for the description of the API. Requests are read field by field, so that a
//! refusal names the field; these types are never made.

#![expect(dead_code, reason = "the types are read by the derive alone")]

use serde_json::Value;
use utoipa::ToSchema;

/// A request in Anthropic's form (<https://platform.claude.com/docs/en/api/messages>). Fields without effect, unknown
/// ones too, are named in the answer's header `x-rbee-ignored-fields`.
#[derive(ToSchema)]
#[schema(as = AnthropicRequest)]
pub(crate) struct MessagesRequest {
    /// What names the model.
    #[schema(min_length = 1)]
    model: String,
    #[schema(min_items = 1)]
    messages: Vec<Message>,
    /// The system prompt: a text, or blocks of text.
    system: Option<Value>,
    /// The most tokens of the answer.
    #[schema(minimum = 1)]
    max_tokens: Option<u64>,
    /// The tools that the model may call.
    tools: Option<Vec<Tool>>,
    #[schema(value_type = Option<Object>)]
    tool_choice: Value,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(minimum = 0)]
    top_k: Option<u64>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    /// Whether the model thinks: `{"type": "enabled"}`, `disabled` or `adaptive`.
    #[schema(value_type = Option<Object>)]
    thinking: Value,
    /// The effort, and the form of the answer.
    #[schema(value_type = Option<Object>)]
    output_config: Value,
    /// The older name of `output_config.format`.
    #[schema(value_type = Option<Object>)]
    output_format: Value,
    /// Has no effect: engines keep what they have read of a prompt.
    cache_control: Option<Value>,
}

/// One message of a conversation.
#[derive(ToSchema)]
#[schema(as = AnthropicMessage)]
struct Message {
    /// `user`, `assistant` or `system`.
    role: String,
    /// A text, or blocks.
    content: Value,
}

/// A tool that the caller has.
#[derive(ToSchema)]
#[schema(as = AnthropicTool)]
struct Tool {
    name: String,
    description: Option<String>,
    /// The JSON Schema of its arguments.
    #[schema(value_type = Option<Object>)]
    input_schema: Value,
}

/// An answer.
#[derive(ToSchema)]
#[schema(as = AnthropicAnswer)]
pub(crate) struct MessagesAnswer {
    id: String,
    /// Always `message`.
    r#type: String,
    /// Always `assistant`.
    role: String,
    model: String,
    /// Its blocks: text, thoughts and calls of tools.
    #[schema(value_type = Vec<Object>)]
    content: Value,
    stop_reason: Option<String>,
    stop_sequence: Option<String>,
    usage: Usage,
}

/// The tokens of a request and its answer.
#[derive(ToSchema)]
#[schema(as = AnthropicUsage)]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
}

/// The data of an event of a stream; `type` is the event's name.
#[derive(ToSchema)]
#[schema(as = AnthropicEvent)]
pub(crate) struct MessagesEvent {
    r#type: String,
}
