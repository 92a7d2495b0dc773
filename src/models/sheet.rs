//! What one hive tells another of a model, so that a copy of its files is the same model there.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Failure};

/// A model, as its hive describes it to one that copies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sheet {
    /// As [`Model::id`](crate::models::Model::id), and so on.
    pub(crate) id: String,
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) revision: Option<String>,
    /// Where it is in the Hugging Face cache.
    #[serde(default)]
    pub(crate) hub: Option<HubPlace>,
    /// As in the store's record.
    #[serde(default)]
    pub(crate) url_sha256: Option<String>,
    #[serde(default)]
    pub(crate) left_out: Vec<String>,
    /// Its files, in order. Never empty.
    pub(crate) files: Vec<SheetFile>,
    #[serde(default)]
    pub(crate) projector: Option<SheetFile>,
    /// The file that is being read for its SHA-256, which was not known. The rest is told once that is done.
    #[serde(default)]
    pub(crate) reading: Option<Reading>,
}

/// The failure of a sheet that describes no model.
pub(crate) fn unusable(what: &str) -> Failure {
    Failure::new(Code::DownloadFailed, format!("what the other hive tells of the model {what}"))
        .hint("the hives may be of different versions: update the older one")
}

/// The place of a model in the Hugging Face cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HubPlace {
    /// `org/repo`
    pub(crate) repo: String,
    /// The commit of its snapshot.
    pub(crate) commit: String,
    /// Whether that is the commit of the branch `main`.
    pub(crate) is_main: bool,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SheetFile {
    /// Its name; in the Hugging Face cache its path within the snapshot.
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    /// In lower-case hexadecimal.
    #[serde(default)]
    pub(crate) sha256: Option<String>,
    /// The name of its contents in the Hugging Face cache.
    #[serde(default)]
    pub(crate) etag: Option<String>,
}

/// How far the reading of a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) file: String,
    /// Bytes.
    pub(crate) done: u64,
    pub(crate) total: u64,
}
