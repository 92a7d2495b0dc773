//! The settings that are in effect, each with its value and where that comes from. Secrets are hidden.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::names::dotted;
use super::source::Source;
use super::{Config, file};
use crate::error::{Code, Failure, Result};
use crate::secrets;

/// One setting, as it is in effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its dotted name: `jobs.keep_acts`, `models."org/m:Q4".slots`.
    pub name: String,
    /// Its value, as the file has it; null where it is unset. What looks like a secret is `***`.
    pub value: Value,
    /// Where the value comes from.
    pub source: Source,
    /// Whether a running hive takes over a change of it.
    pub reloadable: bool,
}

impl Config {
    /// Every setting, in the order of the documentation.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if a path is not UTF-8: no file could have it.
    pub fn settings(&self) -> Result<Vec<Setting>> {
        let defaults: BTreeMap<_, _> = flattened(&Self::default())?.into_iter().collect();
        let settings = flattened(self)?.into_iter().map(|(name, value)| {
            let source = self.source(&name, defaults.get(&name) == Some(&value));
            let reloadable = file::is_reloadable(&name);
            Setting { value: shown(&name, value), name, source, reloadable }
        });
        Ok(settings.collect())
    }

    /// The settings as JSON, from which they can be read again.
    pub(super) fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|error| {
            Failure::new(Code::ConfigInvalid, format!("the settings cannot be written: {error}"))
                .hint("give files and folders names in UTF-8")
        })
    }

    fn source(&self, name: &str, is_default: bool) -> Source {
        let in_file = |line: Option<usize>| {
            let file = self.file.as_ref()?;
            Some(Source::File { file: file.path.clone(), line: line? })
        };
        let file = self.file.as_ref();
        self.given
            .get(name)
            .cloned()
            .or_else(|| in_file(file.and_then(|file| file.line(name))))
            .or_else(|| is_default.then_some(Source::Default))
            // The file may call a device or a table otherwise than it is called here.
            .or_else(|| {
                let table = name.rsplit_once('.').map(|(table, _)| table)?;
                in_file(file.and_then(|file| file.line_within(table)))
            })
            .unwrap_or(Source::Program)
    }
}

fn flattened(config: &Config) -> Result<Vec<(String, Value)>> {
    let mut settings = Vec::new();
    if let Value::Object(table) = config.to_json()? {
        flatten("", table, &mut settings);
    }
    Ok(settings)
}

fn flatten(within: &str, table: Map<String, Value>, settings: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let name = dotted(within, &key);
        match value {
            Value::Object(table) if !table.is_empty() => flatten(&name, table, settings),
            // No engine, or no model, has settings.
            Value::Object(_) if within.is_empty() => {}
            value => settings.push((name, value)),
        }
    }
}

/// The value without secrets: users and queries of URLs, variables of engines, and words of their commands.
fn shown(name: &str, value: Value) -> Value {
    let hidden = || Value::String(secrets::HIDDEN.to_owned());
    let is_of_engine = name.starts_with("engines.");
    match value {
        Value::String(_) if is_of_engine && name.contains(".env.") && is_secret_variable(name) => hidden(),
        Value::String(text) => Value::String(secrets::without_credentials(&text)),
        Value::Array(words) if is_of_engine => {
            let mut is_secret = false;
            let shown = words.into_iter().map(|word| {
                let text = word.as_str().unwrap_or_default().to_owned();
                let flag =
                    text.starts_with('-').then(|| text.split_once('=').map_or(&*text, |(flag, _)| flag));
                let names_secret = flag.is_some_and(secrets::is_named_by);
                if std::mem::replace(&mut is_secret, names_secret && !text.contains('=')) && flag.is_none() {
                    hidden()
                } else if let Some((flag, _)) = text.split_once('=').filter(|_| names_secret) {
                    Value::String(format!("{flag}={}", secrets::HIDDEN))
                } else {
                    shown("", word)
                }
            });
            shown.collect()
        }
        Value::Array(items) => items.into_iter().map(|item| shown("", item)).collect(),
        other => other,
    }
}

