//! The store: the folder of the models that the hive owns.
//!
//! Each model is a file (a download) or a link (an import); its record, `NAME.gguf.json`, says where it
//! came from. A model without a record, or that differs from it, is not the hive's own. An unfinished
//! download is `NAME.gguf.partial`, with its journal; its writer holds an OS lock on it.
//!
//! Invariants:
//! - Nothing outside the folder is written or removed by a name that came from outside ([`file_name`]
//!   has no separators).
//! - A record is written before its model gets its name: a record without a model is ignored, but a
//!   model without a record would not be the hive's own.
//! - What has a name in the store is replaced only where the record of a model names it: no file of the
//!   user's own gives way to a model, to a further part of one or to a projector.
//! - A record of a newer version of the hive is left alone. Its model is listed, and is not the hive's
//!   own: replacing it is refused, and deleting it takes `force`, which deletes the record as well.
//! - A record that cannot be read is reported and left as it is, and set aside before another takes its
//!   place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::disk;
use crate::error::{Code, Failure, Result};
use crate::files::versioned::Versioned;
use crate::files::{self, Draft, set_aside_if_there};
use crate::models::id::is_letter_or_digit;
use crate::models::library::file_name::{is_model_name, name_of, without_extension};
use crate::models::library::folders::{EntryKind, FolderEntry};
use crate::models::library::location::{ModelLocation, PartialModel, ScannedModel};
use crate::models::library::probe::DiskProbe;
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::library::removal::remove_file;
use crate::models::library::split::group_by_model;
use crate::models::library::stamp::StampCache;
use crate::models::transfer::{journal, partial};
use crate::narration::Level;
use crate::{n, text};

/// The longest name of a file in the store, in bytes: what file systems allow, less `.partial` and
/// the like.
const MAX_NAME: usize = 200;

/// The most records that are remembered.
const MAX_RECORDS: usize = 20_000;

/// The store's folder.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// By path.
    records: StampCache<Versioned<StoreRecord>>,
}

/// Which model has a name in the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NameStatus {
    /// None.
    Free,
    /// A model from the same source.
    SameModel,
    /// Another model.
    OtherModel {
        /// Whether the hive put it there, so that `force` may replace it.
        is_owned: bool,
    },
}

impl Store {
    /// Opens the store in `dir`, and makes that folder where it is missing.
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        disk::create_dir_all(&dir).map_err(|error| Failure::io("make the model store", &dir, &error))?;
        Ok(Self { dir, records: StampCache::new(MAX_RECORDS) })
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

    /// The path of the record of the model whose first file has that name.
    pub(crate) fn record_path(&self, file_name: &str) -> PathBuf {
        self.dir.join(format!("{file_name}.json"))
    }

    /// The models in the store.
    pub(crate) fn scan(&self, probe: &DiskProbe<'_>) -> Vec<ScannedModel> {
        let folder = match probe.folder(&self.dir) {
            Ok(folder) => folder,
            Err(error) => {
                let text = format!("Could not look into {}: {error}", self.dir.display());
                probe.report_omission(Level::Warn, text);
                return Vec::new();
            }
        };
        let is_model = |entry: &&FolderEntry| {
            entry.kind != EntryKind::Folder && is_model_name(&entry.name.to_string_lossy())
        };
        let paths = folder.entries.iter().filter(is_model).map(|entry| entry.path.clone()).collect();
        let scanned = |files| ScannedModel { files, location: ModelLocation::Store };
        group_by_model(paths).into_iter().map(scanned).collect()
    }

    /// The unfinished downloads that can be resumed and whose target does not exist.
    pub(crate) fn partials(&self, probe: &DiskProbe<'_>) -> Vec<PartialModel> {
        let Ok(folder) = probe.folder(&self.dir) else { return Vec::new() };
        let partial_model = |path: &Path| {
            let target = path.with_extension("");
            let is_wanted = path.extension().is_some_and(|extension| extension == "partial")
                && fs::symlink_metadata(&target).is_err();
            let unfinished = is_wanted.then(|| probe.unfinished(path))??;
            Some(PartialModel { partial: path.to_owned(), target, unfinished })
        };
        folder.entries.iter().filter_map(|entry| partial_model(&entry.path)).collect()
    }

