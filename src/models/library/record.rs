//! What the hive remembers of a model that it put into its store: a JSON file with a version
//! ([`versioned`](crate::files::versioned)).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::versioned::{VERSION, first_version};
use crate::models::library::probe::DiskProbe;
use crate::paths;

/// The record of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreRecord {
    #[serde(default = "first_version")]
    pub(crate) version: u64,
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
    /// The model's files, in order. Never empty.
    pub(crate) files: Vec<RecordedFile>,
    /// Its projector, which is in the store too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) projector: Option<RecordedFile>,
    /// As [`crate::models::Model::left_out`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<String>,
    /// Fields of later versions of the hive.
    #[serde(flatten)]
    pub(crate) unknown: Map<String, Value>,
}

/// One file of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedFile {
    /// Its name in the store.
    pub(crate) name: String,
    /// Size in bytes when it was put there.
    pub(crate) size_bytes: u64,
    /// The target, where the file is a link.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "paths::exact_option")]
    pub(crate) link: Option<PathBuf>,
    /// SHA-256 in hexadecimal, of a projector that the hive downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// Fields of later versions of the hive.
    #[serde(flatten)]
    pub(crate) unknown: Map<String, Value>,
}

impl StoreRecord {
    /// The record of a model with these files, at least one.
    pub(crate) fn new(source: String, files: Vec<RecordedFile>) -> Self {
        Self {
            version: VERSION,
            source,
            url_sha256: None,
            revision: None,
            sha256: None,
            files,
            projector: None,
            left_out: Vec::new(),
            unknown: Map::new(),
        }
    }

    /// Whether both models came from the same place.
    pub(crate) fn has_same_source(&self, other: &Self) -> bool {
        (&self.source, &self.url_sha256) == (&other.source, &other.url_sha256)
    }

    /// The name in the store of the first file, which is also the model's key in the store.
    pub(crate) fn name(&self) -> &str {
        &self.files[0].name
    }

    /// Its files in the store, in order, and then its projector.
    pub(crate) fn all_files(&self) -> impl Iterator<Item = &RecordedFile> + Clone {
        self.files.iter().chain(&self.projector)
    }

    /// Takes over the fields that `previous`, a record of the same model, has from later versions of
    /// the hive.
    pub(crate) fn keep_unknown_fields(&mut self, previous: &Self) {
        self.unknown.clone_from(&previous.unknown);
        for file in self.files.iter_mut().chain(&mut self.projector) {
            if let Some(known) = previous.all_files().find(|known| known.name == file.name) {
                file.unknown.clone_from(&known.unknown);
            }
        }
    }
}

impl RecordedFile {
    pub(crate) fn new(name: String, size_bytes: u64, link: Option<PathBuf>) -> Self {
        Self { name, size_bytes, link, sha256: None, unknown: Map::new() }
    }

    /// Whether the file at `path` is still the one that was recorded.
    pub(crate) fn matches(&self, path: &Path, probe: &DiskProbe<'_>) -> bool {
        match &self.link {
            Some(target) => probe.link(path).is_some_and(|link| link.target == *target),
            None => probe
                .symlink_metadata(path)
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.size_bytes),
        }
    }
}
