//! The store: the folder with the models that the hive itself put down.
//!
//! Each model is a file (a download) or a link (an import); beside it lies its record,
//! `NAME.gguf.json`, which says where it came from. What has no record, or differs from it, is not
//! the hive's own. A download that is not whole yet is `NAME.gguf.partial`, with its journal beside
//! it; whoever writes it holds it under an OS lock.
//!
//! Invariants: nothing outside the folder is ever written or removed by a name that came from
//! outside ([`file_name`] has no separators); a record is replaced whole or not at all.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Failure, Result};
use crate::models::library::folders::{Entry, Kind, Stamp};
use crate::models::library::look::Look;
use crate::models::library::reconcile::Reconciled;
use crate::models::library::scan::{self, Found, Place};
use crate::models::library::split;
use crate::models::transfer::partial::Unfinished;
use crate::models::units;
use crate::narration::Level;

/// The longest name of a file in the store, in bytes: what file systems take, less `.partial` and
/// the like.
const MAX_NAME: usize = 200;

/// The most records that are remembered.
const MAX_RECORDS: usize = 20_000;

/// The store's folder.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Records that were read, each with the state of its file.
    records: Mutex<HashMap<String, (Stamp, Option<Record>)>>,
}

/// What the hive remembers of a model that it put into the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// As [`crate::models::Model::source`].
    pub(crate) source: String,
    /// SHA-256 in hexadecimal of the whole URL, whose query is not kept: it tells two files of one
    /// path apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url_sha256: Option<String>,
    /// As [`crate::models::Model::revision`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    /// SHA-256 in hexadecimal, of a file that the hive downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// The model's files, in order.
    pub(crate) files: Vec<RecordedFile>,
}

/// One file of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedFile {
    /// Its name in the store.
    pub(crate) name: String,
    /// Size in bytes when it was put there.
    pub(crate) size_bytes: u64,
    /// Where it leads, if it is a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<PathBuf>,
}

impl Store {
    /// Makes the folder where it is missing, and puts it in order after a killed hive.
    pub(crate) fn open(dir: PathBuf) -> Result<(Self, Reconciled)> {
        fs::create_dir_all(&dir).map_err(|error| Failure::io("make the model store", &dir, &error))?;
        let store = Self { dir, records: Mutex::default() };
        let reconciled = store.reconcile();
        tracing::info!("looked through the model store: {reconciled}");
        Ok((store, reconciled))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file of the store, given its [`file_name`].
    pub(crate) fn path(&self, file_name: &str) -> PathBuf {
        self.dir.join(file_name)
    }

    /// Where a file is written before it has its own name.
    pub(crate) fn partial_path(&self, file_name: &str) -> PathBuf {
        self.dir.join(format!("{file_name}.partial"))
    }

    /// The models in the store.
    pub(crate) fn scan(&self, look: &Look<'_>) -> Vec<Found> {
        let folder = match look.folder(&self.dir) {
            Ok(folder) => folder,
            Err(error) => {
                look.left_out(Level::Warn, format!("Could not look into {}: {error}", self.dir.display()));
                return Vec::new();
            }
        };
        let is_model =
            |entry: &&Entry| entry.kind != Kind::Folder && scan::is_model_name(&entry.name.to_string_lossy());
        let paths = folder.entries.iter().filter(is_model).map(|entry| entry.path.clone()).collect();
        split::group(paths).into_iter().map(|group| Found { group, place: Place::Store }).collect()
    }

    /// The downloads of models that are not there, and that can be gone on with: where each lies, and
    /// the path that its file will have.
    pub(crate) fn partials(&self, look: &Look<'_>) -> Vec<(PathBuf, PathBuf, Unfinished)> {
        let Ok(folder) = look.folder(&self.dir) else { return Vec::new() };
        let left = |path: &Path| {
            let target = path.with_extension("");
            let is_wanted = path.extension().is_some_and(|extension| extension == "partial")
                && fs::symlink_metadata(&target).is_err();
            let left = is_wanted.then(|| look.unfinished(path))??;
            Some((path.to_owned(), target, left))
        };
        folder.entries.iter().filter_map(|entry| left(&entry.path)).collect()
    }

    /// The record of a model, if it is still what the hive put down: a model of the hive's own.
    pub(crate) fn record_of(&self, found: &Found, look: &Look<'_>) -> Option<Record> {
        if found.place != Place::Store {
            return None;
        }
        let name = found.file_name();
        let metadata = look.metadata(&self.record_path(&name)).ok()?;
        let record = self.read_record(&name, &metadata).inspect_err(|_| look.does_not_last()).ok()??;
        let as_recorded = |path: &PathBuf| {
            let name = split::name_of(path);
            record.files.iter().any(|file| file.name == name && file.is_as_recorded(path, look))
        };
        found.group.files.iter().all(as_recorded).then_some(record)
    }

    /// The record of the model whose first file has that name.
    pub(crate) fn record(&self, file_name: &str) -> Option<Record> {
        let metadata = fs::metadata(self.record_path(file_name)).ok()?;
        self.read_record(file_name, &metadata).ok()?
    }

    /// The same, with the metadata of the record's file at hand. `None` where it is no record.
    fn read_record(&self, file_name: &str, metadata: &Metadata) -> io::Result<Option<Record>> {
        let stamp = Stamp::of(metadata);
        if let Some((known, record)) = self.records.lock().get(file_name)
            && *known == stamp
        {
            return Ok(record.clone());
        }
        let record: Option<Record> = serde_json::from_slice(&fs::read(self.record_path(file_name))?).ok();
        let mut records = self.records.lock();
        if records.len() >= MAX_RECORDS {
            records.clear();
        }
        records.insert(file_name.to_owned(), (stamp, record.clone()));
        Ok(record)
    }

    /// Writes the record of a model. Durable once [`Self::sync`] has been called.
    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        let path = self.record_path(&record.files[0].name);
        let draft = path.with_extension("json.draft");
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Failure::internal("a record could not be written as JSON").detail(error))?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        write().map_err(|error| {
            // The draft is worth nothing, and it may be what fills the disk.
            let _ = fs::remove_file(&draft);
            Failure::io("write the record", &path, &error)
        })
    }

    /// Removes the record of a model whose files are gone.
    pub(crate) fn remove_record(&self, file_name: &str) -> Result<()> {
        remove_file(&self.record_path(file_name)).map(drop)
    }

    /// Makes names that were given or taken in the folder durable.
    pub(crate) fn sync(&self) -> Result<()> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| Failure::io("write the folder", &self.dir, &error))
    }

    fn record_path(&self, file_name: &str) -> PathBuf {
        self.dir.join(format!("{file_name}.json"))
    }
}

