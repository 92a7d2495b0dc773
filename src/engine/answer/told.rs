//! Tells a model of tools, of its calls and of their results where its chat template cannot.

use serde_json::{Value, json};

use super::style::{Style, TOLD};
use crate::engine::template::message::{Message, Role};

/// The messages as the template can show them, with the tools in a text where it does not know tools.
#[must_use]
pub fn told(style: Style, messages: Vec<Message>, tools: &[Value]) -> Vec<Message> {
    let mut messages = match style.knows_calls {
        true => messages,
        false => messages.into_iter().map(in_text).collect(),
    };
    if !style.knows_tools && !tools.is_empty() {
        let text = description(tools);
        match messages.first_mut().filter(|message| message.role == Role::System) {
            Some(system) => {
                let before = system.fields.get("content").and_then(Value::as_str).unwrap_or_default();
                let content = format!("{before}\n\n{text}");
                system.fields.insert("content".to_owned(), content.into());
            }
            None => messages.insert(0, Message::text(Role::System, &text)),
        }
    }
    messages
}

fn description(tools: &[Value]) -> String {
    let call = json!({"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}});
    let marked = in_marks(&call);
    let tools: Vec<String> = tools.iter().map(|tool| tool["function"].to_string()).collect();
    format!(
        "You can call these functions. Each is described by a JSON object, with the JSON Schema of its \
         arguments:\n{}\nTo call a function, answer with nothing but its name and its arguments in this \
         form:\n{marked}",
        tools.join("\n")
    )
}

/// A message with its calls, or the result of a call, as text.
fn in_text(message: Message) -> Message {
    let text = message.fields.get("content").and_then(Value::as_str).unwrap_or_default();
    match (message.role, message.fields.get("tool_calls").and_then(Value::as_array)) {
        (Role::Assistant, Some(calls)) => {
            let calls = calls.iter().map(|call| {
                let function = &call["function"];
                in_marks(&json!({"name": function["name"], "arguments": function["arguments"]}))
            });
            let text = [text.to_owned()].into_iter().filter(|text| !text.is_empty());
            Message::text(Role::Assistant, &text.chain(calls).collect::<Vec<_>>().join("\n"))
        }
        (Role::Tool, _) => Message::text(Role::User, &format!("<tool_response>\n{text}\n</tool_response>")),
        _ => message,
    }
}

fn in_marks(call: &Value) -> String {
    format!("{}\n{call}\n{}", TOLD.open, TOLD.close.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::answer::style::tests::style;

    #[test]
    fn the_tools_are_told_after_what_the_system_says() {
        let tools = [json!({"type": "function", "function": {"name": "add"}})];
        let style = Style { knows_tools: false, ..style("told") };
        let content = |message: &Message| message.fields["content"].as_str().unwrap_or_default().to_owned();
        let user = || Message::text(Role::User, "Hi");
        let told_both = told(style, vec![Message::text(Role::System, "Be kind."), user()], &tools);
        let system = content(&told_both[0]);
        assert!(system.starts_with("Be kind.\n\n") && system.contains(r#"{"name":"add"}"#), "{system}");
        let told_alone = told(style, vec![user()], &tools);
        assert!(told_alone.len() == 2 && told_alone[0].role == Role::System);
        assert_eq!(content(&told_alone[0]), system["Be kind.\n\n".len()..]);
        assert_eq!(told(style, vec![user()], &[]).len(), 1, "without tools there is nothing to tell");
    }
}
