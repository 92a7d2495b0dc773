//! A chat as the body of a request to an engine.

use serde_json::{Map, Value, json};

use super::systems::arranged;
use crate::dialects::chat::{Chat, Message, Output, Part, Role, Thinking, Tool, ToolCall, ToolChoice};

/// The body that asks an engine to continue a text, with the sampling and the limits of a chat.
pub(crate) fn completion(chat: &Chat, prompt: &str) -> Value {
    let mut body = of_every_answer(chat);
    body.insert("prompt".to_owned(), prompt.into());
    Value::Object(body)
}

/// The body that asks an engine for the next message of a chat.
pub(crate) fn request(chat: &Chat) -> Value {
    let mut body = of_every_answer(chat);
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("messages", arranged(&chat.messages).iter().map(message).collect());
    if !chat.tools.is_empty() {
        set("tools", chat.tools.iter().map(tool).collect());
    }
    match &chat.tool_choice {
        ToolChoice::Auto => {}
        ToolChoice::Never => drop(set("tool_choice", "none".into())),
        ToolChoice::Required => drop(set("tool_choice", "required".into())),
        ToolChoice::Named(name) => {
            set("tool_choice", json!({"type": "function", "function": {"name": name}}));
        }
    }
    if let Some(parallel) = chat.parallel_tool_calls {
        set("parallel_tool_calls", parallel.into());
    }
    match &chat.output {
        Output::Text => {}
        Output::Json => drop(set("response_format", json!({"type": "json_object"}))),
        Output::Schema { name, schema, strict } => {
            let mut format = json!({"name": name.as_deref().unwrap_or("answer"), "schema": schema});
            if let Some(strict) = strict {
                format["strict"] = (*strict).into();
            }
            set("response_format", json!({"type": "json_schema", "json_schema": format}));
        }
    }
    think(&mut body, &chat.thinking);
    Value::Object(body)
}

/// The fields that every request for an answer has: the model, sampling, limits, and whether it comes as a stream.
fn of_every_answer(chat: &Chat) -> Map<String, Value> {
    let mut body = chat.options.clone();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", chat.model.as_str().into());
    if let Some(tokens) = chat.max_tokens {
        set("max_tokens", tokens.into());
    }
    if !chat.stop.is_empty() {
        set("stop", chat.stop.clone().into());
    }
    if chat.streams {
        set("stream", true.into());
        set("stream_options", json!({"include_usage": true}));
    }
    body
}

/// The variables by which chat templates know it, and llama.cpp's limit.
fn think(body: &mut Map<String, Value>, thinking: &Thinking) {
    if let Some(enabled) = thinking.enabled {
        let variables = body.entry("chat_template_kwargs").or_insert_with(|| json!({}));
        if let Value::Object(variables) = variables {
            variables.insert("enable_thinking".to_owned(), enabled.into());
        }
    }
    if let Some(effort) = &thinking.effort {
        body.insert("reasoning_effort".to_owned(), effort.as_str().into());
    }
    if let Some(tokens) = thinking.budget_tokens {
        body.insert("thinking_budget_tokens".to_owned(), tokens.into());
    }
}

fn message(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut fields =
        Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content(message))]);
    let texts = [
        ("reasoning_content", &message.reasoning),
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            fields.insert(name.to_owned(), text.as_str().into());
        }
    }
    if !message.tool_calls.is_empty() {
        fields.insert("tool_calls".to_owned(), message.tool_calls.iter().map(tool_call).collect());
    }
    Value::Object(fields)
}

/// Text as a string, which every engine and template takes; an array where there are other parts.
fn content(message: &Message) -> Value {
    match message.content.as_slice() {
        [] if !message.tool_calls.is_empty() => Value::Null,
        [] => "".into(),
        [Part::Text(text)] => text.as_str().into(),
        parts => parts.iter().map(part).collect(),
    }
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image(url) => json!({"type": "image_url", "image_url": {"url": url}}),
        Part::Other(part) => part.clone(),
    }
}

fn tool_call(call: &ToolCall) -> Value {
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::from_iter([("name".to_owned(), tool.name.as_str().into())]);
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), description.as_str().into());
    }
    if let Some(parameters) = &tool.parameters {
        function.insert("parameters".to_owned(), parameters.clone());
    }
    if let Some(strict) = tool.strict {
        function.insert("strict".to_owned(), strict.into());
    }
    json!({"type": "function", "function": function})
}
