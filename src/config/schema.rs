//! The JSON Schema of the file of the settings (draft 2020-12), for editors and for what the hive says of a
//! name that it does not know. The types of the settings are its only source.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::{Config, EngineSettings};
use crate::text;

/// Where utoipa's references point to, and where those of a JSON Schema do.
const COMPONENTS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/$defs/";

/// The schema of the file.
#[must_use]
pub fn schema() -> Value {
    let mut named = Vec::new();
    Config::schemas(&mut named);
    let definitions: Map<_, _> =
        named.into_iter().map(|(name, schema)| (name, tidy(json!(schema)))).collect();
    let mut root = Map::new();
    root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("title".to_owned(), json!("The settings of rbee-hive"));
    if let Value::Object(own) = tidy(json!(Config::schema())) {
        root.extend(own);
    }
    root.insert("description".to_owned(), json!("The file that is given with --config."));
    root.insert("$defs".to_owned(), Value::Object(definitions));
    let mut schema = Value::Object(root);
    if let Ok(Value::Object(mut defaults)) = serde_json::to_value(Config::default()) {
        // It depends on the machine.
        defaults.remove("data_dir");
        set_defaults(&mut schema, "", &defaults);
    }
    // An engine has no default, but its optional settings have.
    if let Ok(engine) = toml::from_str::<EngineSettings>("command = []\ndevices = []")
        && let Ok(Value::Object(mut defaults)) = serde_json::to_value(engine)
    {
        defaults.retain(|name, _| !["command", "devices"].contains(&&**name));
        set_defaults(&mut schema, "/$defs/EngineSettings", &defaults);
    }
    text::plain_links(&mut schema);
    schema
}

/// The schema that `node` is, or refers to.
pub(super) fn resolved<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    let target = node.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|target| schema.pointer(target)).unwrap_or(node)
}

/// What utoipa writes, as a file of TOML has it: references within the document, no null, no formats of numbers.
fn tidy(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(tidy).collect(),
        Value::Object(fields) => {
            let mut tidied = Map::new();
            for (name, value) in fields {
                match (name.as_str(), tidy(value)) {
                    ("$ref", Value::String(target)) => {
                        tidied.insert(name, json!(target.replacen(COMPONENTS, DEFINITIONS, 1)));
                    }
                    ("format", Value::String(_)) | ("default", Value::Null) => {}
                    ("type", Value::Array(types)) => {
                        let of_toml = types.into_iter().find(|kind| kind != "null").unwrap_or_default();
                        tidied.insert(name, of_toml);
                    }
                    ("oneOf", Value::Array(mut kinds)) => {
                        kinds.retain(|kind| kind.get("type").is_none_or(|kind| kind != "null"));
                        match (kinds.len(), kinds.pop()) {
                            (1, Some(Value::Object(only))) => tidied.extend(only),
                            (_, last) => {
                                kinds.extend(last);
                                tidied.insert(name, Value::Array(kinds));
                            }
                        }
                    }
                    (_, value) => {
                        tidied.insert(name, value);
                    }
                }
            }
            Value::Object(tidied)
        }
        other => other,
    }
}

/// Gives each property of the object at `pointer` its default, and those of the objects within theirs.
fn set_defaults(schema: &mut Value, pointer: &str, defaults: &Map<String, Value>) {
    let properties = format!("{pointer}/properties");
    let names: Vec<_> = schema
        .pointer(&properties)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
        .cloned()
        .collect();
    for name in names {
        let at = format!("{properties}/{name}");
        let Some(Value::Object(property)) = schema.pointer_mut(&at) else { continue };
        property.remove("default");
        let target = property.get("$ref").and_then(Value::as_str).map(|target| target.replacen('#', "", 1));
        match (defaults.get(&name), target) {
            (Some(Value::Object(defaults)), Some(target)) if is_object(schema, &target) => {
                set_title(schema, &at, &name);
                set_defaults(schema, &target, defaults);
            }
            (None | Some(Value::Null), _) => {}
            (Some(default), _) => {
                if let Some(Value::Object(property)) = schema.pointer_mut(&at) {
                    property.insert("default".to_owned(), default.clone());
                }
            }
        }
    }
}

fn is_object(schema: &Value, pointer: &str) -> bool {
    schema.pointer(pointer).and_then(|target| target.get("type")).is_some_and(|kind| kind == "object")
}

/// A table is called by its header.
fn set_title(schema: &mut Value, pointer: &str, name: &str) {
    if let Some(Value::Object(property)) = schema.pointer_mut(pointer) {
        property.insert("title".to_owned(), json!(format!("[{name}]")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_admit_known_names_only_and_settings_have_their_defaults() {
        let schema = schema();
        for table in ["", "/$defs/Jobs", "/$defs/Timers", "/$defs/ModelSettings", "/$defs/EngineSettings"] {
            let table = schema.pointer(table).unwrap();
            assert_eq!(table["additionalProperties"], false, "{table:#}");
        }
        assert_eq!(schema.pointer("/$defs/Timers/properties/silence/default"), Some(&json!("15s")));
        assert_eq!(schema.pointer("/$defs/Gateway/properties/body_limit/default"), Some(&json!("64 MiB")));
        assert_eq!(
            schema.pointer("/$defs/EngineSettings/properties/health_route/default"),
            Some(&json!("/health"))
        );
        assert_eq!(schema["$defs"]["EngineSettings"]["required"], json!(["command", "devices"]));
        assert_eq!(schema["properties"]["data_dir"].get("default"), None);
        let text = schema.to_string();
        assert!(!text.contains("null") && !text.contains(COMPONENTS), "{text}");
        assert!(!text.contains("[`") && !text.contains("super::"), "descriptions are for people: {text}");
    }
}
