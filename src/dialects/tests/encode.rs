//! Writes a chat as the clients of each dialect do.

use serde_json::{Map, Value, json};

use crate::dialects::chat::{Chat, Message, Output, Part, Role, ToolCall, ToolChoice};

/// The text of a message, and its images.
fn parts(message: &Message) -> (String, Vec<&str>) {
    let texts = message.content.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        _ => None,
    });
    let images = message.content.iter().filter_map(|part| match part {
        Part::Image(url) => Some(url.as_str()),
        _ => None,
    });
    (texts.collect(), images.collect())
}

fn json_of(arguments: &str) -> Value {
    serde_json::from_str(arguments).expect("JSON")
}

/// The model, whether it streams, and the options under the names that all dialects but Ollama's have for them.
fn body(chat: &Chat) -> Map<String, Value> {
    let mut body = chat.options.clone();
    body.insert("model".to_owned(), chat.model.as_str().into());
    body.insert("stream".to_owned(), chat.streams.into());
    body
}

fn add(body: &mut Map<String, Value>, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("not an object: {fields}") };
    body.extend(fields);
    Value::Object(std::mem::take(body))
}

/// OpenAI's chat completions.
pub(super) fn openai(chat: &Chat) -> Value {
    let messages = chat.messages.iter().map(|message| {
        let (text, images) = parts(message);
        let role = match message.role {
            Role::System => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        let mut content = vec![json!({"type": "text", "text": text})];
        content.extend(images.iter().map(|url| json!({"type": "image_url", "image_url": {"url": url}})));
        let content = if images.is_empty() { Value::from(text) } else { Value::from(content) };
        let calls = message.tool_calls.iter().map(|ToolCall { id, name, arguments }| {
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        });
        let calls = Some(Value::from_iter(calls)).filter(|_| !message.tool_calls.is_empty());
        json!({
            "role": role, "content": content, "reasoning_content": message.reasoning, "tool_calls": calls,
            "tool_call_id": message.tool_call_id,
        })
    });
    let tools = chat.tools.iter().map(|tool| {
        json!({"type": "function", "function": {
            "name": tool.name, "description": tool.description, "parameters": tool.parameters}})
    });
    let choice = match &chat.tool_choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::Never => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
    };
    let format = match &chat.output {
        Output::Text => json!({"type": "text"}),
        Output::Json => json!({"type": "json_object"}),
        Output::Schema { schema, strict, .. } => {
            json!({"type": "json_schema", "json_schema": {"schema": schema, "strict": strict}})
        }
    };
    let fields = json!({
        "messages": Value::from_iter(messages), "tools": Value::from_iter(tools), "tool_choice": choice,
        "response_format": format, "max_completion_tokens": chat.max_tokens, "stop": chat.stop,
        "reasoning_effort": chat.thinking.effort,
        "chat_template_kwargs": {"enable_thinking": chat.thinking.enabled},
    });
    add(&mut body(chat), fields)
}

