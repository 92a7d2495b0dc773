//! What is said of names in the file that are no settings: where each stands, what is near to it, and where it
//! belongs if it is the name of a setting elsewhere.

use std::fmt::Write as _;

use serde_json::Value;
use toml::de::DeTable;

use super::names::{dotted, line_of};
use super::schema::{resolved, schema};
use crate::text;

/// The most names that one message has.
const MOST: usize = 5;

/// A name that is no setting.
struct Unknown {
    line: usize,
    table: String,
    name: String,
    /// The names that its table may have.
    known: Vec<String>,
}

/// What is wrong with the names of the file: nothing if all are known, or where it is no TOML.
pub(super) fn problem(file: &str) -> Option<String> {
    let table = DeTable::parse(file).ok()?;
    let schema = schema();
    let mut unknown = Vec::new();
    look(&schema, &schema, "", table.get_ref(), file, &mut unknown);
    unknown.sort_by_key(|one| one.line);
    let mut told = String::new();
    for (place, one) in unknown.iter().take(MOST).enumerate() {
        let separator = if place == 0 { "" } else { "; " };
        let _ = write!(told, "{separator}{}", one.told(&schema));
    }
    if unknown.len() > MOST {
        let _ = write!(told, "; and {} more", unknown.len() - MOST);
    }
    (!told.is_empty()).then_some(told)
}

fn look(
    schema: &Value,
    node: &Value,
    table: &str,
    keys: &DeTable<'_>,
    file: &str,
    unknown: &mut Vec<Unknown>,
) {
    let node = resolved(schema, node);
    let properties = node.get("properties").and_then(Value::as_object);
    let others = node.get("additionalProperties").filter(|others| others.is_object());
    // A table of sizes by device, or a value that is no table: its reader says what is wrong.
    if properties.is_none() && others.is_none() {
        return;
    }
    for (key, value) in keys {
        let name = key.get_ref().as_ref();
        match properties.and_then(|properties| properties.get(name)).or(others) {
            Some(known) => {
                if let Some(within) = value.get_ref().as_table() {
                    look(schema, known, &dotted(table, name), within, file, unknown);
                }
            }
            None => unknown.push(Unknown {
                line: line_of(file, key.span().start),
                table: table.to_owned(),
                name: name.to_owned(),
                known: properties.into_iter().flat_map(|properties| properties.keys()).cloned().collect(),
            }),
        }
    }
}

impl Unknown {
    fn told(&self, schema: &Value) -> String {
        let place = if self.table.is_empty() { String::new() } else { format!(" in [{}]", self.table) };
        let name = text::excerpt(&self.name);
        let mut told = format!("line {}: there is no setting '{name}'{place}", self.line);
        let near: Vec<_> = text::nearest(&self.name, self.known.iter().map(String::as_str));
        let mut everywhere = Vec::new();
        places(schema, schema, "", &mut everywhere);
        let same: Vec<_> = everywhere.iter().filter(|(_, known)| *known == self.name).collect();
        let _ = match (&same[..], &near[..]) {
            ([], []) => {
                let names = everywhere.iter().map(|(table, name)| (table.as_str(), name.as_str()));
                match nearest_anywhere(&self.name, names) {
                    Some((table, known)) => write!(told, "; the nearest is '{known}'{}", within(table)),
                    None => Ok(()),
                }
            }
            ([], [nearest, ..]) => write!(told, "; the nearest is '{nearest}'"),
            (same, _) => {
                let tables: Vec<_> = same.iter().map(|(table, _)| within(table)).collect();
                write!(told, "; that setting stands{}", tables.join(" or"))
            }
        };
        told
    }
}

fn within(table: &str) -> String {
    if table.is_empty() { " above all tables".to_owned() } else { format!(" in [{table}]") }
}

fn nearest_anywhere<'a>(
    name: &str,
    known: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Option<(&'a str, &'a str)> {
    let nearest = text::nearest(name, known.clone().map(|(_, name)| name)).first().copied()?;
    known.into_iter().find(|(_, name)| *name == nearest)
}

/// Every setting that the schema knows: its table, with `NAME` where that is up to the user, and its name.
fn places(schema: &Value, node: &Value, table: &str, found: &mut Vec<(String, String)>) {
    let node = resolved(schema, node);
    // Variants have the settings of models.
    let is_within_itself = table.contains("NAME");
    for (name, within) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        found.push((table.to_owned(), name.clone()));
        places(schema, within, &dotted(table, name), found);
    }
    if let Some(others) =
        node.get("additionalProperties").filter(|others| others.is_object() && !is_within_itself)
    {
        places(schema, others, &dotted(table, "NAME"), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_told_with_its_line_its_table_and_what_is_near() {
        for (file, told) in [
            ("port = 1\nprot = 2", "line 2: there is no setting 'prot'; the nearest is 'port'"),
            (
                "[timers]\n\nsilnce = \"1s\"",
                "line 3: there is no setting 'silnce' in [timers]; the nearest is 'silence'",
            ),
            ("silence = \"1s\"", "line 1: there is no setting 'silence'; that setting stands in [timers]"),
            ("[timer]\nsilence = \"1s\"", "line 1: there is no setting 'timer'; the nearest is 'timers'"),
            (
                "[jobs]\nport = 1",
                "line 2: there is no setting 'port' in [jobs]; that setting stands above all tables",
            ),
            (
                "[models.\"a/b\"]\nsampling = { temperatur = 1 }",
                "line 2: there is no setting 'temperatur' in [models.\"a/b\".sampling]; the nearest is 'temperature'",
            ),
            (
                "[models.m.variants.v]\nslot = 1",
                "line 2: there is no setting 'slot' in [models.m.variants.v]; the nearest is 'slots'",
            ),
            (
                "[engines.x]\ncomand = []",
                "line 2: there is no setting 'comand' in [engines.x]; the nearest is 'command'",
            ),
            (
                "[hub]\nflash_attention = \"on\"",
                "line 2: there is no setting 'flash_attention' in [hub]; that setting stands in [llama_server] or \
                 in [models.NAME.engine_options]",
            ),
            ("xyz = 1", "line 1: there is no setting 'xyz'"),
        ] {
            assert_eq!(problem(file).as_deref(), Some(told), "{file}");
        }
        let several = problem("a1 = 1\na2 = 1\na3 = 1\na4 = 1\na5 = 1\na6 = 1\na7 = 1\n").unwrap();
        assert!(several.ends_with("; and 2 more") && several.contains("line 5"), "{several}");
    }

    #[test]
    fn known_names_are_no_problem() {
        for file in ["", "port = 1", "no toml", "[memory]\nreserve = { cpu = 1, nonsense = 2 }", "jobs = 1"] {
            assert_eq!(problem(file), None, "{file}");
        }
    }
}
