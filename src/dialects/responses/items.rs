//! The items of a conversation as messages of a chat.
//!
//! What the assistant thought, wrote and called in one turn is one message, as chat templates expect it.

use serde_json::{Value, json};

use super::tools;
use crate::dialects::chat::{Message, Part, Role};
use crate::fields::{FieldError, Fields};

/// The type of an item that adds tools to those of the request.
const ADDITIONAL_TOOLS: &str = "additional_tools";

/// Adds an item to the messages before it. Names what has no effect in `ignored`.
///
/// # Errors
/// The field that is not valid, or the type of an item that the hive has not.
pub(super) fn read(
    item: &Fields<'_>,
    messages: &mut Vec<Message>,
    ignored: &mut Vec<String>,
) -> Result<(), FieldError> {
    match item.string("type")?.unwrap_or("message") {
        "message" => {
            ignored.extend(item.others(&["type", "id", "status", "role", "content", "phase"]));
            let content = parts(item, "content", ignored)?;
            match role(item)? {
                // It goes on with a message that only has thoughts so far.
                Role::Assistant => {
                    assistant(messages, |last| last.content.is_empty() && last.tool_calls.is_empty())
                        .content = content;
                }
                role => messages.push(Message { role, content, ..Message::default() }),
            }
        }
        "reasoning" => {
            ignored.extend(item.others(&["type", "id", "status", "summary", "content", "encrypted_content"]));
            if let Some(text) = reasoning(item)? {
                messages.push(Message { role: Role::Assistant, reasoning: Some(text), ..Message::default() });
            }
        }
        "function_call" => {
            let known = ["type", "id", "status", "call_id", "namespace", "name", "arguments"];
            ignored.extend(item.others(&known));
            let arguments = item.required("arguments")?.to_owned();
            assistant(messages, |_| true).tool_calls.push(tools::call(item, arguments)?);
        }
        "custom_tool_call" => {
            ignored.extend(item.others(&["type", "id", "status", "call_id", "namespace", "name", "input"]));
            let arguments = tools::arguments(item.required("input")?);
            assistant(messages, |_| true).tool_calls.push(tools::call(item, arguments)?);
        }
        "function_call_output" | "custom_tool_call_output" => {
            ignored.extend(item.others(&["type", "id", "status", "call_id", "name", "output"]));
            messages.push(Message {
                role: Role::Tool,
                content: parts(item, "output", ignored)?,
                tool_call_id: Some(item.required("call_id")?.to_owned()),
                ..Message::default()
            });
        }
        ADDITIONAL_TOOLS => ignored.extend(item.others(&["type", "id", "status", "role", "tools"])),
        // What a tool of OpenAI's service did in an earlier turn: what came of it is in the message after it.
        "web_search_call" | "file_search_call" => ignored.push(item.name("type")),
        other => {
            return Err(
                item.error("type", format_args!("is {other:?}, a kind of item that the hive has not"))
            );
        }
    }
    Ok(())
}

/// Whether an item adds tools to those of the request.
pub(super) fn adds_tools(item: &Fields<'_>) -> bool {
    item.get("type").is_some_and(|kind| kind == ADDITIONAL_TOOLS)
}

/// The last message if it is the assistant's and `fits`, else a new one.
fn assistant(messages: &mut Vec<Message>, fits: impl Fn(&Message) -> bool) -> &mut Message {
    let goes_on = messages.last().is_some_and(|last| last.role == Role::Assistant && fits(last));
    if !goes_on {
        messages.push(Message { role: Role::Assistant, ..Message::default() });
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

fn role(item: &Fields<'_>) -> Result<Role, FieldError> {
    match item.string("role")? {
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("system" | "developer") => Ok(Role::System),
        _ => Err(item.error("role", r#"must be "user", "assistant", "system" or "developer""#)),
    }
}

/// What a model thought: the text itself, or what there is of a summary. Encrypted thoughts are another server's.
fn reasoning(item: &Fields<'_>) -> Result<Option<String>, FieldError> {
    let text = |name: &str| {
        let parts = item.array(name)?.unwrap_or_default();
        let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        Ok(Some(texts.join("\n\n")).filter(|text| !text.is_empty()))
    };
    Ok(text("content")?.or(text("summary")?))
}

/// The parts of a field that is a string or a list of parts.
fn parts(item: &Fields<'_>, name: &str, ignored: &mut Vec<String>) -> Result<Vec<Part>, FieldError> {
    match item.get(name) {
        Some(Value::String(text)) => Ok(vec![Part::Text(text.clone())]),
        Some(Value::Array(_)) => item.objects(name)?.map(|fields| part(&fields?, ignored)).collect(),
        Some(_) => Err(item.error(name, "must be a string or an array of parts")),
        None => Err(item.error(name, "is missing")),
    }
}

fn part(part: &Fields<'_>, ignored: &mut Vec<String>) -> Result<Part, FieldError> {
    match part.string("type")?.unwrap_or_default() {
        "input_text" | "text" => {
            ignored.extend(part.others(&["type", "text", "prompt_cache_breakpoint"]));
            Ok(Part::Text(part.required("text")?.to_owned()))
        }
        // What the model wrote comes back as it was.
        "output_text" => {
            ignored.extend(part.others(&["type", "text", "annotations", "logprobs"]));
            Ok(Part::Text(part.required("text")?.to_owned()))
        }
        "refusal" => {
            ignored.extend(part.others(&["type", "refusal"]));
            Ok(Part::Text(part.required("refusal")?.to_owned()))
        }
        "input_image" => {
            ignored.extend(part.others(&[
                "type",
                "image_url",
                "file_id",
                "detail",
                "prompt_cache_breakpoint",
            ]));
            if part.string("detail")?.is_some_and(|detail| detail != "auto") {
                ignored.push(part.name("detail"));
            }
            no_file_id(part)?;
            Ok(Part::Image(part.required("image_url")?.to_owned()))
        }
        "input_file" => {
            ignored.extend(part.others(&["type", "file_data", "filename", "file_id"]));
            no_file_id(part)?;
            let mut file = json!({"file_data": part.required("file_data")?});
            if let Some(name) = part.string("filename")? {
                file["filename"] = name.into();
            }
            Ok(Part::Other(json!({"type": "file", "file": file})))
        }
        "input_audio" => {
            ignored.extend(part.others(&["type", "input_audio"]));
            let audio = part.get("input_audio").ok_or_else(|| part.error("input_audio", "is missing"))?;
            Ok(Part::Other(json!({"type": "input_audio", "input_audio": audio})))
        }
        other => Err(part.error("type", format_args!("is {other:?}, a kind of part that the hive has not"))),
    }
}

fn no_file_id(part: &Fields<'_>) -> Result<(), FieldError> {
    match part.string("file_id")? {
        Some(_) => {
            Err(part.error("file_id", "names an uploaded file, which the hive has not; send its data"))
        }
        None => Ok(()),
    }
}
