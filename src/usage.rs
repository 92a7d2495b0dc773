//! How much each caller used each model, day by day: what people are billed by, so it outlives the hive.
//!
//! Requests are counted in memory, and every few seconds what was counted since is added to the file of its day,
//! `usage/YYYY-MM-DD.json` in the data folder (days of UTC). A kill loses what was not written yet, and nothing else.
//!
//! Invariants:
//! - What was counted is in memory or in a file, never in both: [`Usage::write`] takes it out, and puts it back where it
//!   cannot be written. Reports and writes take turns.
//! - A file has one writer at a time, also while one hive takes over from another: a lock on the folder says whose turn
//!   it is.
//! - Nothing grows without bounds: a day has at most [`day::MOST_ROWS`] pairs of a caller and a model, beyond which the rest
//!   is counted together, and there are files of [`DAYS`] days.
//! - A file of a newer version is left alone. A damaged one is set aside, and told in the log.

mod day;
mod sums;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::Offset;
use parking_lot::Mutex;

use crate::disk;
use crate::error::{Failure, Result};
use crate::files;
use crate::time::Instant;

use day::Day;
pub(crate) use sums::Sums;

/// The days of which there are files.
pub(crate) const DAYS: i64 = 400;

/// The usage of one hive. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The folder of the files; unset where nothing is kept.
    folder: Option<PathBuf>,
    /// What was counted and is in no file. Locked only to count, and to take it out.
    counted: Mutex<BTreeMap<Date, Day>>,
    /// Held while files are read or written. Locked only on the blocking pool, and at the end.
    turn: Mutex<()>,
}

/// Which usage is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The first day.
    pub(crate) since: Date,
    /// The last day.
    pub(crate) until: Date,
    /// Of this caller alone.
    pub(crate) caller: Option<String>,
    /// Of this model alone.
    pub(crate) model: Option<String>,
}

/// How much a caller used a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) caller: String,
    /// Unset for requests that named no model that the hive knows.
    pub(crate) model: Option<String>,
    pub(crate) sums: Sums,
}

/// What is known of what was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reported {
    /// By caller and model, the largest number of requests first.
    pub(crate) rows: Vec<Row>,
    /// By day, those with requests alone.
    pub(crate) days: BTreeMap<Date, Sums>,
}

impl Usage {
    /// The usage that is kept in a folder.
    pub(crate) fn open(folder: PathBuf) -> Self {
        Self(Arc::new(Inner { folder: Some(folder), ..Inner::default() }))
    }

    /// Adds the sums of requests that have ended.
    pub(crate) fn add(&self, caller: &str, model: Option<&str>, sums: &Sums) {
        self.0.counted.lock().entry(today()).or_default().add(caller, model.unwrap_or_default(), sums);
    }

    /// Counts that a token was used.
    pub(crate) fn used(&self, token: &str) {
        let now = Instant::now();
        self.0.counted.lock().entry(today()).or_default().used(token, 1, now);
    }

    /// What is asked for. Blocks.
    pub(crate) fn report(&self, asked: &Asked) -> Reported {
        let mut rows: BTreeMap<(String, String), Sums> = BTreeMap::new();
        let mut days: BTreeMap<Date, Sums> = BTreeMap::new();
        let is_asked =
            |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        for (date, day) in self.days(asked.since, asked.until) {
            for ((caller, model), sums) in day.rows() {
                if is_asked(&asked.caller, caller) && is_asked(&asked.model, model) {
                    rows.entry((caller.to_owned(), model.to_owned())).or_default().merge(sums);
                    days.entry(date).or_default().merge(sums);
                }
            }
        }
        let rows = rows.into_iter().map(|((caller, model), sums)| {
            let model = Some(model).filter(|model| !model.is_empty());
            Row { caller, model, sums }
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.sums.requests));
        Reported { rows, days }
    }

    /// How often each token was used, and when last. Blocks.
    pub(crate) fn of_tokens(&self) -> BTreeMap<String, (u64, Instant)> {
        let mut tokens: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
        let today = today();
        for (_, day) in self.days(before(today, DAYS), today) {
            for (name, uses, last) in day.tokens() {
                let (all, latest) = tokens.entry(name.to_owned()).or_insert((0, last));
                *all += uses;
                *latest = last.max(*latest);
            }
        }
        tokens
    }

    /// The days from one to another, those of which something is known. What is in a file and what is not yet are
    /// two entries of one day.
    fn days(&self, since: Date, until: Date) -> Vec<(Date, Day)> {
        let _turn = self.0.turn.lock();
        let is_asked = |date: &Date| (since..=until).contains(date);
        let counted = self.0.counted.lock().clone();
        let mut days: Vec<(Date, Day)> = counted.into_iter().filter(|(date, _)| is_asked(date)).collect();
        let Some(folder) = &self.0.folder else { return days };
        for (date, path) in files_of(folder) {
            if is_asked(&date) {
                days.extend(day::read(&path).map(|day| (date, day)));
            }
        }
        days
    }

    /// Adds what was counted to the files, and removes those of days that are too old. Blocks.
    ///
    /// # Errors
    /// What the file system says; what could not be written is written the next time.
    pub(crate) fn write(&self) -> Result<()> {
        let Some(folder) = &self.0.folder else { return Ok(()) };
        let _turn = self.0.turn.lock();
        let counted = std::mem::take(&mut *self.0.counted.lock());
        if counted.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        let lock = lock(folder);
        for (date, day) in counted {
            let path = folder.join(format!("{date}.json"));
            let written = lock.as_ref().map_err(Clone::clone).and_then(|_| day::add_to(&path, &day));
            if let Err(failure) = written {
                self.0.counted.lock().entry(date).or_default().merge(&day);
                failed = Some(failure);
            }
        }
        let oldest = before(today(), DAYS);
        for (date, path) in files_of(folder) {
            if date < oldest {
                // One that stays is tried again by the next write.
                let _removed = disk::remove_file(&path);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Takes the turn to write into the folder, for as long as the file is open.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    disk::create_private_dir(folder).map_err(|error| Failure::io("make the folder", folder, &error))?;
    let file = disk::open(files::own().create(true).truncate(false).write(true), &path)
        .map_err(|error| Failure::io("open", &path, &error))?;
    file.lock().map_err(|error| Failure::io("lock", &path, &error))?;
    Ok(file)
}

/// The day of UTC.
pub(crate) fn today() -> Date {
    let now = jiff::Timestamp::from_millisecond(Instant::now().0).unwrap_or_default();
    Offset::UTC.to_datetime(now).date()
}

/// The day so many days before.
pub(crate) fn before(date: Date, days: i64) -> Date {
    date.saturating_sub(jiff::Span::new().days(days))
}

/// The files of days, oldest first.
fn files_of(folder: &Path) -> Vec<(Date, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let file = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let date = path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()?;
        Some((date, path))
    };
    let mut files: Vec<_> = entries.filter_map(file).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests;
