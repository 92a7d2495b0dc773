//! The messages of a request.

use serde_json::Value;

use crate::dialects::chat::{Message, Part, Role, ToolCall};
use crate::fields::{FieldError, Fields};

pub(super) fn read(fields: &Fields<'_>) -> Result<Vec<Message>, FieldError> {
    if fields.get("messages").is_none() {
        return Err(fields.error("messages", "is missing"));
    }
    fields.objects("messages")?.map(|fields| message(&fields?)).collect()
}

fn message(fields: &Fields<'_>) -> Result<Message, FieldError> {
    let role = match fields.string("role")? {
        // The later name of the first, for models that reason.
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => Role::Tool,
        _ => return Err(fields.error("role", "must be \"system\", \"user\", \"assistant\" or \"tool\"")),
    };
    let text = |name: &str| fields.string(name).map(|text| text.map(str::to_owned));
    let tool_calls = fields.objects("tool_calls")?.map(|call| tool_call(&call?)).collect::<Result<_, _>>()?;
    Ok(Message {
        role,
        content: content(fields)?,
        reasoning: text("reasoning_content")?.or(text("reasoning")?),
        tool_calls,
        tool_call_id: text("tool_call_id")?,
        name: text("name")?,
    })
}

fn content(fields: &Fields<'_>) -> Result<Vec<Part>, FieldError> {
    match fields.get("content") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Part::Text(text.clone())]),
        Some(Value::Array(parts)) => Ok(parts.iter().map(part).collect()),
        Some(_) => Err(fields.error("content", "must be a string or an array of parts")),
    }
}

fn part(part: &Value) -> Part {
    match (part["type"].as_str(), &part["text"], &part["image_url"]["url"]) {
        (Some("text"), Value::String(text), _) => Part::Text(text.clone()),
        (Some("image_url"), _, Value::String(url)) => Part::Image(url.clone()),
        _ => Part::Other(part.clone()),
    }
}

fn tool_call(fields: &Fields<'_>) -> Result<ToolCall, FieldError> {
    let function = fields.object("function")?.ok_or_else(|| fields.error("function", "is missing"))?;
    Ok(ToolCall {
        id: fields.string("id")?.unwrap_or_default().to_owned(),
        name: function.string("name")?.unwrap_or_default().to_owned(),
        arguments: function.string("arguments")?.unwrap_or_default().to_owned(),
    })
}
