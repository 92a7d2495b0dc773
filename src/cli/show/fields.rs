//! An object as aligned fields, with a table for each list of objects in it.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::table::{Column, column, number, table};
use crate::cli::words::{member, of_field};

/// The fields of an object, one a line, whatever it has; of a list of objects, a table. Other values are shown as JSON.
pub(crate) fn fields(value: &Value) -> String {
    let object = match value {
        Value::Object(object) => object,
        Value::Array(list) if list.is_empty() => return "none\n".to_owned(),
        Value::Array(list) if list.iter().any(Value::is_object) => return of_list(list),
        other => return format!("{other}\n"),
    };
    let (mut lines, mut lists) = (Vec::new(), Vec::new());
    collect(object, "", &mut lines, &mut lists);
    let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in lines {
        let indent = " ".repeat(width + 2);
        let value = value.trim_end().replace('\n', &format!("\n{indent}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<width$}  {value}");
    }
    for (label, list) in lists {
        let _ = write!(text, "\n{label}:\n{}", indented(&of_list(list)));
    }
    text
}

fn collect<'a>(
    object: &'a Map<String, Value>,
    prefix: &str,
    lines: &mut Vec<(String, String)>,
    lists: &mut Vec<(String, &'a [Value])>,
) {
    for (name, value) in object {
        let label = format!("{prefix}{}", label(name));
        match value {
            Value::Object(inner) => collect(inner, &format!("{label} "), lines, lists),
            Value::Array(list) if list.iter().any(Value::is_object) => lists.push((label, list)),
            _ => lines.extend(of_field(name, value).map(|value| (label, value))),
        }
    }
}

/// A table with a column for each field that a member has, but for those that have fields themselves.
fn of_list(list: &[Value]) -> String {
    let mut names: Vec<&String> = Vec::new();
    for (name, value) in list.iter().filter_map(Value::as_object).flatten() {
        if !names.contains(&name) && !value.is_object() && of_field(name, value).is_some() {
            names.push(name);
        }
    }
    let titles: Vec<_> = names.iter().map(|name| label(name).to_uppercase()).collect();
    let columns: Vec<Column<'_>> = names
        .iter()
        .zip(&titles)
        .map(|(name, title)| {
            let cell = move |row: &Value| member(row, name);
            let is_number =
                list.iter().all(|row| row[name.as_str()].is_number() || row[name.as_str()].is_null());
            if is_number { number(title, cell) } else { column(title, cell) }
        })
        .collect();
    table(list, &columns)
}

/// The name of a field without what its end says of its unit.
fn label(name: &str) -> String {
    let short =
        ["_bytes", "_seconds", "_ms", "_at"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    short.replace('_', " ")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_objects_is_a_table() {
        let list = json!([{"id": "a", "inner": {"x": 1}, "gone": null}, {"id": "b"}]);
        assert_eq!(fields(&list), "ID\na\nb\n");
        assert_eq!(fields(&json!([])), "none\n");
    }

    #[test]
    fn what_an_object_has_is_shown_and_what_it_lacks_is_not() {
        let value = json!({
            "id": "tiny", "size_bytes": 1536, "revision": null, "sampling": {"top_k": 40},
            "files": [{"name": "a", "size_bytes": 1024}, {"name": "b", "size_bytes": null}], "left_out": [],
        });
        assert_eq!(
            fields(&value),
            "id              tiny\nsize            1.5 KiB\nsampling top k  40\n\nfiles:\n  NAME     SIZE\n  a     1.0 KiB\n  b           -\n"
        );
    }
}
