//! `rbee-hive config`: which settings count, and where each comes from.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::end::{self, Ended};
use super::session::Session;
use super::verbs::{OnHive, Verb};
use super::{serve, show};
use crate::config::{self, Setting, Source};
use crate::error::Failure;

/// Show the settings that `serve` would have with the same flags, environment and file.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[group(skip)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the settings that a start would have (the default)
    Show(Box<Show>),
    /// Show the settings of the hive that runs
    Running(OnHive<Running>),
    /// Print the JSON Schema of the file of the settings, for editors
    Schema,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Show {
    #[command(flatten)]
    serve: serve::Args,
    #[command(flatten)]
    which: Which,
    /// Print one JSON document: a list of name, value, source and whether a reload takes a change over
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Which {
    /// Show those that have their defaults, too
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Running {
    #[command(flatten)]
    which: Which,
}

impl Args {
    pub(super) async fn run(self) -> ExitCode {
        match self.what {
            Some(What::Running(verb)) => end::of_verb(verb.run().await),
            Some(What::Schema) => end::of_verb(schema()),
            Some(What::Show(show)) => show.run(),
            None => self.show.run(),
        }
    }
}

fn schema() -> Ended {
    let text = serde_json::to_string_pretty(&config::schema())
        .map_err(|error| Failure::internal("could not write the schema").detail(error))?;
    show::line(&text)
}

impl Show {
    /// Where the settings are not valid, it ends as `serve` would.
    fn run(self) -> ExitCode {
        let settings = match self.serve.into_config().and_then(|config| config.settings()) {
            Ok(settings) => self.which.of(settings),
            Err(failure) => return end::of_daemon(Err(failure)),
        };
        end::of_verb(match self.json {
            true => show::json(&json!(settings)),
            false => show::print(&as_file(&settings)),
        })
    }
}

impl Verb for Running {
    async fn run(self, session: &Session) -> Ended {
        #[derive(Deserialize)]
        struct InEffect {
            settings: Vec<Setting>,
            restart_needed: Vec<String>,
        }
        let told: InEffect =
            session.hive.get("/v1/config").await.map_err(|error| session.explained(error))?;
        let settings = self.which.of(told.settings);
        session.show(&json!(settings), |_| {
            let mut text = as_file(&settings);
            if !told.restart_needed.is_empty() {
                text.push_str(&format!(
                    "\n# needs a restart of the hive: {}\n",
                    told.restart_needed.join(", ")
                ));
            }
            text
        })
    }
}

impl Which {
    fn of(&self, mut settings: Vec<Setting>) -> Vec<Setting> {
        settings.retain(|setting| self.all || setting.source != Source::Default);
        settings
    }
}

/// The settings for people, as a file that has them would look, with the source of each behind it.
fn as_file(settings: &[Setting]) -> String {
    if settings.is_empty() {
        return "# every setting has its default: --all shows them\n".to_owned();
    }
    let mut told = String::new();
    for section in settings.chunk_by(|one, next| split(one).0 == split(next).0) {
        if !told.is_empty() {
            told.push('\n');
        }
        let header = split(&section[0]).0;
        if !header.is_empty() {
            told.push_str(&format!("[{header}]\n"));
        }
        let lines: Vec<_> = section.iter().map(line).collect();
        let widths = lines.iter().map(|line| line.chars().count()).filter(|width| *width <= WIDEST);
        let width = widths.max().unwrap_or(0);
        for (line, setting) in lines.iter().zip(section) {
            told.push_str(&format!("{line:width$}  # {}\n", setting.source));
        }
    }
    told
}

/// What is wider than that does not push the sources of its table aside.
const WIDEST: usize = 60;

/// The table of the file in which a setting stands, and its name there.
fn split(setting: &Setting) -> (&str, &str) {
    setting.name.split_once('.').unwrap_or(("", &setting.name))
}

fn line(setting: &Setting) -> String {
    let (_, name) = split(setting);
    match &setting.value {
        Value::Null => format!("# {name} is unset"),
        // Numbers, texts, lists and empty tables are written in TOML as in JSON.
        value => format!("{name} = {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_shown_is_a_file_with_the_same_settings() {
        let text = "models_dirs = [\"/a\", \"/b\\\"\\n\"]\n[models.\"a/b.c\"]\nsampling.temperature = 0.5\nidle = -1\n\
                    [memory]\nreserve = { cpu = \"1GiB\" }\n[engines.\"x.y\"]\ncommand = [\"a\"]\ndevices = [\"cpu\"]";
        let config: Config = toml::from_str(text).unwrap();
        let shown = as_file(&config.settings().unwrap());
        let read: Config = toml::from_str(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(format!("{read:#?}"), format!("{config:#?}"), "{shown}");
    }
}
