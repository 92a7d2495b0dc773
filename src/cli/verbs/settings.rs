//! `rbee-hive settings MODEL [KEY=VALUE…]`: shows the settings of a model, or changes them.

use serde_json::{Map, Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, fields, table, text_of};
use crate::cli::words::of_field;

const EXAMPLES: &str =
    "Settings to set, by their dotted names: context_length=8192, sampling.top_k=40, aliases=[\"a\",\"b\"]";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The id of the model, or what else names it; ID@NAME is a variant of it
    model: String,
    #[arg(value_name = "KEY=VALUE", value_parser = pair, help = EXAMPLES)]
    set: Vec<(String, Value)>,
    /// A setting that is to count no more, by its dotted name; may be repeated
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let Self { model, set, unset } = self;
        if set.is_empty() && unset.is_empty() {
            let view = session.run("ModelSettingsGet", json!({ "id": model })).await?;
            return session.show(&view, of_view);
        }
        let mut settings = Map::new();
        for (key, value) in set {
            put(&mut settings, &key, value);
        }
        let request = json!({ "id": model, "settings": settings, "unset": unset });
        let changed = session.run("ModelSettingsSet", request).await?;
        session.show(&changed, of_view)
    }
}

/// A setting and its value: TOML, as in the configuration, or else text.
fn pair(text: &str) -> Result<(String, Value), String> {
    let (key, value) =
        text.split_once('=').ok_or("a setting is written KEY=VALUE; --unset KEY takes one back")?;
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err("the name before the = is not one of a setting".to_owned());
    }
    let read = toml::from_str::<Map<String, Value>>(&format!("value = {value}"));
    let value = match read.ok().and_then(|mut read| read.remove("value")) {
        Some(read) => read,
        None => value.into(),
    };
    Ok((key.to_owned(), value))
}

/// Puts a value at its dotted name.
fn put(settings: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(settings.insert(key.to_owned(), value)),
        Some((first, rest)) => {
            let inner = settings.entry(first).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Each setting with who says it.
fn of_view(view: &Value) -> String {
    let rows: Vec<_> = view["sources"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, source)| {
            let value = name.split('.').fold(&view["settings"], |value, part| &value[part]);
            json!({ "setting": name, "value": of_field(name, value), "source": source })
        })
        .collect();
    let mut text = table(
        &rows,
        &[
            text_of("SETTING", "setting"),
            text_of("VALUE", "value"),
            column("SAID BY", |row| match row["source"].as_str() {
                Some("operation") => "this hive's records".to_owned(),
                Some("file") => "the configuration".to_owned(),
                Some("model") => "the model's file".to_owned(),
                _ => "default".to_owned(),
            }),
        ],
    );
    let rest = ["variants", "shadowed_aliases", "reloads"].map(|name| (name.to_owned(), view[name].clone()));
    let rest = rest.into_iter().filter(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty()));
    let rest: Map<_, _> = rest.collect();
    if !rest.is_empty() {
        text += &format!("\n{}", fields(&Value::Object(rest)).trim_start_matches('\n'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_in_the_configuration_and_else_as_text() {
        let read = |text: &str| pair(text).unwrap().1;
        assert_eq!(read("slots=4"), json!(4));
        assert_eq!(read("pinned=true"), json!(true));
        assert_eq!(read("sampling.temperature=0.5"), json!(0.5));
        assert_eq!(read("aliases=[\"a\", \"b\"]"), json!(["a", "b"]));
        assert_eq!(read("device=cuda:0"), json!("cuda:0"));
        assert_eq!(read("system_prompt=a = b"), json!("a = b"));
        assert!(pair("slots").is_err() && pair("=4").is_err() && pair("a..b=1").is_err());
    }

    #[test]
    fn dotted_names_share_their_objects() {
        let mut settings = Map::new();
        put(&mut settings, "sampling.top_k", json!(1));
        put(&mut settings, "sampling.top_p", json!(0.5));
        assert_eq!(Value::Object(settings), json!({ "sampling": { "top_k": 1, "top_p": 0.5 } }));
    }
}
