//! A message of a conversation, as a template sees it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The author of a message: the roles that `/v1/chat/completions` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions. OpenAI's newer role `developer` becomes this one, which templates know.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

/// The fields of a tool call that templates look up by their names.
const CALL_FIELDS: [&str; 5] = ["id", "type", "function", "name", "arguments"];

/// One message of a conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text, and what else the request says: `name`, `tool_calls`, `tool_call_id`,
    /// `reasoning_content`.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Message {
    /// A message of nothing but text.
    #[must_use]
    pub fn text(role: Role, content: &str) -> Self {
        Self { role, fields: Map::from_iter([("content".to_owned(), content.into())]) }
    }

    /// The message with every text changed. The names that are the API's stay: those of its own fields and
    /// of a tool call's. Every other name is the sender's, and a text like the values.
    pub(super) fn with_texts(&self, change: impl Fn(&str) -> String) -> Self {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| (name.clone(), changed(value, true, &change))).collect();
        Self { role: self.role, fields }
    }
}

/// Every text in the values of `fields`.
pub(super) fn texts(fields: &Map<String, Value>) -> Vec<&str> {
    let mut texts = Vec::new();
    let mut values: Vec<&Value> = fields.values().collect();
    while let Some(value) = values.pop() {
        match value {
            Value::String(text) => texts.push(text.as_str()),
            Value::Array(items) => values.extend(items),
            Value::Object(fields) => {
                texts.extend(fields.keys().map(String::as_str));
                values.extend(fields.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    texts
}

/// The value with its texts changed. `of_api` says that its names may be the API's.
fn changed(value: &Value, of_api: bool, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => change(text).into(),
        Value::Array(items) => items.iter().map(|item| changed(item, of_api, change)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let known = of_api && CALL_FIELDS.contains(&name.as_str());
                let value = changed(value, known && name != "arguments", change);
                (if known { name.clone() } else { change(name) }, value)
            });
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_of_a_message_is_found_and_changed() {
        let message: Message = serde_json::from_value(json!({
            "role": "assistant", "content": null, "name": "n",
            "tool_calls": [{"function": {"name": "f", "arguments": {"k": ["v", 1], "name": {"id": 2}}, "x": 3}}],
        }))
        .unwrap();
        let mut texts = texts(&message.fields);
        texts.sort_unstable();
        assert_eq!(texts, ["arguments", "f", "function", "id", "k", "n", "name", "name", "v", "x"]);
        let changed = serde_json::to_value(message.with_texts(str::to_uppercase)).unwrap();
        assert_eq!(
            changed,
            json!({"role": "assistant", "content": null, "name": "N",
                   "tool_calls": [{"function": {"name": "F", "arguments": {"K": ["V", 1], "NAME": {"ID": 2}}, "X": 3}}]})
        );
    }
}
