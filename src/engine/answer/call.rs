//! Reads the calls in the text between two marks.

use serde_json::{Map, Value};

/// A tool that the answer may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON Schema of its arguments. Without one, it takes none.
    pub parameters: Option<Value>,
}

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
/// in arrays, or Mistral's `name[ARGS]{...}`, or Qwen3-Coder's `<function=name>`.
pub(super) fn calls(text: &str, tools: &[Tool]) -> Option<Vec<Call>> {
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
        } else if rest.starts_with(FUNCTION) {
            let (call, after) = marked_up(rest, tools)?;
            calls.push(call);
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

/// What a call in Qwen3-Coder's notation begins with.
const FUNCTION: &str = "<function=";

/// The call in Qwen3-Coder's notation that the text begins with, and what follows it. Each argument is an element with
/// its value as text; the tool's schema says of which type that is.
fn marked_up<'a>(text: &'a str, tools: &[Tool]) -> Option<(Call, &'a str)> {
    let (name, mut rest) = text.strip_prefix(FUNCTION)?.split_once('>')?;
    let tool = tools.iter().find(|tool| tool.name == name.trim())?;
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("</function>") {
            return Some((named(&tool.name, Some(arguments.into()), tools)?, after));
        }
        let (name, value) = rest.strip_prefix("<parameter=")?.split_once('>')?;
        let (value, after) = value.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.insert(name.trim().to_owned(), typed(tool, name.trim(), value));
        rest = after;
    }
}

/// The value of an argument: a text where the tool's schema has one there, else JSON if it is some.
fn typed(tool: &Tool, argument: &str, text: &str) -> Value {
    let schema = tool.parameters.as_ref().map(|schema| &schema["properties"][argument]);
    let is_text = schema.is_some_and(|schema| {
        let of_type = match &schema["type"] {
            Value::Array(types) => types.iter().any(|kind| kind == "string"),
            kind => kind == "string",
        };
        of_type || schema["enum"].as_array().is_some_and(|values| values.iter().any(|value| value == text))
    });
    let json = if is_text { None } else { serde_json::from_str(text.trim()).ok() };
    json.unwrap_or_else(|| text.into())
}

/// The JSON value that the text begins with, and what follows it.
fn first_value(text: &str) -> Option<(Value, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let end = values.byte_offset();
    Some((value, text.get(end..)?))
}

fn call(value: Value, tools: &[Tool]) -> Option<Call> {
    let Value::Object(mut fields) = value else { return None };
    // Some models repeat the form in which tools are described.
    if let Some(Value::Object(function)) = fields.get_mut("function") {
        fields = std::mem::take(function);
    }
    let arguments = fields.remove("arguments").or_else(|| fields.remove("parameters"));
    named(fields.get("name")?.as_str()?, arguments, tools)
}

fn named(name: &str, arguments: Option<Value>, tools: &[Tool]) -> Option<Call> {
    let arguments = match arguments.unwrap_or(Value::Null) {
        Value::Null => Value::Object(Map::new()),
        Value::String(json) => serde_json::from_str(&json).ok()?,
        other => other,
    };
    let known = tools.iter().any(|tool| tool.name == name) && arguments.is_object();
    known.then(|| Call { name: name.to_owned(), arguments: arguments.to_string() })
}
