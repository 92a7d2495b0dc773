//! Tidies the store and the Hugging Face cache once in the life of a hive, before its first listing: what a
//! killed hive left unfinished is kept (a download that can be resumed) or removed. The files of other tools
//! are left alone.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::files::versioned::Versioned;
use crate::models::library::file_name::name_of;
use crate::models::library::folders::FolderCache;
use crate::models::library::hub_cache::HubCache;
use crate::models::library::hub_cache::layout::{empty_folders, is_repository, target_of};
use crate::models::library::probe::{DiskProbe, paths_in};
use crate::models::library::record::RecordedFile;
use crate::models::library::removal::remove_file;
use crate::models::library::store::Store;
use crate::models::transfer::journal;
use crate::models::transfer::partial::{self, Removal};
use crate::text;

/// What was found and done. Displays as one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReconcileReport {
    /// Downloads that can be resumed: their names, and the bytes that exist of each.
    pub(crate) resumable: Vec<(String, u64)>,
    /// Names of downloads that another process is writing.
    pub(crate) in_use: Vec<String>,
    /// Names of files that a newer version of the hive made. They are left alone.
    pub(crate) newer: Vec<String>,
    /// Names of files of the hive that could not be read. They are left as they are.
    pub(crate) damaged: Vec<String>,
    /// Names of the files of no use that were removed.
    pub(crate) removed: Vec<String>,
    /// The bytes that this freed.
    pub(crate) freed_bytes: u64,
    /// Names of the models whose files differ from what the hive put there.
    pub(crate) changed: Vec<String>,
}

impl fmt::Display for ReconcileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut clauses = Vec::new();
        if !self.resumable.is_empty() {
            let bytes = text::bytes(self.resumable.iter().map(|(_, bytes)| bytes).sum());
            clauses.push(format!("{} interrupted download(s) kept ({bytes})", self.resumable.len()));
        }
        if !self.in_use.is_empty() {
            clauses.push(format!("{} download(s) of another process", self.in_use.len()));
        }
        if !self.newer.is_empty() {
            clauses.push(format!("made by a newer version and left alone: {}", self.newer.join(", ")));
        }
        if !self.damaged.is_empty() {
            clauses.push(format!("damaged and left as they are: {}", self.damaged.join(", ")));
        }
        if !self.removed.is_empty() {
            let freed = text::bytes(self.freed_bytes);
            clauses.push(format!("removed, as they were of no use ({freed}): {}", self.removed.join(", ")));
        }
        if !self.changed.is_empty() {
            clauses.push(format!("changed or gone since: {}", self.changed.join(", ")));
        }
        f.write_str(&if clauses.is_empty() { "nothing was left over".to_owned() } else { clauses.join("; ") })
    }
}

/// Tidies both folders and the notes about the cache. Logs each action. Blocks on the disk, and notes in `folders`
/// where it looks.
pub(crate) fn reconcile(store: &Store, hub_cache: &HubCache, folders: &FolderCache) -> ReconcileReport {
    let mut report = ReconcileReport::default();
    report.reconcile_store(store, folders);
    report.reconcile_hub_cache(&hub_cache.dir, folders);
    let (newer, damaged) = hub_cache.notes.remove_stale(folders);
    newer.iter().for_each(|path| report.keep_newer(path));
    damaged.iter().for_each(|path| report.keep_damaged(path));
    tracing::info!("tidied the model store and the Hugging Face cache: {report}");
    report
}

impl ReconcileReport {
    fn reconcile_store(&mut self, store: &Store, folders: &FolderCache) {
        let paths = paths_in(store.dir(), folders);
        let exists = |name: &str| paths.iter().any(|path| name_of(path) == name);
        for path in &paths {
            let name = name_of(path);
            if let Some(target) = name.strip_suffix(".partial") {
                self.check_partial(target, path, &[]);
            } else if let Some(partial) = name.strip_suffix(".journal") {
                if !exists(partial) {
                    self.remove_orphaned_journal(path);
                }
            } else if is_draft(&name) || name.starts_with(".probe-") {
                self.remove(path);
            } else if let Some(model) = name.strip_suffix(".json") {
                self.check_record(store, model, path, folders);
            }
        }
    }

    fn reconcile_hub_cache(&mut self, cache: &Path, folders: &FolderCache) {
        let repositories = paths_in(cache, folders).into_iter().filter(|folder| is_repository(folder));
        for path in repositories.flat_map(|folder| paths_in(&folder.join("blobs"), folders)) {
            if let Some(target) = target_of(&path) {
                self.check_partial(&name_of(&target), &path, &empty_folders(&path));
            } else if let Some(partial) = journal::partial_of(&path)
                && target_of(&partial).is_some()
                && !partial.exists()
            {
                self.remove_orphaned_journal(&path);
            }
        }
    }

    /// A record is of use while its model or the projector exists, or is unfinished: only the record says
    /// that they are the hive's own.
    fn check_record(&mut self, store: &Store, model: &str, path: &Path, folders: &FolderCache) {
        let record = match store.versioned_record(model) {
            Versioned::Known(record) => record,
            Versioned::Newer => return self.keep_newer(path),
            Versioned::Invalid => return self.keep_damaged(path),
        };
        let probe = DiskProbe::new(folders);
        let path_of = |file: &RecordedFile| store.path(&file.name);
        if !record.all_files().any(|file| probe.symlink_metadata(&path_of(file)).is_ok()) {
            if !journal::path_of(&store.partial_path(model)).exists() {
                self.remove(path);
            }
        } else if !record.files.iter().all(|file| file.matches(&path_of(file), &probe)) {
            tracing::warn!(model, "its file is gone, or differs from what the hive put there");
            self.changed.push(model.to_owned());
        }
    }

