//! What a download would do, and what it did.

use serde::Serialize;
use utoipa::ToSchema;

use crate::models::library::file_name::name_of;
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::library::split::stem;
use crate::models::model::Model;
use crate::models::needs::EngineSupport;

/// Disk space that a download leaves free, in bytes: a full disk does more harm than a missing model.
pub(crate) const MARGIN: u64 = 256 << 20;

/// The outcome of a download. Serialises as its contents.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ModelDownloadResult)]
pub enum Downloaded {
    /// The model, which exists.
    Model(Box<Model>),
    /// What a dry run would have done.
    Plan(Box<Plan>),
}

/// What a download would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DownloadPlan)]
pub struct Plan {
    /// The name that the model would have.
    pub model: String,
    /// As [`Model::source`].
    pub source: String,
    /// The files that it has.
    pub files: Vec<PlannedFile>,
    /// Size of all files in bytes, where the server says.
    pub total_bytes: Option<u64>,
    /// Bytes to be transferred: 0 for a model that exists or is only linked.
    pub transfer_bytes: Option<u64>,
    /// Free bytes on the store's disk.
    pub free_bytes: u64,
    /// Whether the free bytes are enough, with a margin.
    pub fits: bool,
    /// Whether the model exists already.
    pub already_present: bool,
    /// Whether the source gives it only to accounts that were granted access, as this hive's was; unset
    /// where the source has no such restriction or was not asked.
    pub gated: Option<bool>,
    /// `general.architecture` of its header, where the source or the file tells.
    pub architecture: Option<String>,
    /// Which engines can run it, as far as its source tells of it.
    #[serde(flatten)]
    pub support: EngineSupport,
}

/// One file of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlannedFile {
    /// Its name in the store.
    pub name: String,
    /// Its size in bytes, where the server says.
    pub size_bytes: Option<u64>,
}

impl Plan {
    /// The plan for a model that exists.
    pub(crate) fn present(present: &Model, support: EngineSupport, free_bytes: u64) -> Self {
        let name = name_of(&present.path);
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
            architecture: present.architecture.clone(),
            support,
        }
    }

    /// The plan to link the files of a record.
    pub(crate) fn link(record: &StoreRecord, free_bytes: u64, already_present: bool) -> Self {
        let planned =
            |file: &RecordedFile| PlannedFile { name: file.name.clone(), size_bytes: Some(file.size_bytes) };
        Self {
            model: stem(record.name()).to_owned(),
            source: record.source.clone(),
            files: record.all_files().map(planned).collect(),
            total_bytes: Some(record.all_files().map(|file| file.size_bytes).sum()),
            transfer_bytes: Some(0),
            free_bytes,
            fits: true,
            already_present,
            gated: None,
            architecture: None,
            support: EngineSupport::default(),
        }
    }
}
