//! The layers of the settings: as JSON, so that one rule puts each field over the next.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::change::Change;
use crate::config::{ModelSettings, alias_taken_twice};
use crate::error::{Code, Failure, Result};

/// The fields that have fields of their own.
const TABLES: [&str; 2] = ["sampling", "engine_options"];
/// The fields that a variant does not take over from its model.
const OF_MODELS_ALONE: [&str; 4] = ["aliases", "pinned", "preload", "variants"];
/// The field that has the variants.
const VARIANTS: &str = "variants";

/// Who says a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = SettingSource)]
pub(crate) enum Source {
    /// `ModelSettingsSet`.
    Operation,
    /// The configuration file.
    File,
    /// The model's own file.
    Model,
    /// The hive.
    Default,
}

/// What counts, and who says it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) settings: ModelSettings,
    /// By the dotted name of each field that is set.
    pub(crate) sources: BTreeMap<String, Source>,
    /// What operations have set, as they wrote it.
    pub(crate) set: Map<String, Value>,
}

type File = BTreeMap<String, ModelSettings>;
type Set = Map<String, Value>;

/// The ids of the models with settings.
pub(super) fn models<'a>(file: &'a File, set: &'a Set) -> impl Iterator<Item = &'a str> {
    file.keys().chain(set.keys().filter(|id| !file.contains_key(*id))).map(String::as_str)
}

/// What counts for a model or a variant of it.
pub(super) fn effective(file: &File, set: &Set, model: &str, variant: Option<&str>) -> ModelSettings {
    tell(file, set, model, variant).settings
}

/// What counts for a model or a variant of it, and who says it.
pub(super) fn tell(file: &File, set: &Set, model: &str, variant: Option<&str>) -> Told {
    let from_file = file.get(model).map(as_object).unwrap_or_default();
    let from_operations = object(set.get(model)).map(|set| readable(model, set)).unwrap_or_default();
    let mut told = Told::default();
    let mut merged = Map::new();
    let mut put = |layer: &Map<String, Value>, source, told: &mut Told| {
        for name in names(layer) {
            told.sources.insert(name, source);
        }
        merge(&mut merged, layer.clone());
    };
    match variant {
        None => {
            put(&from_file, Source::File, &mut told);
            put(&from_operations, Source::Operation, &mut told);
            told.set = from_operations;
        }
        Some(variant) => {
            put(&without(&from_file, &OF_MODELS_ALONE), Source::File, &mut told);
            put(&without(&from_operations, &OF_MODELS_ALONE), Source::Operation, &mut told);
            let of_variant = |layer: &Map<String, Value>| {
                object(layer.get(VARIANTS))
                    .and_then(|variants| object(variants.get(variant)))
                    .cloned()
                    .unwrap_or_default()
            };
            put(&of_variant(&from_file), Source::File, &mut told);
            told.set = of_variant(&from_operations);
            put(&told.set.clone(), Source::Operation, &mut told);
        }
    }
    told.settings = serde_json::from_value(Value::Object(merged)).unwrap_or_else(|error| {
        tracing::error!(model, %error, "settings that were read before cannot be read");
        ModelSettings::default()
    });
    told
}

/// What operations have set once the change is made.
///
/// # Errors
/// [`Code::InvalidField`]: what the change names does not exist, or the settings could not work.
pub(super) fn changed(file: &File, set: &Set, change: &Change) -> Result<Set> {
    check_fields(&change.settings)?;
    change.unset.iter().try_for_each(|name| check_name(name))?;
    let apply = |fields: &mut Map<String, Value>| {
        for name in &change.unset {
            remove(fields, name);
        }
        merge(fields, change.settings.clone());
    };
    let mut changed = set.clone();
    within(&mut changed, &change.model, |model| match &change.variant {
        Some(variant) => within(model, VARIANTS, |variants| within(variants, variant, apply)),
        None => apply(model),
    });
    prune(&mut changed);
    check(file, set, &changed, change)?;
    Ok(changed)
}

/// Refuses settings of the changed model that could not work, and an alias that would mean two models.
fn check(file: &File, before: &Set, changed: &Set, change: &Change) -> Result<()> {
    let all = |set: &Set| -> File {
        models(file, set).map(|id| (id.to_owned(), effective(file, set, id, None))).collect()
    };
    let after = all(changed);
    let model = &after.get(&change.model).cloned().unwrap_or_default();
    if let Some((field, problem)) = model.problem() {
        return Err(refused(format!("settings: {field} {problem}")));
    }
    let known = effective(file, before, &change.model, None);
    let is_new = |alias: &str| !known.all_aliases().any(|(known, _)| known == alias);
    for (alias, _) in model.all_aliases().filter(|(alias, _)| is_new(alias)) {
        if change.taken.iter().any(|taken| taken == alias) {
            return Err(refused(format!(
                "settings: aliases has '{alias}', which is the id or the name of a model: that would count more"
            )));
        }
    }
    // Aliases of other models alone are no fault of this change.
    match alias_taken_twice(&after) {
        Some(problem) if alias_taken_twice(&all(before)).as_ref() != Some(&problem) => Err(refused(problem)),
        _ => Ok(()),
    }
}