    /// Keeps an interrupted download that can be resumed; `target` names it. `empty_folders` as in
    /// [`partial::remove`].
    fn check_partial(&mut self, target: &str, path: &Path, empty_folders: &[PathBuf]) {
        if let Some(unfinished) = partial::unfinished_at(path, None).filter(|it| it.done > 0) {
            let size = unfinished.head.size.map_or_else(|| "?".to_owned(), text::bytes);
            let done = text::bytes(unfinished.done);
            tracing::info!(
                model = target,
                "found an interrupted download, {done} of {size}: ModelDownload resumes it"
            );
            self.resumable.push((target.to_owned(), unfinished.done));
            return;
        }
        let journal = journal::path_of(path);
        if journal::is_damaged(&journal) {
            return self.keep_damaged(&journal);
        }
        match partial::remove(path, empty_folders) {
            Ok(Removal::InUse) => {
                tracing::info!(path = %path.display(), "another process is writing this file");
                self.in_use.push(target.to_owned());
            }
            Ok(Removal::NewerFormat) => self.keep_newer(path),
            Ok(Removal::Removed(bytes)) => {
                let why = "it has no journal, or none of its bytes can be resumed";
                tracing::warn!(model = target, bytes, why, "removed an interrupted download");
                self.add_removed(path, bytes);
            }
            // The draft of a link that an import did not finish.
            Err(_) => self.remove(path),
        }
    }

    /// Removes a journal whose partial file is gone.
    fn remove_orphaned_journal(&mut self, path: &Path) {
        if journal::is_newer(path) { self.keep_newer(path) } else { self.remove(path) }
    }

    fn keep_newer(&mut self, path: &Path) {
        tracing::warn!(path = %path.display(), "a newer version of rbee-hive made this file: it is left alone");
        self.newer.push(name_of(path));
    }

    fn keep_damaged(&mut self, path: &Path) {
        tracing::warn!(path = %path.display(), "this file of the hive cannot be read: it is left as it is");
        self.damaged.push(name_of(path));
    }

    /// Removes a file that is of no use.
    fn remove(&mut self, path: &Path) {
        match remove_file(path) {
            Ok(bytes) => self.add_removed(path, bytes),
            Err(failure) => {
                tracing::warn!(path = %path.display(), "could not remove an orphaned file: {failure}");
            }
        }
    }

    fn add_removed(&mut self, path: &Path, bytes: u64) {
        tracing::info!(path = %path.display(), bytes, "removed a file that a killed hive had left");
        self.removed.push(name_of(path));
        self.freed_bytes += bytes;
    }
}

/// Whether a record was being written under that name; earlier versions named drafts `.json.draft`.
fn is_draft(name: &str) -> bool {
    name.ends_with(".gguf.tmp") || name.ends_with(".json.draft")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::models::library::hub_cache::notes::HubNotes;
    use crate::models::library::record::StoreRecord;

    #[test]
    fn leftovers_in_the_store_are_removed_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in [
            "bare.gguf.partial",
            "lost.gguf.partial.journal",
            "gone.gguf.json.draft",
            "gone.gguf.tmp",
            "held.gguf.partial",
            ".probe-1",
        ] {
            fs::write(path(name), b"x").unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", path("link.gguf.partial")).unwrap();
        let record = |name: &str| {
            StoreRecord::new("https://h/x".into(), vec![RecordedFile::new(name.into(), 3, None)])
        };
        let holder = File::create(path("held.gguf.partial")).unwrap();
        holder.lock().unwrap();
        let store = Store::open(folder.path().to_owned()).unwrap();
        store.write_record(&record("orphan.gguf")).unwrap();
        store.write_record(&record("changed.gguf")).unwrap();
        let projector = Some(RecordedFile::new("mmproj-away.gguf".into(), 1, None));
        store.write_record(&StoreRecord { projector, ..record("away.gguf") }).unwrap();
        fs::write(path("mmproj-away.gguf"), b"x").unwrap();
        fs::write(path("changed.gguf"), b"four").unwrap();
        fs::write(path("newer.gguf.json"), br#"{"version":2}"#).unwrap();
        fs::write(path("odd.gguf.json"), b"{").unwrap();
        fs::write(path("part.gguf.partial"), b"bytes").unwrap();
        fs::write(path("part.gguf.partial.journal"), b"rbee-partial 1 00000000 {}\n").unwrap();

        let hub_cache = HubCache { dir: path("no-cache"), notes: HubNotes::new(path("no-notes")) };
        let folders = FolderCache::default();
        let tidy = || reconcile(&store, &hub_cache, &folders);
        let report = tidy();
        assert_eq!(report.in_use, ["held.gguf"]);
        assert_eq!(report.changed, ["away.gguf", "changed.gguf"]);
        assert_eq!(report.newer, ["newer.gguf.json"]);
        let mut damaged = report.damaged.clone();
        damaged.sort();
        assert_eq!(damaged, ["odd.gguf.json", "part.gguf.partial.journal"]);
        assert_eq!(report.removed.len(), 7, "{report:?}");
        let mut left: Vec<_> =
            fs::read_dir(store.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let kept = [
            "away.gguf.json",
            "changed.gguf",
            "changed.gguf.json",
            "held.gguf.partial",
            "mmproj-away.gguf",
            "newer.gguf.json",
            "odd.gguf.json",
            "part.gguf.partial",
            "part.gguf.partial.journal",
        ];
        assert_eq!(left, kept);
        drop(holder);
        assert_eq!(tidy().removed, ["held.gguf.partial"]);
        assert_eq!(tidy().removed, [""; 0]);
    }
}