    /// The record of a model whose files are still those that the hive put there: a model of the
    /// hive's own. `None` for all others.
    pub(crate) fn record_of(&self, model: &ScannedModel, probe: &DiskProbe<'_>) -> Option<StoreRecord> {
        if model.location != ModelLocation::Store {
            return None;
        }
        let path = self.record_path(&model.file_name());
        let metadata = probe.metadata(&path).ok()?;
        let record = self.read_record(&path, &metadata).inspect_err(|_| probe.mark_unstable()).ok()?;
        let record = record.known()?;
        let is_recorded = |path: &PathBuf| {
            let name = name_of(path);
            record.files.iter().any(|file| file.name == name && file.matches(path, probe))
        };
        model.files.paths.iter().all(is_recorded).then_some(record)
    }

    /// The record of the model whose first file has that name. `None` where there is none that this
    /// version of the hive reads.
    pub(crate) fn record(&self, file_name: &str) -> Option<StoreRecord> {
        self.versioned_record(file_name).known()
    }

    /// Whether a newer version of the hive wrote the record of the model whose first file has that
    /// name.
    pub(crate) fn has_newer_record(&self, file_name: &str) -> bool {
        self.versioned_record(file_name) == Versioned::Newer
    }

    /// The record of the model whose first file has that name, with the version that wrote it.
    pub(crate) fn versioned_record(&self, file_name: &str) -> Versioned<StoreRecord> {
        let path = self.record_path(file_name);
        let record = fs::metadata(&path).and_then(|metadata| self.read_record(&path, &metadata));
        record.unwrap_or(Versioned::Invalid)
    }

    fn read_record(&self, path: &Path, metadata: &fs::Metadata) -> io::Result<Versioned<StoreRecord>> {
        self.records.get_or_read(path, metadata, || {
            Ok(match Versioned::parse(&files::read(path, files::SMALL)?) {
                Versioned::Known(StoreRecord { files, .. }) if files.is_empty() => Versioned::Invalid,
                record => record,
            })
        })
    }

    /// Forgets the records that were not requested since the last call.
    pub(crate) fn forget_unused(&self) {
        self.records.forget_unused();
    }

    /// Which model has the name that `record`'s model would get.
    ///
    /// # Errors
    /// [`Code::ModelExists`] where a newer version of the hive wrote the record of that name.
    pub(crate) fn name_status(&self, record: &StoreRecord, probe: &DiskProbe<'_>) -> Result<NameStatus> {
        let name = record.name();
        if self.has_newer_record(name) {
            return Err(self.newer_record(name));
        }
        if fs::symlink_metadata(self.path(name)).is_err() {
            return Ok(NameStatus::Free);
        }
        let model = self.scan(probe).into_iter().find(|model| model.file_name() == name);
        Ok(match model.and_then(|model| self.record_of(&model, probe)) {
            None => NameStatus::OtherModel { is_owned: false },
            Some(existing) if existing.has_same_source(record) => NameStatus::SameModel,
            Some(_) => NameStatus::OtherModel { is_owned: true },
        })
    }

    /// Checks that the further files of a model, its other parts and its projector, replace no file but
    /// the model's own. What [`Self::name_status`] says is of the first file.
    ///
    /// # Errors
    /// [`Code::ModelExists`] with a file that is in the way.
    pub(crate) fn check_further_names(&self, record: &StoreRecord, probe: &DiskProbe<'_>) -> Result<()> {
        let existing = self.record(record.name());
        for file in record.all_files().skip(1) {
            let path = self.path(&file.name);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let is_wanted_link = file.link.is_some() && file.matches(&path, probe);
            // A file in the place of a link is somebody else's.
            let is_own = |known: &RecordedFile| {
                known.name == file.name && (known.link.is_none() || metadata.is_symlink())
            };
            if !is_wanted_link && !existing.iter().flat_map(StoreRecord::all_files).any(is_own) {
                return Err(further_name_taken(&file.name, record.name()));
            }
        }
        Ok(())
    }

