//! The documents match the code: each list in them is compared with the code's own list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory;
use rbee_hive::cli::Cli;
use rbee_hive::config::Config;
use rbee_hive::error::Code;
use rbee_hive::ops::{Deadline, REFUSED, Row};
use serde_json::{Map, Value, json};

use crate::support::{document, documents, files_beneath, rows, section};

/// The rows of a table whose first two cells are `setting` and its default, by section.
fn settings(document: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut settings: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let mut place = String::new();
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            place = heading.trim_matches(['`', '[', ']']).to_owned();
        }
        let mut cells = line.strip_prefix("| `").into_iter().flat_map(|line| line.split(" | "));
        if let (Some(name), Some(default)) = (cells.next(), cells.next()) {
            let row = (name.trim_end_matches('`').to_owned(), default.trim().to_owned());
            settings.entry(place.clone()).or_default().push(row);
        }
    }
    settings
}

/// The names of the settings that a table of the file may have, from the parser's error.
fn known(table: &str) -> Vec<String> {
    let text = if table.is_empty() { "nonsense = 1".into() } else { format!("[{table}]\nnonsense = 1") };
    let error = toml::from_str::<Config>(&text).expect_err("it is nonsense").to_string();
    let (_, expected) = error.split_once("expected").expect("the reader says what it knows");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The tables of the file, without `[engines.NAME]` and `[models."ID"]`.
const TABLES: [&str; 12] = [
    "jobs",
    "downloads",
    "hub",
    "ollama",
    "workers",
    "residency",
    "gateway",
    "memory",
    "fleet",
    "llama_server",
    "engine_builds",
    "timers",
];

#[test]
fn every_setting_is_documented_with_its_default() {
    let documented = settings(&document("docs/CONFIGURATION.md"));
    let mut file = String::new();
    for (table, place) in [("", "The hive")].into_iter().chain(TABLES.map(|table| (table, table))) {
        let rows = &documented[place];
        let mut names: Vec<_> = rows.iter().map(|(name, _)| name.clone()).collect();
        let mut known: Vec<_> = known(table)
            .into_iter()
            .filter(|name| !TABLES.contains(&&**name) && name != "engines" && name != "models")
            .collect();
        names.sort();
        known.sort();
        assert_eq!(names, known, "in the section '{place}'");
        if !table.is_empty() {
            writeln!(file, "[{table}]").unwrap();
        }
        for (name, default) in rows {
            // A default in words is of a setting that depends on the machine, or that a file cannot state.
            if let Some(value) = default.strip_prefix('`').and_then(|default| default.strip_suffix('`')) {
                writeln!(file, "{name} = {value}").unwrap();
            }
        }
    }
    let read: Config = toml::from_str(&file).unwrap_or_else(|error| panic!("{error}\n{file}"));
    assert_eq!(format!("{read:#?}"), format!("{:#?}", Config::default()));
}

/// The names of settings, as `table.name`, in a text.
fn names_in(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).filter(|name| name.contains('.')).collect()
}

#[test]
fn every_duration_has_the_bounds_that_are_documented() {
    let documented = document("docs/CONFIGURATION.md");
    let bounds = section(&documented, "## Durations").rsplit_once("It may be").expect("the bounds").1;
    let (most, may_be_zero) = bounds.split_once("except these").expect("what may be 0");
    let (a_day_at_most, may_be_zero) = (names_in(most), names_in(may_be_zero));
    let mut durations = BTreeSet::new();
    for (table, rows) in settings(&documented) {
        let is_duration = |default: &str| {
            let text = default.trim_matches(['`', '"']);
            text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_lowercase())
        };
        for (name, _) in rows.iter().filter(|(_, default)| is_duration(default)) {
            let setting = format!("{table}.{name}");
            let read = |duration: &str| {
                // No first wait is longer than the longest one.
                let longest = if name == "restart_first" { "restart_longest = \"24h\"" } else { "" };
                let file = format!("[{table}]\n{name} = \"{duration}\"\n{longest}");
                let config: Config = toml::from_str(&file).map_err(|error| error.to_string())?;
                config.validate().map_err(|failure| failure.message)
            };
            let most = if a_day_at_most.contains(&*setting) { "24h" } else { "8784h" };
            read(most).unwrap_or_else(|error| panic!("{setting} may be {most}: {error}"));
            let mut refused = vec![format!("{most} 1ns")];
            if may_be_zero.contains(&*setting) {
                read("0s").unwrap_or_else(|error| panic!("{setting} may be 0s: {error}"));
            } else {
                refused.push("0s".to_owned());
            }
            for duration in refused {
                let error = read(&duration).expect_err(&format!("{setting} may not be {duration}"));
                assert!(error.contains(name), "{setting} is not named: {error}");
            }
            durations.insert(setting);
        }
    }
    assert!(durations.len() > 20, "{durations:?}");
    for setting in a_day_at_most.union(&may_be_zero) {
        assert!(durations.contains(*setting), "{setting} is no duration");
    }
}

