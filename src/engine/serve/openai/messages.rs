//! Parses the messages of a request to what a chat template sees.

use serde_json::{Map, Value, json};

use crate::engine::template::message::{Message, Role};
use crate::fields::{FieldError, Fields};

/// The request's messages: at least one.
pub(super) fn messages(fields: &Fields<'_>) -> Result<Vec<Message>, FieldError> {
    if fields.array("messages")?.is_none_or(<[_]>::is_empty) {
        return Err(fields.error("messages", "must be an array with at least one message"));
    }
    fields.objects("messages")?.map(|fields| message(&fields?)).collect()
}

fn message(fields: &Fields<'_>) -> Result<Message, FieldError> {
    let role = match fields.string("role")? {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        // `function` is the older name.
        Some("tool" | "function") => Role::Tool,
        _ => return Err(fields.error("role", "must be system, developer, user, assistant or tool")),
    };
    let mut of_template = Map::new();
    let tool_calls = tool_calls(fields)?;
    of_template.insert("content".to_owned(), content(fields, role)?.into());
    if !tool_calls.is_empty() {
        of_template.insert("tool_calls".to_owned(), tool_calls.into());
    }
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.string(name)? {
            of_template.insert(name.to_owned(), text.into());
        }
    }
    Ok(Message { role, fields: of_template })
}

/// The text. Only the assistant's may be absent: it called a tool. `null` is an empty text, for which
/// templates need no special case.
fn content(fields: &Fields<'_>, role: Role) -> Result<String, FieldError> {
    match fields.get("content") {
        None if role == Role::Assistant || fields.has("content") => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(_)) => text_parts(fields),
        _ => Err(fields.error("content", "must be a string or an array of text parts")),
    }
}

/// The calls that the assistant has made. Templates expect their arguments as an object, and OpenAI's API
/// has them as JSON in a string.
fn tool_calls(fields: &Fields<'_>) -> Result<Vec<Value>, FieldError> {
    // `function_call` is the older name, for one call.
    let older = fields.get("function_call").map(|call| vec![json!({"type": "function", "function": call})]);
    let calls = match (fields.array("tool_calls")?, &older) {
        (Some(calls), _) => calls,
        (None, older) => older.as_deref().unwrap_or_default(),
    };
    let calls = calls.iter().enumerate().map(|(index, call)| {
        let name = fields.name(&format!("tool_calls[{index}]"));
        let call_fields = Fields::new(&name, call)?;
        let function = call_fields.get("function").unwrap_or(&Value::Null);
        Fields::new(&format!("{name}.function"), function)?;
        let mut call = call.clone();
        let arguments = &mut call["function"]["arguments"];
        if let Some(object @ Value::Object(_)) =
            arguments.as_str().and_then(|json| serde_json::from_str(json).ok())
        {
            *arguments = object;
        }
        Ok(call)
    });
    calls.collect()
}

fn text_parts(message: &Fields<'_>) -> Result<String, FieldError> {
    let mut text = String::new();
    for fields in message.objects("content")? {
        let fields = fields?;
        match fields.string("type")? {
            Some("text") => {}
            Some(other) => {
                return Err(fields.error("type", format_args!("is {other:?}; only text is supported")));
            }
            None => return Err(fields.error("type", "must be \"text\"")),
        }
        text.push_str(fields.string("text")?.ok_or_else(|| fields.error("text", "must be a string"))?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<Value, FieldError> {
        message(&Fields::new("messages[0]", value).unwrap())
            .map(|message| serde_json::to_value(message).unwrap())
    }

    #[test]
    fn a_history_of_tools_needs_no_tools() {
        let call = |arguments: Value| {
            json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
                   "function": {"name": "f", "arguments": arguments}}]})
        };
        let parsed = parse(&call(json!("{\"a\": [1]}"))).unwrap();
        assert_eq!(parsed["tool_calls"][0]["function"]["arguments"], json!({"a": [1]}));
        assert_eq!(parsed["content"], "");
        let older = json!({"role": "assistant", "content": null,
                           "function_call": {"name": "f", "arguments": "{\"a\": [1]}"}});
        assert_eq!(parse(&older).unwrap()["tool_calls"][0]["function"], parsed["tool_calls"][0]["function"]);
        // What is not an object stays as it was sent.
        assert_eq!(
            parse(&call(json!("not JSON"))).unwrap()["tool_calls"][0]["function"]["arguments"],
            "not JSON"
        );
        let tool = json!({"role": "tool", "content": null, "tool_call_id": "1", "name": "f"});
        assert_eq!(
            parse(&tool).unwrap(),
            json!({"role": "tool", "content": "", "name": "f", "tool_call_id": "1"})
        );
    }

    #[test]
    fn a_message_that_cannot_be_read_is_refused_by_name() {
        for (message, param) in [
            (json!({"role": "robot", "content": ""}), "messages[0].role"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "assistant", "tool_calls": {}}), "messages[0].tool_calls"),
            (json!({"role": "assistant", "tool_calls": ["f"]}), "messages[0].tool_calls[0]"),
            (json!({"role": "assistant", "tool_calls": [{}]}), "messages[0].tool_calls[0].function"),
            (json!({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0].type"),
        ] {
            assert_eq!(parse(&message).unwrap_err().field, param);
        }
    }
}