fn is_secret_variable(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|variable| secrets::is_named_by(variable.trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    /// As the hive is started with a file of that text.
    fn settings(text: &str, given: &[(&str, &str)]) -> BTreeMap<String, Setting> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hive.toml");
        std::fs::write(&path, text).unwrap();
        let mut config = Config::from_file(&path).unwrap();
        for (name, flag) in given {
            config.given.insert((*name).to_owned(), Source::Flag { flag: (*flag).to_owned() });
        }
        let settings = config.settings().unwrap().into_iter();
        settings.map(|setting| (setting.name.clone(), setting)).collect()
    }

    #[test]
    fn each_setting_has_its_value_and_its_source() {
        let settings = settings(
            "port = 1\nbind = \"::1\"\n[gateway]\nbody_limit = 4097\n[memory]\nreserve = { cuda = \"1GiB\" }\n\
             [models.\"a/b\"]\nsampling = {\n  top_k = 3,\n}\nidle = -1",
            &[("port", "--port")],
        );
        let told = |name: &str| (settings[name].value.clone(), settings[name].source.to_string());
        assert_eq!(told("port"), (json!(1), "flag --port".to_owned()));
        assert_eq!(told("jobs.keep_acts"), (json!(1000), "default".to_owned()));
        assert_eq!(told("token_file"), (Value::Null, "default".to_owned()));
        for (name, value, line) in [
            ("bind", json!("::1"), 2),
            ("gateway.body_limit", json!(4097), 4),
            ("memory.reserve.\"cuda:0\"", json!("1 GiB"), 6),
            ("models.\"a/b\".sampling.top_k", json!(3), 9),
            ("models.\"a/b\".idle", json!(-1), 11),
        ] {
            let (shown, source) = told(name);
            assert!(
                shown == value && source.ends_with(&format!("hive.toml, line {line}")),
                "{name}: {source}"
            );
        }
        assert!(settings["jobs.keep_acts"].reloadable && !settings["port"].reloadable);
    }

    #[test]
    fn what_code_changed_is_not_called_a_default() {
        let config = Config { port: 1, ..Config::default() };
        let settings = config.settings().unwrap();
        let source =
            |name: &str| settings.iter().find(|setting| setting.name == name).unwrap().source.clone();
        assert_eq!((source("port"), source("bind")), (Source::Program, Source::Default));
    }

    #[test]
    fn secrets_are_hidden() {
        let settings = settings(
            "queen_url = \"http://me:word@queen\"\n[engine_builds]\narchive = \"https://a/b.zip?sig=word\"\n\
             [engines.x]\ncommand = [\"serve\", \"--api-key\", \"word\", \"--hf-token=word\", \"--url\", \
             \"http://word@h\", \"{model}\", \"{port}\", \"--keep\", \"this\"]\ndevices = [\"cpu\"]\n\
             env = { API_KEY = \"word\", \"DB.PASSWORD\" = \"word\", DEVICES = \"{device_index}\" }",
            &[],
        );
        let all = json!(settings.values().map(|setting| &setting.value).collect::<Vec<_>>()).to_string();
        assert!(!all.contains("word"), "{all}");
        assert_eq!(
            settings["engines.x.command"].value,
            json!([
                "serve",
                "--api-key",
                "***",
                "--hf-token=***",
                "--url",
                "http://***@h",
                "{model}",
                "{port}",
                "--keep",
                "this"
            ])
        );
        assert_eq!(settings["engines.x.env.DEVICES"].value, "{device_index}");
        assert_eq!(settings["queen_url"].value, "http://***@queen");
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let text = serde_json::to_string(&Config::default()).unwrap();
        let read: Config = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
        assert!(Path::new(&read.data_dir).is_absolute());
    }
}
