//! What a caller asks of a download, and what it says that it would do.

use serde::Serialize;

use crate::models::Model;
use crate::models::library::split;
use crate::models::library::store::{Record, RecordedFile};

/// Disk space that a download leaves free, in bytes: a full disk hurts more than a missing model.
pub(crate) const MARGIN: u64 = 256 << 20;

/// How a model is to be brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The revision of the source; sources without revisions have only `main`.
    pub revision: String,
    /// Whether to stop before the first byte, with a [`Plan`].
    pub dry_run: bool,
    /// Whether to fetch again what is there, and to replace what the hive itself put there.
    pub force: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self { revision: "main".to_owned(), dry_run: false, force: false }
    }
}

/// What came of it. Serialises as what is in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Downloaded {
    /// The model, which is here now.
    Model(Box<Model>),
    /// What would have been done.
    Plan(Plan),
}

/// What a download would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The name that the model would have.
    pub model: String,
    /// As [`Model::source`].
    pub source: String,
    /// The files that it has.
    pub files: Vec<PlannedFile>,
    /// Size of all files in bytes, where the server says.
    pub total_bytes: Option<u64>,
    /// Bytes to be transferred: none for what is here already or only linked.
    pub transfer_bytes: Option<u64>,
    /// Free bytes on the store's disk.
    pub free_bytes: u64,
    /// Whether they are enough, with a margin.
    pub fits: bool,
    /// Whether the model is here already.
    pub already_present: bool,
    /// Whether the source gives it only to accounts that were given access, as this hive's was; unset
    /// where the source knows no such thing or was not asked.
    pub gated: Option<bool>,
}

/// One file of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedFile {
    /// Its name in the store.
    pub name: String,
    /// Its size in bytes, where the server says.
    pub size_bytes: Option<u64>,
}

impl Plan {
    /// The plan for a model that is here.
    pub(crate) fn nothing(present: &Model, free_bytes: u64) -> Self {
        let name = split::name_of(&present.path);
        Self {
            model: present.name.clone(),
            source: present.source.clone(),
            files: vec![PlannedFile { name, size_bytes: Some(present.size_bytes) }],
            total_bytes: Some(present.size_bytes),
            transfer_bytes: Some(0),
            free_bytes,
            fits: true,
            already_present: true,
            gated: None,
        }
    }

    /// The plan to link the files of a record.
    pub(crate) fn link(record: &Record, free_bytes: u64, already_present: bool) -> Self {
        let planned =
            |file: &RecordedFile| PlannedFile { name: file.name.clone(), size_bytes: Some(file.size_bytes) };
        Self {
            model: split::stem(&record.files[0].name).to_owned(),
            source: record.source.clone(),
            files: record.files.iter().map(planned).collect(),
            total_bytes: Some(record.files.iter().map(|file| file.size_bytes).sum()),
            transfer_bytes: Some(0),
            free_bytes,
            fits: true,
            already_present,
            gated: None,
        }
    }
}
