//! The file of the settings, as it was read, and which of its changes a running hive takes over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};
use utoipa::ToSchema;

use super::names::{dotted, line_of};

/// The settings, and tables of settings, that are taken over. They are those that are read each time that they
/// are used, and that people change while work is under way. The others are built into what runs (addresses,
/// folders, engines, deadlines of what has begun) or say who may call: a restart shows at once whether they work.
pub(super) const RELOADABLE: [&str; 26] = [
    "jobs.keep_acts",
    "jobs.keep_acts_for",
    "jobs.acts_memory_bytes",
    "jobs.keep_reads_for",
    "jobs.reads_memory_bytes",
    "downloads.connections",
    "downloads.chunk_bytes",
    "downloads.bytes_per_second",
    "downloads.min_bytes_per_second",
    "downloads.retries",
    "workers.restart",
    "workers.restart_first",
    "workers.restart_longest",
    "workers.restart_reset",
    "workers.keep_on_shutdown",
    "workers.threads",
    "residency.on_demand",
    "residency.idle",
    "residency.min_stay",
    "residency.linger",
    "residency.drain",
    "residency.loads",
    "residency.retry",
    "gateway",
    "models",
    "memory",
];

/// The file of the settings, as it was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    pub(crate) path: PathBuf,
    /// The settings that the file had when the hive started, by their dotted names.
    at_start: BTreeMap<String, Value>,
    /// The settings that it had when it was last read.
    latest: BTreeMap<String, Value>,
    /// The lines, from 1, in which these stand.
    lines: BTreeMap<String, usize>,
}

/// What a reload did. Names of settings are dotted, such as `jobs.keep_acts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reloaded {
    /// The file; null where the hive was started without one.
    #[schema(value_type = Option<String>)]
    pub file: Option<PathBuf>,
    /// The settings that changed and are in effect.
    pub applied: Vec<String>,
    /// The settings that differ from those of the start and need a restart.
    pub restart_needed: Vec<String>,
}

/// Whether a running hive takes over a change of the setting.
pub(super) fn is_reloadable(name: &str) -> bool {
    let is_within = |table: &str| name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    RELOADABLE.iter().any(|known| *known == name || is_within(known))
}

impl ConfigFile {
    /// The file of that text.
    ///
    /// # Errors
    /// If it is no TOML.
    pub(super) fn new(path: &Path, text: &str) -> Result<Self, toml::de::Error> {
        let (mut settings, mut lines) = (BTreeMap::new(), BTreeMap::new());
        flatten("", DeTable::parse(text)?.into_inner(), &mut |name, key, value| {
            lines.insert(name.clone(), line_of(text, key));
            settings.insert(name, Value::deserialize(ValueDeserializer::from(value))?);
            Ok(())
        })?;
        Ok(Self { path: path.to_owned(), at_start: settings.clone(), latest: settings, lines })
    }

    /// The line in which a setting stands, or the first one of its table.
    pub(super) fn line(&self, name: &str) -> Option<usize> {
        self.lines.get(name).copied()
    }

    /// The first line of a setting within that table.
    pub(super) fn line_within(&self, table: &str) -> Option<usize> {
        let within = |name: &String| name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        self.lines.iter().filter(|(name, _)| within(name)).map(|(_, line)| *line).min()
    }

    /// Remembers what `read`, the same file read again, has, and says what that changes.
    pub(crate) fn update(&mut self, read: &Self) -> Reloaded {
        let applied = changed(&self.latest, &read.latest).filter(|name| is_reloadable(name)).collect();
        self.latest.clone_from(&read.latest);
        self.lines.clone_from(&read.lines);
        Reloaded { file: Some(self.path.clone()), applied, restart_needed: self.waiting() }
    }

    /// The settings that it has otherwise than at the start, and that need a restart.
    pub(crate) fn waiting(&self) -> Vec<String> {
        changed(&self.at_start, &self.latest).filter(|name| !is_reloadable(name)).collect()
    }
}

/// Tells each setting of a table: its dotted name, the byte at which its key begins, and its value.
fn flatten<'a>(
    within: &str,
    table: DeTable<'a>,
    tell: &mut impl FnMut(String, usize, Spanned<DeValue<'a>>) -> Result<(), toml::de::Error>,
) -> Result<(), toml::de::Error> {
    for (key, value) in table {
        let name = dotted(within, key.get_ref());
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => flatten(&name, table, tell)?,
            value => tell(name, key.span().start, Spanned::new(span, value))?,
        }
    }
    Ok(())
}

/// The names of the settings that are not the same in both.
fn changed<'a>(
    one: &'a BTreeMap<String, Value>,
    other: &'a BTreeMap<String, Value>,
) -> impl Iterator<Item = String> + use<'a> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    names.filter(|name| one.get(*name) != other.get(*name)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_models_are_taken_over() {
        let read = |text: &str| ConfigFile::new(Path::new("hive.toml"), text).unwrap();
        let mut file = read("models_dirs = [\"/a\"]\n[models.m]\nslots = 1\n");
        let told = file.update(&read("models_dirs = [\"/b\"]\n[models.m]\nslots = 2\n"));
        assert_eq!(
            (&told.applied[..], &told.restart_needed[..]),
            (&["models.m.slots".into()][..], &["models_dirs".into()][..])
        );
    }

    #[test]
    fn a_reload_tells_what_it_applied_and_what_needs_a_restart() {
        let read = |text: &str| ConfigFile::new(Path::new("hive.toml"), text).unwrap();
        let mut file = read("port = 1\n[jobs]\nkeep_acts = 5\n");
        let again = file.clone();
        assert_eq!(file.update(&again), Reloaded { file: Some("hive.toml".into()), ..Reloaded::default() });
        let changed = read("port = 2\nbind = \"::1\"\n[jobs]\nkeep_acts_for = \"1h\"\n");
        let told = file.update(&changed);
        assert_eq!(told.applied, ["jobs.keep_acts", "jobs.keep_acts_for"]);
        assert_eq!(told.restart_needed, ["port", "bind"]);
        let told = file.update(&changed);
        assert_eq!((told.applied.len(), told.restart_needed.len()), (0, 2), "they still need a restart");
    }
}
