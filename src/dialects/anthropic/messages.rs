//! The messages of a request.

use serde_json::Value;

use super::blocks;
use super::known::Ignored;
use crate::dialects::chat::{Message, Part, Role, ToolCall};
use crate::fields::{FieldError, Fields};

/// How the first block of Claude Code's system prompt begins, which is for Anthropic's accounts. It differs in each
/// request, so an engine that was told it could not reuse what it has read of the rest.
const BILLING: &str = "x-anthropic-billing-header:";

/// The system prompt and the messages: at least one.
pub(super) fn read(fields: &Fields<'_>, ignored: &mut Ignored) -> Result<Vec<Message>, FieldError> {
    if fields.array("messages")?.is_none_or(<[_]>::is_empty) {
        return Err(fields.error("messages", "must be an array with at least one message"));
    }
    let mut messages = Vec::new();
    if let Some(system) = system(fields, ignored)? {
        messages.push(system);
    }
    for message in fields.objects("messages")? {
        let message = message?;
        ignored.others("messages", &message, &["role", "content"]);
        match message.string("role")? {
            Some("user") => user(&message, &mut messages, ignored)?,
            Some("assistant") => add(&mut messages, assistant(&message, ignored)?),
            Some("system") => {
                let content = parts(&message, "content", ignored)?;
                messages.push(Message { role: Role::System, content, ..Message::default() });
            }
            _ => return Err(message.error("role", "must be user or assistant")),
        }
    }
    Ok(messages)
}

fn system(fields: &Fields<'_>, ignored: &mut Ignored) -> Result<Option<Message>, FieldError> {
    if fields.get("system").is_none() {
        return Ok(None);
    }
    let mut content = parts(fields, "system", ignored)?;
    if matches!(content.first(), Some(Part::Text(text)) if text.starts_with(BILLING)) {
        content.remove(0);
        ignored.note("system.x-anthropic-billing-header");
    }
    Ok((!content.is_empty()).then_some(Message { role: Role::System, content, ..Message::default() }))
}

/// Adds a message, to the last one where both are of the same author.
fn add(messages: &mut Vec<Message>, message: Message) {
    match messages.last_mut() {
        Some(last) if last.role == message.role && message.role != Role::Tool => {
            last.content.extend(message.content);
            last.tool_calls.extend(message.tool_calls);
            if let Some(more) = message.reasoning {
                last.reasoning.get_or_insert_default().push_str(&more);
            }
        }
        _ => messages.push(message),
    }
}

/// Adds the message of a user: the results of tools, each a message of its own, then the rest.
fn user(message: &Fields<'_>, messages: &mut Vec<Message>, ignored: &mut Ignored) -> Result<(), FieldError> {
    let blocks = each_block(message, "content")?;
    let (mut content, mut has_results) = (Vec::new(), false);
    for block in &blocks {
        if block.string("type")? == Some("tool_result") {
            has_results = true;
            messages.push(result(block, ignored)?);
        } else {
            content.extend(blocks::parts(block, ignored)?);
        }
    }
    if let Some(text) = message.get("content").and_then(Value::as_str) {
        content.push(Part::Text(text.to_owned()));
    }
    if !(content.is_empty() && has_results) {
        add(messages, Message { content, ..Message::default() });
    }
    Ok(())
}

/// The result of a tool. Engines know no mark of an error, so the text says it.
fn result(block: &Fields<'_>, ignored: &mut Ignored) -> Result<Message, FieldError> {
    ignored.others("tool_result", block, &["type", "tool_use_id", "content", "is_error"]);
    let id = block.string("tool_use_id")?;
    let id = id.ok_or_else(|| block.error("tool_use_id", "must be the id of a tool_use"))?;
    let mut content =
        if block.get("content").is_some() { parts(block, "content", ignored)? } else { Vec::new() };
    if block.bool("is_error")? == Some(true) {
        match content.first_mut() {
            Some(Part::Text(text)) => text.insert_str(0, "Error: "),
            _ => content.insert(0, Part::Text("Error".to_owned())),
        }
    }
    Ok(Message { role: Role::Tool, content, tool_call_id: Some(id.to_owned()), ..Message::default() })
}

fn assistant(message: &Fields<'_>, ignored: &mut Ignored) -> Result<Message, FieldError> {
    let mut said = Message { role: Role::Assistant, ..Message::default() };
    if let Some(text) = message.get("content").and_then(Value::as_str) {
        said.content.push(Part::Text(text.to_owned()));
    }
    for block in &each_block(message, "content")? {
        match block.string("type")? {
            Some("thinking") => {
                ignored.others("thinking", block, &["type", "thinking", "signature"]);
                let thought = blocks::text(block, "thinking")?;
                if !thought.is_empty() {
                    said.reasoning.get_or_insert_default().push_str(thought);
                }
            }
            // Only Anthropic can read it.
            Some("redacted_thinking") => ignored.note("redacted_thinking"),
            Some("tool_use") => {
                ignored.others("tool_use", block, &["type", "id", "name", "input", "caller"]);
                said.tool_calls.push(ToolCall {
                    id: blocks::text(block, "id")?.to_owned(),
                    name: blocks::text(block, "name")?.to_owned(),
                    arguments: block.get("input").map_or_else(|| "{}".to_owned(), Value::to_string),
                });
            }
            _ => said.content.extend(blocks::parts(block, ignored)?),
        }
    }
    Ok(said)
}

/// The parts of a content: a string, or blocks.
fn parts(fields: &Fields<'_>, key: &str, ignored: &mut Ignored) -> Result<Vec<Part>, FieldError> {
    if let Some(text) = fields.get(key).and_then(Value::as_str) {
        return Ok(vec![Part::Text(text.to_owned())]);
    }
    let mut parts = Vec::new();
    for block in &each_block(fields, key)? {
        parts.extend(blocks::parts(block, ignored)?);
    }
    Ok(parts)
}

/// The blocks of a content; none of a string.
fn each_block<'a>(fields: &Fields<'a>, key: &str) -> Result<Vec<Fields<'a>>, FieldError> {
    match fields.get(key) {
        Some(Value::String(_)) => Ok(Vec::new()),
        Some(Value::Array(_)) => fields.objects(key)?.collect(),
        _ => Err(fields.error(key, "must be a string or an array of blocks")),
    }
}