/// Refuses what is not a field, is of the wrong type or is `null`, by its name.
fn check_fields(settings: &Map<String, Value>) -> Result<()> {
    if let Some(name) = null_in(settings) {
        return Err(refused(format!("settings: field `{name}` is null"))
            .hint(format!("list \"{name}\" in `unset` to take back what was set")));
    }
    serde_path_to_error::deserialize::<_, ModelSettings>(&Value::Object(settings.clone())).map(drop).map_err(
        |error| {
            let path = error.path().to_string();
            let at = if path == "." { String::new() } else { format!(" field `{path}`:") };
            refused(format!("settings:{at} {}", error.inner()))
        },
    )
}

/// Refuses a dotted name that no field has.
fn check_name(name: &str) -> Result<()> {
    let mut parts = name.split('.');
    let field = parts.next().unwrap_or_default();
    let rest: Vec<_> = parts.collect();
    let exists = |table: Option<&str>, field: &str| {
        // A field that does not exist is refused before its value is looked at.
        let probe = table.map_or_else(|| json!({ field: null }), |table| json!({ table: { field: null } }));
        serde_json::from_value::<ModelSettings>(probe)
            .map_or_else(|error| !error.to_string().starts_with("unknown field"), |_| true)
    };
    let is_known = match (field, &rest[..]) {
        // The names of variants have dots.
        (VARIANTS, _) => true,
        (_, []) => exists(None, field),
        (table, [field]) if TABLES.contains(&table) => exists(Some(table), field),
        _ => false,
    };
    if is_known {
        return Ok(());
    }
    Err(refused(format!("unset: there is no setting `{}`", crate::text::excerpt(name))))
}

fn refused(message: String) -> Failure {
    Failure::new(Code::InvalidField, message)
        .hint("docs/CONFIGURATION.md lists the settings of a model and their values, under [models.\"ID\"]")
}

/// The name of a field that is `null`.
fn null_in(settings: &Map<String, Value>) -> Option<String> {
    settings.iter().find_map(|(name, value)| match value {
        Value::Null => Some(name.clone()),
        Value::Object(fields) => null_in(fields).map(|field| format!("{name}.{field}")),
        _ => None,
    })
}

/// Those of the fields that this version of the hive can read. The others are kept on the disk.
fn readable(model: &str, set: &Map<String, Value>) -> Map<String, Value> {
    let is_read = |probe: Value| serde_json::from_value::<ModelSettings>(probe).is_ok();
    let mut read = Map::new();
    for (name, value) in set {
        let kept = match value {
            Value::Object(fields) if TABLES.contains(&&**name) => {
                let known =
                    fields.iter().filter(|(field, value)| is_read(json!({ name: { *field: value } })));
                Some(Value::Object(known.map(|(field, value)| (field.clone(), value.clone())).collect()))
            }
            Value::Object(variants) if name == VARIANTS => {
                let known = variants.iter().filter_map(|(name, variant)| {
                    Some((name.clone(), Value::Object(readable(model, variant.as_object()?))))
                });
                Some(Value::Object(known.collect()))
            }
            value => is_read(json!({ name: value })).then(|| value.clone()),
        };
        match kept {
            Some(value) => drop(read.insert(name.clone(), value)),
            None => tracing::warn!(
                model,
                setting = name,
                "this version cannot read it: it is kept and does not count"
            ),
        }
    }
    read
}

fn as_object(settings: &ModelSettings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn without(layer: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let others = layer.iter().filter(|(name, _)| !names.contains(&name.as_str()));
    others.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The dotted names of the fields of a layer, without its variants.
fn names(layer: &Map<String, Value>) -> Vec<String> {
    let names = layer.iter().filter(|(name, _)| *name != VARIANTS).flat_map(|(name, value)| match value {
        Value::Object(fields) => fields.keys().map(|field| format!("{name}.{field}")).collect(),
        _ => vec![name.clone()],
    });
    names.collect()
}

/// Puts the fields of `over` into `base`, at every depth.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            (_, value) => drop(base.insert(name, value)),
        }
    }
}

/// Changes the object of that name, which is made where there is none.
fn within<R>(
    object: &mut Map<String, Value>,
    name: &str,
    change: impl FnOnce(&mut Map<String, Value>) -> R,
) -> R {
    let mut fields = match object.remove(name) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let changed = change(&mut fields);
    object.insert(name.to_owned(), Value::Object(fields));
    changed
}

/// Removes the field of that dotted name. Names of variants have dots themselves.
fn remove(object: &mut Map<String, Value>, name: &str) {
    if object.remove(name).is_some() {
        return;
    }
    for (at, _) in name.match_indices('.') {
        if let Some(Value::Object(fields)) = object.get_mut(&name[..at]) {
            remove(fields, &name[at + 1..]);
        }
    }
}

/// Removes what is empty, at every depth, but for lists: an empty one is a value.
fn prune(object: &mut Map<String, Value>) {
    object.retain(|_, value| match value {
        Value::Object(fields) => {
            prune(fields);
            !fields.is_empty()
        }
        _ => true,
    });
}