impl Record {
    /// Whether both were brought from the same place.
    pub(crate) fn is_from(&self, other: &Self) -> bool {
        (&self.source, &self.url_sha256) == (&other.source, &other.url_sha256)
    }
}

impl RecordedFile {
    /// Whether what is at `path` is what was put there.
    pub(crate) fn is_as_recorded(&self, path: &Path, look: &Look<'_>) -> bool {
        match &self.link {
            Some(target) => look.link(path).is_some_and(|link| link.target == *target),
            None => look
                .symlink_metadata(path)
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.size_bytes),
        }
    }
}

/// The name that a model's file gets in the store: in the grammar of ids, without `/` and `:`, not
/// hidden, and short enough for every file system. It ends in `.gguf`.
pub(crate) fn file_name(wanted: &str) -> String {
    let stem = split::without_extension(wanted).unwrap_or(wanted);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '+' | '~' | '-');
    let mut clean: String = stem.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    if clean.is_empty() {
        clean.push('-');
    } else if clean.starts_with('.') {
        clean.replace_range(..1, "-");
    }
    if clean.len() > MAX_NAME {
        clean.truncate(MAX_NAME - 9);
        clean = format!("{clean}~{}", units::hex(&Sha256::digest(wanted)[..4]));
    }
    format!("{clean}.gguf")
}

/// Deletes a file, or a link alone. Answers the bytes that this frees: the file's size, and 0 for a
/// link, for a file that has another name elsewhere (a hard link), and for one that is gone.
pub(crate) fn remove_file(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;

    let remove = || {
        let metadata = fs::symlink_metadata(path)?;
        fs::remove_file(path)?;
        Ok(if metadata.is_file() && metadata.nlink() == 1 { metadata.len() } else { 0 })
    };
    remove().or_else(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(0),
        _ => Err(Failure::io("delete", path, &error)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_in_the_store_is_one_plain_component(wanted in ".{0,300}") {
            let name = file_name(&wanted);
            prop_assert!(name.len() <= MAX_NAME + 5);
            prop_assert!(name.ends_with(".gguf") && !name.starts_with('.'));
            prop_assert_eq!(Path::new(&name).components().count(), 1);
            prop_assert!(!name.contains(['/', '\\', '\0']));
        }
    }

    #[test]
    fn an_opened_store_is_put_in_order_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in [
            "bare.gguf.partial",
            "lost.gguf.partial.journal",
            "gone.gguf.json.draft",
            "held.gguf.partial",
            ".probe-1",
        ] {
            fs::write(path(name), b"x").unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", path("link.gguf.partial")).unwrap();
        let file = |name: &str| RecordedFile { name: name.into(), size_bytes: 3, link: None };
        let record = |name| Record {
            source: "https://h/x".into(),
            url_sha256: None,
            revision: None,
            sha256: None,
            files: vec![file(name)],
        };
        let holder = File::create(path("held.gguf.partial")).unwrap();
        holder.lock().unwrap();
        let store = Store { records: Mutex::default(), dir: folder.path().to_owned() };
        store.write_record(&record("orphan.gguf")).unwrap();
        store.write_record(&record("changed.gguf")).unwrap();
        fs::write(path("changed.gguf"), b"four").unwrap();

        let (store, found) = Store::open(folder.path().to_owned()).unwrap();
        assert_eq!(found.held, ["held.gguf"]);
        assert_eq!(found.changed, ["changed.gguf"]);
        assert_eq!(found.removed.len(), 6, "{found:?}");
        let mut left: Vec<_> =
            fs::read_dir(store.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["changed.gguf", "changed.gguf.json", "held.gguf.partial"]);
        drop(holder);
        assert_eq!(Store::open(folder.path().to_owned()).unwrap().1.removed, ["held.gguf.partial"]);
        assert_eq!(Store::open(folder.path().to_owned()).unwrap().1.removed, [""; 0]);
    }

    #[test]
    fn a_hard_link_frees_nothing_until_the_last_name_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        fs::write(&one, b"12345").unwrap();
        fs::hard_link(&one, &two).unwrap();
        assert_eq!(remove_file(&one).unwrap(), 0);
        assert_eq!(remove_file(&two).unwrap(), 5);
        assert_eq!(remove_file(&two).unwrap(), 0);
    }
}
