//! The items of a request's input in one form: each has its type, an id, and its content as a list of parts.

use serde_json::{Map, Value, json};

use super::ids::Ids;
use crate::fields::{FieldError, Fields};

/// Reads the input. `find` finds an item that the input refers to by its id.
pub(super) fn read(
    fields: &Fields<'_>,
    ids: &Ids,
    find: &dyn Fn(&str) -> Option<Value>,
) -> Result<Vec<Value>, FieldError> {
    match fields.get("input") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => {
            let message = Map::from_iter([
                ("role".to_owned(), "user".into()),
                ("content".to_owned(), text.as_str().into()),
            ]);
            Ok(vec![item(message, ids, 0)])
        }
        Some(Value::Array(items)) => {
            let mut read = Vec::with_capacity(items.len());
            for (at, value) in items.iter().enumerate() {
                let fields = Fields::new(&format!("input[{at}]"), value)?;
                read.push(match reference(&fields)? {
                    None => item(value.as_object().cloned().unwrap_or_default(), ids, at),
                    Some(id) => find(id).ok_or_else(|| {
                        fields.error(
                            "id",
                            format_args!(
                                "refers to {id:?}, which the hive has not kept; send the item itself"
                            ),
                        )
                    })?,
                });
            }
            Ok(read)
        }
        Some(_) => Err(fields.error("input", "must be a string or an array of items")),
    }
}

/// The id that a reference to an item has. Its type may be left out.
fn reference<'a>(fields: &Fields<'a>) -> Result<Option<&'a str>, FieldError> {
    let is_reference = match fields.string("type")? {
        Some(kind) => kind == "item_reference",
        None => fields.get("role").is_none() && fields.get("id").is_some(),
    };
    if !is_reference {
        return Ok(None);
    }
    fields.required("id").map(Some)
}

fn item(mut item: Map<String, Value>, ids: &Ids, number: usize) -> Value {
    if item.get("type").is_none_or(Value::is_null) {
        item.insert("type".to_owned(), "message".into());
    }
    let prefix = match item["type"].as_str() {
        Some("function_call") => "fc",
        Some("function_call_output") => "fco",
        Some("additional_tools") => "at",
        Some("custom_tool_call") => "ctc",
        Some("custom_tool_call_output") => "ctco",
        Some("reasoning") => "rs",
        _ => "msg",
    };
    if item.get("id").is_none_or(Value::is_null) {
        item.insert("id".to_owned(), ids.item(prefix, number).into());
    }
    if item.get("status").is_none_or(Value::is_null) && prefix != "rs" {
        item.insert("status".to_owned(), "completed".into());
    }
    if item["type"] == "message"
        && let Some(Value::String(text)) = item.get("content")
    {
        let part = if item.get("role").is_some_and(|role| role == "assistant") {
            json!({"type": "output_text", "text": text, "annotations": []})
        } else {
            json!({"type": "input_text", "text": text})
        };
        item.insert("content".to_owned(), json!([part]));
    }
    Value::Object(item)
}
