//! The schema of a body of `POST /v1/jobs`, made from the operation table: one of all operations, in one of
//! both spellings.
//!
//! Of each operation the schemas have three names: `ModelLoad`, its fields; `model_load`, the same with the member
//! `operation`; `ModelLoadResult`, its result, which the extension `x-result` of the other two names.
//!
//! Defaults are not written down a second time: they are what the reader of a request fills in.

use serde_json::{Map, Value, json};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::schema::{AdditionalProperties, Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};

use super::described::{Described, result_name};
use super::row::Row;

/// The schema of a body: one operation of the table, in one of both spellings.
pub(super) fn any(table: &'static [Row]) -> RefOr<Schema> {
    let spellings = table.iter().flat_map(|row| [tagged(row), Ref::from_schema_name(row.wire_name).into()]);
    let any = spellings.fold(OneOfBuilder::new(), OneOfBuilder::item::<RefOr<Schema>>);
    any.description(Some("One operation, in either spelling."))
        .examples([json!({ "ModelList": {} }), json!({ "operation": "hive_check", "hive_id": "localhost" })])
        .into()
}

/// The schemas that [`any`] names, and those that these name.
pub(super) fn named(table: &'static [Row]) -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = Vec::new();
    for row in table {
        let Described { fields, result, named } = (row.describe)();
        let fields = complete(row, fields);
        schemas.push((row.wire_name.to_owned(), Schema::Object(with_name(row, fields.clone())).into()));
        schemas.push((row.name.to_owned(), Schema::Object(fields).into()));
        schemas.push((result_name(row.name), result));
        schemas.extend(named);
    }
    schemas
}

/// The first spelling: an object whose one key is the name.
fn tagged(row: &Row) -> RefOr<Schema> {
    let fields = Ref::from_schema_name(row.name);
    // Some clients serialise an operation without fields as null.
    let value: RefOr<Schema> = if (row.describe)().fields.required.is_empty() {
        let null = ObjectBuilder::new().schema_type(Type::Null);
        OneOfBuilder::new().item(fields).item(null).into()
    } else {
        fields.into()
    };
    let object = ObjectBuilder::new().property(row.name, value).required(row.name);
    object.additional_properties(Some(AdditionalProperties::FreeForm(false))).into()
}

/// The fields, with that of the hive, with defaults and with the result's name.
fn complete(row: &Row, mut fields: Object) -> Object {
    let hive = |about| {
        let name = ObjectBuilder::new().schema_type(Type::String).description(Some(about));
        name.default(Some("localhost".into())).examples(["localhost"])
    };
    for (name, default) in defaults(row, &fields) {
        match fields.properties.get_mut(&name) {
            Some(RefOr::T(Schema::Object(field))) => field.default = Some(default),
            Some(RefOr::T(Schema::OneOf(field))) => field.default = Some(default),
            Some(RefOr::T(Schema::Array(field))) => field.default = Some(default),
            Some(RefOr::Ref(field)) => field.default = Some(default),
            _ => {}
        }
    }
    if row.hive_field != "hive_id" {
        let other = hive("The same as `hive_id`; if both are given, they must be equal.");
        fields.properties.insert(row.hive_field.to_owned(), other.into());
    }
    let about = "A name of this hive: `localhost`, a loopback address, a `--hive-id`, the machine's host name, or \
                 the host that the request is sent to.";
    fields.properties.insert("hive_id".to_owned(), hive(about).into());
    fields.title = Some(row.name.to_owned());
    let result = Ref::from_schema_name(result_name(row.name)).ref_location;
    fields.extensions = Some(Extensions::from_iter([("x-result", json!({ "$ref": result }))]));
    fields
}

/// The second spelling: the name is a field.
fn with_name(row: &Row, mut fields: Object) -> Object {
    let name = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([row.wire_name]));
    fields.properties.insert("operation".to_owned(), name.into());
    fields.required.push("operation".to_owned());
    fields.title = Some(row.wire_name.to_owned());
    fields
}

