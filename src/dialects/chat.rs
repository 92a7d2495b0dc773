//! The inner form of a request for a chat.

use serde_json::{Map, Value};

use crate::config::Capability;

/// A request for the next message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chat {
    /// The model, as the client names it.
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: ToolChoice,
    /// Whether the answer may call several tools. `None` leaves it to the engine.
    pub(crate) parallel_tool_calls: Option<bool>,
    pub(crate) output: Output,
    pub(crate) thinking: Thinking,
    /// The most tokens of the answer.
    pub(crate) max_tokens: Option<u64>,
    /// Strings that end the answer.
    pub(crate) stop: Vec<String>,
    /// Sampling and other fields, under the names and with the values that engines take: `temperature`, `top_k`.
    pub(crate) options: Map<String, Value>,
    /// Whether the answer is to come as a stream.
    pub(crate) streams: bool,
    /// The names of the fields of the request that have no effect.
    pub(crate) ignored: Vec<String>,
}

/// A message of the conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: Vec<Part>,
    /// What the assistant thought before it wrote.
    pub(crate) reasoning: Option<String>,
    /// The tools that the assistant called.
    pub(crate) tool_calls: Vec<ToolCall>,
    /// Of the result of a tool: the id of the call.
    pub(crate) tool_call_id: Option<String>,
    /// The name of the person, or of the tool.
    pub(crate) name: Option<String>,
}

/// The author of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    #[default]
    User,
    Assistant,
    Tool,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Text(String),
    /// An address: `https://…`, or `data:image/png;base64,…`.
    Image(String),
    /// A part of another kind, as OpenAI's chat completions have it.
    Other(Value),
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// The JSON Schema of its arguments. `None` where the request has none.
    pub(crate) parameters: Option<Value>,
    pub(crate) strict: Option<bool>,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON text.
    pub(crate) arguments: String,
}

/// Whether the answer calls tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// If the model wants to.
    #[default]
    Auto,
    Never,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The form of the answer's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Output {
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON of this schema.
    Schema { name: Option<String>, schema: Value, strict: Option<bool> },
}

/// Whether and how much the model thinks before it answers. What is `None` is left to the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thinking {
    pub(crate) enabled: Option<bool>,
    /// `low`, `medium`, `high` or another word that the model's template knows.
    pub(crate) effort: Option<String>,
    /// The most tokens of thought.
    pub(crate) budget_tokens: Option<u64>,
}

impl Chat {
    /// What it asks of the model and its engine, besides that they chat.
    pub(crate) fn needs(&self) -> Vec<Capability> {
        let has_image = |message: &Message| message.content.iter().any(|part| matches!(part, Part::Image(_)));
        let needs = [
            (self.messages.iter().any(has_image), Capability::Images),
            (!self.tools.is_empty() && self.tool_choice != ToolChoice::Never, Capability::Tools),
            (self.output != Output::Text, Capability::JsonOutput),
            (self.thinking.enabled == Some(true), Capability::Reasoning),
        ];
        needs.into_iter().filter_map(|(is_needed, capability)| is_needed.then_some(capability)).collect()
    }
}

impl Message {
    /// A message of one text.
    pub(crate) fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: vec![Part::Text(text.into())], ..Self::default() }
    }
}