/// OpenAI's responses.
pub(super) fn responses(chat: &Chat) -> Value {
    let (mut instructions, mut input) = (Value::Null, Vec::new());
    for message in &chat.messages {
        let (text, images) = parts(message);
        if let Some(thought) = &message.reasoning {
            let content = json!([{"type": "reasoning_text", "text": thought}]);
            input.push(json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": content}));
        }
        match message.role {
            Role::System => instructions = text.into(),
            Role::Tool => input.push(json!({
                "type": "function_call_output", "call_id": message.tool_call_id, "output": text})),
            Role::Assistant if text.is_empty() => {}
            Role::Assistant => input.push(json!({
                "type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}]})),
            Role::User => {
                let mut content = vec![json!({"type": "input_text", "text": text})];
                let images = images.iter();
                content.extend(
                    images.map(|url| json!({"type": "input_image", "image_url": url, "detail": "auto"})),
                );
                input.push(json!({"role": "user", "content": content}));
            }
        }
        input.extend(message.tool_calls.iter().map(|call| {
            json!({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments})
        }));
    }
    let tools = chat.tools.iter().map(|tool| {
        json!({"type": "function", "name": tool.name, "description": tool.description,
               "parameters": tool.parameters, "strict": null})
    });
    let choice = match &chat.tool_choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::Never => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({"type": "function", "name": name}),
    };
    let format = match &chat.output {
        Output::Text => json!({"type": "text"}),
        Output::Json => json!({"type": "json_object"}),
        Output::Schema { schema, strict, .. } => {
            json!({"type": "json_schema", "schema": schema, "strict": strict})
        }
    };
    let fields = json!({
        "instructions": instructions, "input": input, "tools": Value::from_iter(tools), "tool_choice": choice,
        "text": {"format": format}, "max_output_tokens": chat.max_tokens, "stop": chat.stop,
        "reasoning": {"effort": chat.thinking.effort.as_deref().unwrap_or("none")},
    });
    add(&mut body(chat), fields)
}

/// Anthropic's messages, which can say everything but JSON without a schema.
pub(super) fn anthropic(chat: &Chat) -> Option<Value> {
    let (mut system, mut messages) = (Value::Null, Vec::new());
    for message in &chat.messages {
        let (text, images) = parts(message);
        let mut content = Vec::new();
        if let Some(thought) = &message.reasoning {
            content.push(json!({"type": "thinking", "thinking": thought, "signature": ""}));
        }
        if !text.is_empty() {
            content.push(json!({"type": "text", "text": text}));
        }
        for url in images {
            let (kind, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
            let source = json!({"type": "base64", "media_type": kind, "data": data});
            content.push(json!({"type": "image", "source": source}));
        }
        content.extend(message.tool_calls.iter().map(|call| {
            json!({"type": "tool_use", "id": call.id, "name": call.name, "input": json_of(&call.arguments)})
        }));
        match message.role {
            Role::System => system = text.into(),
            Role::User => messages.push(json!({"role": "user", "content": content})),
            Role::Assistant => messages.push(json!({"role": "assistant", "content": content})),
            Role::Tool => messages.push(json!({"role": "user", "content": [{
                "type": "tool_result", "tool_use_id": message.tool_call_id, "content": text}]})),
        }
    }
    let tools = chat.tools.iter().map(
        |tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters}),
    );
    let choice = match &chat.tool_choice {
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::Never => json!({"type": "none"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Named(name) => json!({"type": "tool", "name": name}),
    };
    let format = match &chat.output {
        Output::Text => Value::Null,
        Output::Json => return None,
        Output::Schema { schema, .. } => json!({"type": "json_schema", "schema": schema}),
    };
    let thinking = if chat.thinking.enabled == Some(true) { "enabled" } else { "disabled" };
    let fields = json!({
        "system": system, "messages": messages, "tools": Value::from_iter(tools), "tool_choice": choice,
        "output_config": {"format": format, "effort": chat.thinking.effort},
        "max_tokens": chat.max_tokens, "stop_sequences": chat.stop, "thinking": {"type": thinking},
    });
    Some(add(&mut body(chat), fields))
}

/// Ollama's chat, which leaves it to the model whether it calls tools.
pub(super) fn ollama(chat: &Chat) -> Option<Value> {
    if chat.tool_choice != ToolChoice::Auto {
        return None;
    }
    let messages = chat.messages.iter().map(|message| {
        let (text, images) = parts(message);
        let role = match message.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        // Its clients say neither what an image is nor which call a result answers.
        let images = images.iter().map(|url| url.split_once(";base64,").expect("an image").1);
        let calls = message.tool_calls.iter();
        let calls =
            calls.map(|call| json!({"function": {"name": call.name, "arguments": json_of(&call.arguments)}}));
        json!({
            "role": role, "content": text, "images": Value::from_iter(images), "thinking": message.reasoning,
            "tool_calls": Value::from_iter(calls), "tool_name": message.name,
        })
    });
    let tools = chat.tools.iter().map(|tool| {
        json!({"type": "function", "function": {
            "name": tool.name, "description": tool.description, "parameters": tool.parameters}})
    });
    let format = match &chat.output {
        Output::Text => Value::Null,
        Output::Json => "json".into(),
        Output::Schema { schema, .. } => schema.clone(),
    };
    let think = chat.thinking.effort.clone().map_or_else(|| chat.thinking.enabled.into(), Value::from);
    let mut options = chat.options.clone();
    options.insert("num_predict".to_owned(), chat.max_tokens.into());
    options.insert("stop".to_owned(), chat.stop.clone().into());
    Some(json!({
        "model": chat.model, "stream": chat.streams, "messages": Value::from_iter(messages),
        "tools": Value::from_iter(tools), "format": format, "think": think, "options": options,
    }))
}