/// A request with the fields that it requires and no others.
fn least(fields: &Object) -> Map<String, Value> {
    let least = fields.required.iter().map(|name| {
        let field = match &fields.properties[name] {
            RefOr::T(Schema::Object(field)) => Some(field),
            _ => None,
        };
        let least = match field {
            Some(field) if field.schema_type == Type::Integer.into() => json!(1),
            Some(field) if !field.examples.is_empty() => field.examples[0].clone(),
            _ => json!("1"),
        };
        (name.clone(), least)
    });
    least.collect()
}

/// What the reader fills in for fields that a request does not have.
fn defaults(row: &Row, fields: &Object) -> Map<String, Value> {
    let request = row.decode(&Value::Object(least(fields))).map(|decoded| decoded.request);
    let Ok(Value::Object(mut filled)) = request else {
        panic!("{} does not take a request with the fields that it requires", row.name)
    };
    filled.retain(|name, _| !fields.required.contains(name));
    filled
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ops::TABLE;

    fn schemas() -> Map<String, Value> {
        named(TABLE).into_iter().map(|(name, schema)| (name, json!(schema))).collect()
    }

    /// The numbers and texts at the bounds of a field, and those just beyond.
    fn bounds(schema: &Value) -> (Vec<Value>, Vec<Value>) {
        let (mut within, mut beyond) = (Vec::new(), Vec::new());
        let number = |name: &str| schema[name].as_f64().map(|bound| bound as i64);
        for (bound, step) in [(number("minimum"), -1), (number("maximum"), 1)] {
            within.extend(bound.map(|bound| json!(bound)));
            beyond.extend(bound.map(|bound| json!(bound + step)));
        }
        let text = |length: &Value| length.as_u64().map(|length| "a".repeat(length as usize));
        within.extend(text(&schema["maxLength"]).map(Value::from));
        beyond.extend(text(&schema["maxLength"]).map(|text| Value::from(text + "a")));
        (within, beyond)
    }

    #[test]
    fn the_reader_has_the_bounds_of_the_schemas() {
        let schemas = schemas();
        let mut checked = 0;
        for row in TABLE {
            let fields = (row.describe)().fields;
            let least = least(&fields);
            for (name, schema) in schemas[row.name]["properties"].as_object().into_iter().flatten() {
                let named = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
                let schema = named.map_or(schema, |named| &schemas[named]);
                let any = schema["oneOf"].as_array();
                for schema in any.map_or(vec![schema], |any| any.iter().collect()) {
                    let reads = |value: &Value| {
                        let mut request = least.clone();
                        request.insert(name.clone(), value.clone());
                        row.decode(&Value::Object(request)).is_ok()
                    };
                    let (within, beyond) = bounds(schema);
                    for value in &within {
                        assert!(reads(value), "{} refuses {name}: {value}", row.name);
                    }
                    for value in &beyond {
                        assert!(!reads(value), "{} takes {name}: {value}", row.name);
                    }
                    checked += within.len();
                }
            }
        }
        assert!(checked > 20, "{checked} bounds");
    }

    #[test]
    fn no_request_takes_unknown_fields_and_every_optional_one_has_its_default() {
        let schemas = schemas();
        for row in TABLE {
            for spelling in [row.name, row.wire_name] {
                let schema = &schemas[spelling];
                assert_eq!(schema["additionalProperties"], false, "{spelling}");
                let required: BTreeSet<_> =
                    schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                for (name, field) in schema["properties"].as_object().unwrap() {
                    let has_default = field.as_object().unwrap().contains_key("default");
                    assert_ne!(required.contains(&**name), has_default, "{spelling}.{name}: {field}");
                    let any = field["oneOf"].as_array().into_iter().flatten();
                    // What a reference leads to has its own description.
                    let is_explained = field.get("description").is_some()
                        || any.chain([field]).any(|schema| schema.get("$ref").is_some());
                    assert!(is_explained || name == "operation", "{spelling}.{name} has no description");
                }
            }
            assert!(schemas.contains_key(&result_name(row.name)));
        }
    }
}