    /// Writes the record of a model durably. Keeps the fields that later versions of the hive added to
    /// the record of the same model.
    ///
    /// # Errors
    /// [`Code::ModelExists`] where a newer version of the hive wrote the record, and those of the file
    /// system.
    pub(crate) fn write_record(&self, record: &StoreRecord) -> Result<()> {
        let (name, path) = (record.name(), self.record_path(record.name()));
        let mut record = record.clone();
        match self.versioned_record(name) {
            Versioned::Newer => return Err(self.newer_record(name)),
            Versioned::Known(previous) if previous.has_same_source(&record) => {
                record.keep_unknown_fields(&previous);
            }
            Versioned::Known(_) => {}
            Versioned::Invalid => set_aside_if_there(&path)
                .map_err(|error| Failure::io("set aside the damaged record", &path, &error))?,
        }
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|error| Failure::internal("a record could not be written as JSON").detail(error))?;
        files::put_durable(&path, &text).map_err(|error| Failure::io("write the record", &path, &error))
    }

    fn newer_record(&self, name: &str) -> Failure {
        let path = self.record_path(name);
        Failure::new(
            Code::ModelExists,
            format!("a newer version of rbee-hive put {name} into the store and wrote {}", path.display()),
        )
        .hint("use that version, or remove the model with ModelDelete and force, or that file where no model is left")
    }

    /// Removes the record of a model whose files are gone.
    pub(crate) fn remove_record(&self, file_name: &str) -> Result<()> {
        remove_file(&self.record_path(file_name)).map(drop)
    }

    /// Makes the links of a record, which are a model. Repeating this changes nothing. Returns the path of
    /// the first link.
    ///
    /// # Errors
    /// [`Code::ModelExists`] where another model has the name, unless `force` is given and the hive
    /// put that model there, and where another file has the name of a further file of the model.
    pub(crate) fn link(&self, record: &StoreRecord, force: bool, probe: &DiskProbe<'_>) -> Result<PathBuf> {
        let links: Vec<_> =
            record.all_files().filter_map(|file| Some((&*file.name, file.link.as_deref()?))).collect();
        let Some(&(name, source)) = links.first() else {
            return Err(Failure::internal("an import of no file"));
        };
        if self.dir.canonicalize().is_ok_and(|dir| source.parent() == Some(&*dir)) {
            n!("model_import", "{} is in the store already", source.display());
            return Ok(source.file_name().map_or_else(|| self.dir.clone(), |name| self.dir.join(name)));
        }
        match self.name_status(record, probe)? {
            NameStatus::SameModel => {
                n!("model_import", "{} is imported already", source.display());
                return Ok(self.path(name));
            }
            NameStatus::OtherModel { is_owned } if !(is_owned && force) => {
                return Err(name_taken(name, is_owned));
            }
            NameStatus::OtherModel { .. } => {
                n!("model_import", "Replacing the {name} that the hive put there");
            }
            NameStatus::Free => {}
        }
        self.check_further_names(record, probe)?;
        // A link's draft has the path of a partial file.
        let mut partials = links.iter().map(|(name, _)| self.partial_path(name));
        if let Some(newer) = partials.find(|partial| journal::is_newer(&journal::path_of(partial))) {
            return Err(partial::newer_format(&newer));
        }
        self.write_record(record)?;
        for (name, target) in &links {
            let (link, draft) = (self.path(name), self.partial_path(name));
            // A killed hive may have left one.
            remove_file(&draft)?;
            let draft = Draft::at(draft, &link);
            disk::symlink(target, draft.path())
                .and_then(|()| draft.publish())
                .map_err(|error| Failure::io("make the link", &link, &error))?;
        }
        self.sync()?;
        let bytes = record.files.iter().map(|file| file.size_bytes).sum();
        n!(
            "model_import",
            "Linked {} ({}) into the store; nothing was copied",
            source.display(),
            text::bytes(bytes)
        );
        Ok(self.path(name))
    }

    /// Makes names that were given or removed in the folder durable.
    pub(crate) fn sync(&self) -> Result<()> {
        files::sync_folder(&self.dir).map_err(|error| Failure::io("write the folder", &self.dir, &error))
    }
}

/// The failure where another model has the name in the store.
pub(crate) fn name_taken(name: &str, is_owned: bool) -> Failure {
    let hint = if is_owned {
        "repeat this with force to replace it, or delete that model first"
    } else {
        "the hive did not put it there and will not replace it: move that file away first"
    };
    Failure::new(Code::ModelExists, format!("the store has another model as {name}")).hint(hint)
}

