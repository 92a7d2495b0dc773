//! A tool, as a template sees it.

use serde_json::Value;

/// The names of OpenAI's description of a tool and of JSON Schema, which templates look up.
const NAMES: [&str; 25] = [
    "type",
    "function",
    "name",
    "description",
    "parameters",
    "strict",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "default",
    "format",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$defs",
    "definitions",
    "additionalProperties",
    "title",
    "nullable",
    "minimum",
    "maximum",
    "return",
];

/// The values of `type`, with which templates compare.
const TYPES: [&str; 8] = ["function", "object", "array", "string", "number", "integer", "boolean", "null"];

/// The tool with every text changed, but those names and types.
pub(super) fn with_texts(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) if TYPES.contains(&text.as_str()) => value.clone(),
        Value::String(text) => change(text).into(),
        Value::Array(items) => items.iter().map(|item| with_texts(item, change)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let name = if NAMES.contains(&name.as_str()) { name.clone() } else { change(name) };
                (name, with_texts(value, change))
            });
            Value::Object(fields.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
