//! `rbee-hive config`: which settings count, and where each comes from.

use std::io::Write;

use serde_json::Value;

use super::serve;
use crate::config::{self, Setting, Source};
use crate::error::{Failure, Result};

/// Shows the settings that `serve` would have with the same flags, environment and file.
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
    /// Show the settings (the default)
    Show(Box<Show>),
    /// Print the JSON Schema of the file of the settings, for editors
    Schema,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Show {
    #[command(flatten)]
    serve: serve::Args,
    /// Show those that have their defaults, too
    #[arg(long)]
    all: bool,
    /// Print one JSON document: [{"name","value","source","reloadable"}]
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self) -> Result<()> {
        match self.what {
            Some(What::Schema) => print(&pretty(&config::schema())?),
            Some(What::Show(show)) => show.run(),
            None => self.show.run(),
        }
    }
}

impl Show {
    fn run(self) -> Result<()> {
        let mut settings = self.serve.into_config()?.settings()?;
        settings.retain(|setting| self.all || setting.source != Source::Default);
        print(&if self.json { pretty(&settings)? } else { as_file(&settings) })
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

fn pretty(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Failure::internal("could not write JSON").detail(error))
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::internal("could not write to standard output").detail(error))
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
