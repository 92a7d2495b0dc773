//! Putting the store in order when it is opened: what a killed hive left half-done is either worth
//! keeping (a download that can be gone on with) or removed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::models::library::folders::Folders;
use crate::models::library::look::Look;
use crate::models::library::split;
use crate::models::library::store::{Store, remove_file};
use crate::models::transfer::journal;
use crate::models::transfer::partial::{self, Removal};
use crate::models::units;

/// What was found in the store, and done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Downloads that can be gone on with, by name, and the bytes that are there of them.
    pub(crate) kept: Vec<(String, u64)>,
    /// Downloads that another process has in hand.
    pub(crate) held: Vec<String>,
    /// Names of files that a newer version of the hive made. They are left alone.
    pub(crate) newer: Vec<String>,
    /// Names of files that were of no use to anybody, and are gone.
    pub(crate) removed: Vec<String>,
    /// Bytes that this freed.
    pub(crate) freed_bytes: u64,
    /// Models whose files are no longer what the hive put there.
    pub(crate) changed: Vec<String>,
}

impl fmt::Display for Reconciled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.kept.is_empty() {
            let bytes = self.kept.iter().map(|(_, bytes)| bytes).sum();
            parts.push(format!("{} interrupted download(s) kept ({})", self.kept.len(), units::bytes(bytes)));
        }
        if !self.held.is_empty() {
            parts.push(format!("{} download(s) of another process", self.held.len()));
        }
        if !self.newer.is_empty() {
            parts.push(format!("made by a newer version and left alone: {}", self.newer.join(", ")));
        }
        if !self.removed.is_empty() {
            let freed = units::bytes(self.freed_bytes);
            parts.push(format!("{} orphaned file(s) removed ({freed})", self.removed.len()));
        }
        if !self.changed.is_empty() {
            parts.push(format!("changed or gone since: {}", self.changed.join(", ")));
        }
        f.write_str(&if parts.is_empty() { "nothing was left over".to_owned() } else { parts.join("; ") })
    }
}

impl Store {
    /// Looks at every file of the store, and tells `tracing` what it finds.
    pub(crate) fn reconcile(&self) -> Reconciled {
        let mut found = Reconciled::default();
        let Ok(entries) = fs::read_dir(self.dir()) else { return found };
        let mut names: Vec<_> =
            entries.filter_map(Result::ok).map(|entry| split::name_of(&entry.path())).collect();
        names.sort_unstable();
        for name in &names {
            let path = self.path(name);
            if let Some(target) = name.strip_suffix(".partial") {
                look_at_partial(target, &path, &[], &mut found);
            } else if let Some(partial) = name.strip_suffix(".journal") {
                if !names.iter().any(|name| name == partial) {
                    remove_orphaned_journal(&path, &mut found);
                }
            } else if name.ends_with(".json.draft") || name.starts_with(".probe-") {
                remove(&path, &mut found);
            } else if let Some(model) = name.strip_suffix(".json") {
                self.look_at_record(model, &path, &mut found);
            }
        }
        found
    }

    /// A record is of use while its model is there, or is on its way.
    fn look_at_record(&self, model: &str, path: &Path, found: &mut Reconciled) {
        let Some(record) = self.record(model) else { return };
        let known = Folders::default();
        let look = Look::new(&known);
        let is_there = |name: &str| fs::symlink_metadata(self.path(name)).is_ok();
        let none_left = record.files.iter().all(|file| !is_there(&file.name));
        if none_left && !journal::path_of(&self.partial_path(model)).exists() {
            remove(path, found);
        } else if !none_left
            && !record.files.iter().all(|file| file.is_as_recorded(&self.path(&file.name), &look))
        {
            tracing::warn!(model, "its file is gone, or is not what the hive put there");
            found.changed.push(model.to_owned());
        }
    }
}

/// A download that ended early is kept if it can be resumed; `target` names it. `empty_folders` as in
/// [`partial::remove`].
pub(crate) fn look_at_partial(target: &str, path: &Path, empty_folders: &[PathBuf], found: &mut Reconciled) {
    if let Some(left) = partial::unfinished_at(path, None).filter(|left| left.done > 0) {
        let (done, size) = (units::bytes(left.done), left.size.map_or_else(|| "?".to_owned(), units::bytes));
        tracing::info!(
            model = target,
            "an interrupted download is here: {done} of {size}; ModelDownload goes on with it"
        );
        found.kept.push((target.to_owned(), left.done));
        return;
    }
    match partial::remove(path, empty_folders) {
        Ok(Removal::InUse) => {
            tracing::info!(path = %path.display(), "another process is writing this file");
            found.held.push(target.to_owned());
        }
        Ok(Removal::NewerFormat) => leave_to_newer(path, found),
        Ok(Removal::Removed(bytes)) => gone(path, bytes, found),
        // A link that an import had not finished.
        Err(_) => remove(path, found),
    }
}

/// Removes a journal whose partial file is gone.
pub(crate) fn remove_orphaned_journal(path: &Path, found: &mut Reconciled) {
    if journal::is_newer(path) { leave_to_newer(path, found) } else { remove(path, found) }
}

fn leave_to_newer(path: &Path, found: &mut Reconciled) {
    tracing::warn!(path = %path.display(), "a newer version of rbee-hive made this file: it is left alone");
    found.newer.push(split::name_of(path));
}

/// Removes a file that is of no use.
pub(crate) fn remove(path: &Path, found: &mut Reconciled) {
    match remove_file(path) {
        Ok(bytes) => gone(path, bytes, found),
        Err(failure) => {
            tracing::warn!(path = %path.display(), "could not remove an orphaned file: {failure}");
        }
    }
}

fn gone(path: &Path, bytes: u64, found: &mut Reconciled) {
    tracing::info!(path = %path.display(), bytes, "removed a file that a killed hive had left");
    found.removed.push(split::name_of(path));
    found.freed_bytes += bytes;
}
