//! What the hive remembers of a model that it put into its store.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::models::library::probe::DiskProbe;

/// The record of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreRecord {
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
}

/// One file of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedFile {
    /// Its name in the store.
    pub(crate) name: String,
    /// Size in bytes when it was put there.
    pub(crate) size_bytes: u64,
    /// The target, where the file is a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<PathBuf>,
}

impl StoreRecord {
    /// Whether both models came from the same place.
    pub(crate) fn has_same_source(&self, other: &Self) -> bool {
        (&self.source, &self.url_sha256) == (&other.source, &other.url_sha256)
    }

    /// The name in the store of the first file, which is also the model's key in the store.
    pub(crate) fn name(&self) -> &str {
        &self.files[0].name
    }
}

impl RecordedFile {
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
