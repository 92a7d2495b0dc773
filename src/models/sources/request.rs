//! The options of a download.

/// How a model is downloaded or imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadRequest {
    /// The revision of the source; sources without revisions have only `main`.
    pub revision: String,
    /// Whether to stop before the first byte, with a [`Plan`](crate::models::Plan).
    pub dry_run: bool,
    /// Whether to download again what exists, and to replace what the hive itself put there.
    pub force: bool,
}

impl Default for DownloadRequest {
    fn default() -> Self {
        Self { revision: "main".to_owned(), dry_run: false, force: false }
    }
}
