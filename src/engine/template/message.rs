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

    /// Every text of the message.
    pub(super) fn texts(&self) -> Vec<&str> {
        let mut texts = Vec::new();
        let mut values: Vec<&Value> = self.fields.values().collect();
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

    /// The message with every text changed. The names of its own fields are the API's and stay.
    pub(super) fn with_texts(&self, change: impl Fn(&str) -> String) -> Self {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| (name.clone(), changed(value, &change))).collect();
        Self { role: self.role, fields }
    }
}

fn changed(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => change(text).into(),
        Value::Array(items) => items.iter().map(|item| changed(item, change)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            Value::Object(fields.map(|(name, value)| (name.clone(), changed(value, change))).collect())
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
            "tool_calls": [{"function": {"name": "f", "arguments": {"k": ["v", 1]}}}],
        }))
        .unwrap();
        let mut texts = message.texts();
        texts.sort_unstable();
        assert_eq!(texts, ["arguments", "f", "function", "k", "n", "name", "v"]);
        let changed = serde_json::to_value(message.with_texts(str::to_uppercase)).unwrap();
        assert_eq!(
            changed,
            json!({"role": "assistant", "content": null, "name": "N",
                   "tool_calls": [{"function": {"name": "F", "arguments": {"k": ["V", 1]}}}]})
        );
    }
}