#[test]
fn every_flag_and_variable_is_documented() {
    let documented = document("docs/CONFIGURATION.md");
    let mut command = Cli::command();
    command.build();
    let worker = command.find_subcommand("worker").expect("there is one");
    for argument in command.get_arguments().chain(worker.get_arguments()) {
        let flag = argument.get_long().filter(|flag| !["help", "version"].contains(flag));
        if let Some(flag) = flag {
            assert!(documented.contains(&format!("`--{flag}`")), "--{flag}");
        }
        if let Some(variable) = argument.get_env() {
            let variable = variable.to_string_lossy();
            assert!(documented.contains(&format!("`{variable}`")), "{variable}");
        }
    }
}

/// The request with every field, made from one with the required fields.
fn complete_request(row: &'static Row) -> Map<String, Value> {
    let operation = json!({ row.name: rows::sample_fields(row) });
    let submission = rows::parse(row, &operation).unwrap_or_else(|failure| panic!("{operation}: {failure}"));
    serde_json::from_str(submission.request.get()).expect("an object")
}

#[test]
fn every_operation_is_documented_with_all_its_fields_and_defaults() {
    let documented = rows::events_document();
    for row in rows::rows() {
        let section = section(documented, &format!("### {}", row.name));
        let name = |value: Value| value.as_str().expect("a name").to_owned();
        let deadline = match row.deadline {
            Deadline::Read => "deadline of reads",
            Deadline::Act => "deadline of acts",
            Deadline::None => "no deadline",
        };
        let summary = format!(
            "`{}` · {} · class {} · {deadline}",
            row.wire_name,
            name(json!(row.kind)),
            name(json!(row.class))
        );
        assert!(section.trim_start().starts_with(&summary), "{}: not '{summary}'", row.name);
        for (field, value) in
            complete_request(row).iter().filter(|(field, _)| !["operation", "hive_id"].contains(&&***field))
        {
            let line = section.lines().find(|line| line.starts_with(&format!("| `{field}` |")));
            let line = line.unwrap_or_else(|| panic!("{}: field `{field}`", row.name));
            let default = line.split('|').nth(3).unwrap_or_default().trim();
            if !default.is_empty() {
                // A device travels as text.
                let value = value.to_string();
                let fits =
                    default == format!("`{value}`") || format!("\"{}\"", default.trim_matches('`')) == value;
                assert!(fits, "{}: field `{field}`: {default} is {value}", row.name);
            }
        }
    }
    for refused in REFUSED {
        let name =
            if refused.is_family { format!("`{}…`", refused.name) } else { format!("`{}`", refused.name) };
        assert!(section(documented, "### What a hive refuses").contains(&name), "{name}");
    }
}

#[test]
fn every_error_code_is_documented_with_its_statuses() {
    let documented = document("docs/EVENTS.md");
    for code in Code::ALL {
        let row = format!("| `{code}` | {} | {} |", code.http_status(), code.exit_status());
        assert!(documented.contains(&row), "{row}");
    }
}

#[test]
fn links_between_the_documents_have_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in documents() {
        let text = document(&path);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                root.join(&path)
            } else {
                root.join(&path).parent().unwrap().join(file)
            };
            assert!(target.exists(), "{path}: {link}");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let headings: Vec<_> =
                    text.lines().filter(|line| line.starts_with('#')).map(anchor_of).collect();
                assert!(headings.iter().any(|heading| heading == anchor), "{path}: {link}");
            }
        }
    }
}

#[test]
fn the_documents_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in ["docs/ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = document(path);
        // Every other piece between backticks is code.
        let code = text.split('`').skip(1).step_by(2);
        let files = code.filter(|code| code.contains('/') && code.ends_with(".rs") && !code.contains('<'));
        for file in files {
            let is_there = root.join("src").join(file).exists() || root.join(file).exists();
            assert!(is_there, "{path}: there is no {file}");
        }
    }
}

/// The anchor that GitHub gives a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The text of every Rust file beneath a folder of the repository.
fn code_beneath(folder: &str) -> String {
    let mut files = files_beneath(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.iter().map(|path| std::fs::read_to_string(path).expect("a file of code")).collect()
}

/// A row of `docs/RELIABILITY.md` or of `SECURITY.md` is a promise and the tests that hold it.
#[test]
fn every_promise_names_tests_that_exist() {
    let code = code_beneath("src") + &code_beneath("tests");
    for (name, least) in [("docs/RELIABILITY.md", 20), ("SECURITY.md", 10)] {
        let text = document(name);
        let is_promise = |line: &&str| line.starts_with("| ") && line.matches(" | ").count() == 1;
        let promises: Vec<_> =
            text.lines().filter(is_promise).skip_while(|line| !line.contains('`')).collect();
        assert!(promises.len() >= least, "{name} has {} promises", promises.len());
        for promise in promises {
            let (_, tests) = promise.rsplit_once(" | ").expect("two cells");
            let tests: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty() || promise.contains("| tests"), "{name}: no test holds: {promise}");
            for test in tests {
                assert!(code.contains(&format!("fn {test}(")), "{name}: there is no test {test}");
            }
        }
    }
}