fn further_name_taken(name: &str, model: &str) -> Failure {
    Failure::new(Code::ModelExists, format!("the store has another file as {name}")).hint(format!(
        "the hive did not put it there for {model} and will not replace it: move that file away first"
    ))
}

/// The name in the store of the projector of the model with that name there.
pub(crate) fn projector_name(model: &str) -> String {
    file_name(&format!("mmproj-{model}"))
}

/// The name that a model's file gets in the store: in the grammar of ids, without `/` and `:`, not
/// hidden, and short enough for every file system. It ends in `.gguf`.
pub(crate) fn file_name(wanted: &str) -> String {
    let stem = without_extension(wanted).unwrap_or(wanted);
    let is_allowed = |c: char| is_letter_or_digit(c) || matches!(c, '.' | '_' | '@' | '+' | '~' | '-');
    let mut clean: String = stem.chars().map(|c| if is_allowed(c) { c } else { '-' }).collect();
    if clean.is_empty() {
        clean.push('-');
    } else if clean.starts_with('.') {
        clean.replace_range(..1, "-");
    }
    if clean.len() > MAX_NAME {
        clean.truncate(clean.floor_char_boundary(MAX_NAME - 9));
        clean = format!("{clean}~{}", text::hex(&Sha256::digest(wanted)[..4]));
    }
    format!("{clean}.gguf")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::models::library::folders::FolderCache;

    proptest! {
        #[test]
        fn a_name_in_the_store_is_one_path_component(wanted in ".{0,300}") {
            let name = file_name(&wanted);
            prop_assert!(name.len() <= MAX_NAME + 5);
            prop_assert!(name.ends_with(".gguf") && !name.starts_with('.'));
            prop_assert_eq!(Path::new(&name).components().count(), 1);
            prop_assert!(!name.contains(['/', '\\', '\0']));
        }
    }

    #[test]
    fn a_rewritten_record_keeps_unknown_fields_and_a_newer_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned()).unwrap();
        let path = store.record_path("m.gguf");
        let record = |source: &str, size| {
            let file = |name: &str| RecordedFile::new(name.into(), size, None);
            let projector = Some(file("mmproj-m.gguf"));
            StoreRecord { projector, ..StoreRecord::new(source.into(), vec![file("m.gguf")]) }
        };
        let written = || serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).unwrap();
        fs::write(
            &path,
            r#"{"source":"https://h/m.gguf","files":[{"name":"m.gguf","size_bytes":1,"new":2}],
                "projector":{"name":"mmproj-m.gguf","size_bytes":1,"new":4},"tags":["a"]}"#,
        )
        .unwrap();
        store.write_record(&record("https://h/m.gguf", 3)).unwrap();
        assert_eq!(
            written(),
            serde_json::json!({
                "version": 1,
                "source": "https://h/m.gguf",
                "files": [{ "name": "m.gguf", "size_bytes": 3, "new": 2 }],
                "projector": { "name": "mmproj-m.gguf", "size_bytes": 3, "new": 4 },
                "tags": ["a"],
            })
        );
        store.write_record(&record("file:/m.gguf", 3)).unwrap();
        assert!(written().get("tags").is_none(), "the fields were of another model");

        let damaged = r#"{"version":1,"sou"#;
        fs::write(&path, damaged).unwrap();
        store.write_record(&record("https://h/m.gguf", 3)).unwrap();
        assert_eq!(fs::read_to_string(files::damaged_path(&path)).unwrap(), damaged);
        assert!(store.record("m.gguf").is_some());

        let newer = r#"{"version":2,"origin":"x"}"#;
        fs::write(&path, newer).unwrap();
        let cache = FolderCache::default();
        for failure in [
            store.write_record(&record("https://h/m.gguf", 3)).unwrap_err(),
            store.name_status(&record("https://h/m.gguf", 3), &DiskProbe::new(&cache)).unwrap_err(),
        ] {
            assert_eq!(failure.code, Code::ModelExists);
            assert!(failure.message.contains(path.to_str().unwrap()), "{failure}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    }
}
