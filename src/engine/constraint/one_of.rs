//! `oneOf` in JSON Schemas: exactly one of the alternatives holds.
//!
//! A grammar can hold that one of several does, which is `anyOf`. The two are the same where no value can hold two of
//! the alternatives, as with those that a property such as `kind` tells apart. So such a `oneOf` becomes an `anyOf`.
//! Any other stays, and whoever compiles the schema refuses it.

use serde_json::{Map, Value};

/// The key of the alternatives.
const ONE_OF: &str = "oneOf";
/// Keys whose values are data, not schemas.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// How many references may lead to a schema.
const MAX_REFERENCES: usize = 16;

/// The schema with `anyOf` in the place of each `oneOf` whose alternatives exclude each other.
pub(super) fn as_any_of(schema: &Value) -> Value {
    rewritten(schema, schema)
}

fn rewritten(schema: &Value, root: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(|item| rewritten(item, root)).collect(),
        Value::Object(object) => {
            let rename = !object.contains_key("anyOf") && exclude_each_other(object, root);
            let members = object.iter().map(|(key, value)| {
                let key = if rename && key == ONE_OF { "anyOf" } else { key };
                let is_data = DATA.contains(&key);
                (key.to_owned(), if is_data { value.clone() } else { rewritten(value, root) })
            });
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

fn exclude_each_other(object: &Map<String, Value>, root: &Value) -> bool {
    let Some(alternatives) = object.get(ONE_OF).and_then(Value::as_array) else { return false };
    let resolved: Option<Vec<_>> = alternatives.iter().map(|schema| resolved(schema, root)).collect();
    let Some(all) = resolved else { return false };
    all.iter().enumerate().all(|(index, one)| all[..index].iter().all(|other| exclude(one, other, root)))
}

/// Whether no value can hold both schemas, as far as that is easy to see.
fn exclude(one: &Map<String, Value>, other: &Map<String, Value>, root: &Value) -> bool {
    if differ(one, other) {
        return true;
    }
    let is_object = |schema: &Map<String, Value>| schema.get("type").is_some_and(|kind| kind == "object");
    let property = |schema: &Map<String, Value>, name: &str| {
        let property = schema.get("properties").and_then(|properties| properties.get(name)).cloned();
        property.and_then(|property| resolved(&property, root).cloned())
    };
    let required = [one, other].into_iter().filter_map(|schema| schema.get("required")?.as_array()).flatten();
    let mut names = required.filter_map(Value::as_str);
    (is_object(one) || is_object(other))
        && names.any(|name| match (property(one, name), property(other, name)) {
            (Some(one), Some(other)) => differ(&one, &other),
            _ => false,
        })
}

/// Whether the types or the values that two schemas name have nothing in common.
fn differ(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    if let (Some(one), Some(other)) = (values(one), values(other)) {
        return !one.iter().any(|one| other.iter().any(|other| equal(one, other)));
    }
    match (types(one), types(other)) {
        (Some(one), Some(other)) => !one.iter().any(|kind| other.contains(kind)),
        _ => false,
    }
}

/// The values that a schema names.
fn values(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        _ => None,
    }
}

/// The types that a schema names, or that its values have. An integer is a number.
fn types(schema: &Map<String, Value>) -> Option<Vec<&str>> {
    let named = match schema.get("type") {
        Some(Value::String(name)) => Some(vec![name.as_str()]),
        Some(Value::Array(names)) => names.iter().map(Value::as_str).collect(),
        _ => values(schema).map(|values| values.into_iter().map(of_value).collect()),
    };
    named.map(|names| names.into_iter().map(|name| if name == "integer" { "number" } else { name }).collect())
}

fn of_value(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether two values may be equal in JSON Schema, in which 1 and 1.0 are. Of lists and objects it is not looked at.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => true,
        _ => one == other,
    }
}

/// The object of a schema, or of what it refers to within the document.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> Option<&'a Map<String, Value>> {
    let mut schema = schema.as_object()?;
    for _ in 0..MAX_REFERENCES {
        let Some(reference) = schema.get("$ref") else { return Some(schema) };
        schema = root.pointer(reference.as_str()?.strip_prefix('#')?)?.as_object()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn alternatives_that_exclude_each_other_are_told() {
        let of_kind = |kind: &str| json!({"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]});
        let open = |kind: &str| json!({"type": "object", "properties": {"kind": {"const": kind}}});
        let defs = json!({"Cat": of_kind("cat"), "Dog": of_kind("dog"), "Loop": {"$ref": "#/$defs/Loop"}});
        let of = |name: &str| json!({"$ref": format!("#/$defs/{name}")});
        for (alternatives, exclusive) in [
            // As Pydantic writes a union with a discriminator.
            (json!([of("Cat"), of("Dog")]), true),
            (json!([of("Cat"), of("Cat")]), false),
            (json!([of("Cat"), of("Loop")]), false),
            (json!([of("Cat"), {"$ref": "https://example.com"}]), false),
            (json!([of("Cat"), {"type": "null"}, {"type": "string"}]), true),
            (json!([of_kind("a"), of_kind("b"), of_kind("a")]), false),
            // A value without the property holds both, and so does what is no object.
            (json!([open("a"), open("b")]), false),
            (
                json!([{"properties": {"k": {"const": 1}}, "required": ["k"]}, {"properties": {"k": {"const": 2}}}]),
                false,
            ),
            (json!([{"const": 1, "title": "one"}, {"const": 2}, {"enum": [3, "x"]}]), true),
            (json!([{"const": 1}, {"const": 1.0}]), false),
            (json!([{"type": "integer"}, {"type": "number"}]), false),
            (json!([{"type": "string"}, {"type": "string", "maxLength": 3}]), false),
            (json!([{"type": ["string", "null"]}, {"type": "integer"}]), true),
            (json!([true, {"type": "integer"}]), false),
        ] {
            let schema = json!({"$defs": defs, "type": "array", "items": {"oneOf": alternatives}});
            let items = &as_any_of(&schema)["items"];
            assert_eq!(items.get("anyOf").is_some(), exclusive, "{alternatives}");
            assert_eq!(items.get("oneOf").is_some(), !exclusive, "{alternatives}");
        }
        let data = json!({"const": {"oneOf": [{"type": "null"}, {"type": "string"}]}});
        assert_eq!(as_any_of(&data), data);
    }
}
