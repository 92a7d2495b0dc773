//! One day: its sums, and its file.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::sums::Sums;
use crate::error::{Code, Failure, Result};
use crate::files;
use crate::files::versioned::{self, VERSION, Versioned, first_version};
use crate::time::Instant;

/// The most pairs of a caller and a model in a day, and the most tokens.
pub(super) const MOST_ROWS: usize = 1000;
/// The name under which further callers, models and tokens of a day are counted together.
pub(super) const OTHERS: &str = "(others)";
/// The largest file of a day, in bytes.
const MOST_BYTES: u64 = 4 << 20;

/// What was counted in a day.
#[derive(Clone, Debug, Default)]
pub(super) struct Day {
    /// By caller and model; the model is empty where a request named none.
    rows: BTreeMap<(String, String), Sums>,
    tokens: BTreeMap<String, Use>,
}

/// How a token was used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Use {
    uses: u64,
    last_used_at: Instant,
}

/// The contents of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    #[serde(default = "first_version")]
    version: u64,
    #[serde(default)]
    rows: Vec<RowOf>,
    #[serde(default)]
    tokens: BTreeMap<String, Use>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { version: VERSION, rows: Vec::new(), tokens: BTreeMap::new(), unknown: Map::new() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct RowOf {
    caller: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    model: String,
    #[serde(flatten)]
    sums: Sums,
}

impl Day {
    pub(super) fn rows(&self) -> impl Iterator<Item = ((&str, &str), &Sums)> {
        self.rows.iter().map(|((caller, model), sums)| ((&**caller, &**model), sums))
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = (&str, u64, Instant)> {
        self.tokens.iter().map(|(name, of)| (&**name, of.uses, of.last_used_at))
    }

    /// Adds what a caller used of a model. Further pairs than a day may have are counted as one.
    pub(super) fn add(&mut self, caller: &str, model: &str, sums: &Sums) {
        let others = (OTHERS.to_owned(), OTHERS.to_owned());
        let key = (caller.to_owned(), model.to_owned());
        let key = if fits(&self.rows, &key, &others) { key } else { others };
        self.rows.entry(key).or_default().merge(sums);
    }

    /// Adds uses of a token.
    pub(super) fn used(&mut self, token: &str, uses: u64, at: Instant) {
        let name = if fits(&self.tokens, token, OTHERS) { token } else { OTHERS };
        let of = self.tokens.entry(name.to_owned()).or_insert(Use { uses: 0, last_used_at: at });
        of.uses = of.uses.saturating_add(uses);
        of.last_used_at = of.last_used_at.max(at);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for ((caller, model), sums) in &other.rows {
            self.add(caller, model, sums);
        }
        for (name, of) in &other.tokens {
            self.used(name, of.uses, of.last_used_at);
        }
    }
}

impl From<Contents> for Day {
    fn from(contents: Contents) -> Self {
        let rows = contents.rows.into_iter().map(|row| ((row.caller, row.model), row.sums)).collect();
        Self { rows, tokens: contents.tokens }
    }
}

/// Whether a name has its place among the most that a day may have, to which those counted together do not belong.
fn fits<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V>(places: &BTreeMap<K, V>, name: &Q, others: &Q) -> bool {
    let taken = places.len() - usize::from(places.contains_key(others));
    taken < MOST_ROWS || places.contains_key(name)
}

/// What the file has, where this version of the hive reads it.
pub(super) fn read(path: &Path) -> Option<Day> {
    let bytes = files::read(path, MOST_BYTES).ok()?;
    Versioned::<Contents>::parse(&bytes).known().map(Day::from)
}

/// Adds a day to what the file has of it.
///
/// # Errors
/// What the file system says, or that the file is not for this version to change.
pub(super) fn add_to(path: &Path, day: &Day) -> Result<()> {
    let Some(mut contents) = versioned::load::<Contents>(path, MOST_BYTES, "usage is not written") else {
        let message =
            format!("the usage in {} is not for this version of the hive to change", path.display());
        return Err(
            Failure::new(Code::Io, message).hint("move the file away, or use the version that wrote it")
        );
    };
    let unknown = std::mem::take(&mut contents.unknown);
    let mut all = Day::from(contents);
    all.merge(day);
    let rows = all.rows.into_iter().map(|((caller, model), sums)| RowOf { caller, model, sums }).collect();
    let contents = Contents { version: VERSION, rows, tokens: all.tokens, unknown };
    // It is replaced as a whole, so a kill leaves the one or the other.
    let written = files::put(path, crate::text::json(&contents).as_bytes());
    written.map(drop).map_err(|error| Failure::io("write", path, &error))
}
