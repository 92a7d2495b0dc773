//! Reads the calls in the text between two marks.

use serde_json::{Map, Value};

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// The arguments: a JSON object, as text.
    pub arguments: String,
}

/// The calls in a text that is nothing but calls of these tools; `None` for any other text.
///
/// They are JSON objects with a `name` and with `arguments` (or `parameters`, as Llama 3 writes), one by one or
/// in arrays, or Mistral's `name[ARGS]{...}`.
pub(super) fn calls(text: &str, tools: &[String]) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if rest.starts_with(['{', '[']) {
            let (value, after) = first_value(rest)?;
            match value {
                Value::Array(items) => {
                    for item in items {
                        calls.push(call(item, tools)?);
                    }
                }
                value => calls.push(call(value, tools)?),
            }
            rest = after;
        } else {
            let (name, after) = rest.split_at(rest.find(['{', '['])?);
            let arguments = after.find('{')?;
            let marks = ["", "[ARGS]"];
            let known = marks.contains(&after[..arguments].trim()) || after.starts_with("[CALL_ID]");
            let (value, after) = first_value(&after[arguments..])?;
            calls.push(known.then(|| named(name.trim(), Some(value), tools)).flatten()?);
            rest = after;
        }
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
        rest = rest.strip_prefix("[TOOL_CALLS]").unwrap_or(rest);
    }
    (!calls.is_empty()).then_some(calls)
}

/// The JSON value that the text begins with, and what follows it.
fn first_value(text: &str) -> Option<(Value, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let end = values.byte_offset();
    Some((value, text.get(end..)?))
}

fn call(value: Value, tools: &[String]) -> Option<Call> {
    let Value::Object(mut fields) = value else { return None };
    // Some models repeat the form in which tools are described.
    if let Some(Value::Object(function)) = fields.get_mut("function") {
        fields = std::mem::take(function);
    }
    let arguments = fields.remove("arguments").or_else(|| fields.remove("parameters"));
    named(fields.get("name")?.as_str()?, arguments, tools)
}

fn named(name: &str, arguments: Option<Value>, tools: &[String]) -> Option<Call> {
    let arguments = match arguments.unwrap_or(Value::Null) {
        Value::Null => Value::Object(Map::new()),
        Value::String(json) => serde_json::from_str(&json).ok()?,
        other => other,
    };
    let known = tools.iter().any(|tool| tool == name) && arguments.is_object();
    known.then(|| Call { name: name.to_owned(), arguments: arguments.to_string() })
}
