//! What a source is, and what it resolves a name to.
//!
//! The transfer knows nothing of sources, and a source knows nothing of ranges, retries and hashes: a
//! source states which files there are, where to get each ([`RemoteFile`]) and where to put it
//! ([`Destination`]).

use std::path::PathBuf;

use crate::error::Result;
use crate::models::library::record::StoreRecord;
use crate::models::sources::places::Places;
use crate::models::sources::request::DownloadRequest;
use crate::models::transfer::remote::{Destination, RemoteFile, StoredFile};

/// A kind of source.
pub(crate) trait ModelSource: Sized {
    /// How a name is written, for error hints.
    const EXAMPLE: &'static str;
    /// Whether its models have revisions to choose from.
    const HAS_REVISIONS: bool;

    /// Parses the text that names a source. `None` where the text is of another kind.
    fn parse(text: &str) -> Option<Result<Self>>;

    /// Finds out which files the model has, and where they go. Writes nothing in a dry run.
    ///
    /// # Errors
    /// Where the source does not have the model or another model has its name. A source that asks
    /// another machine adds the stage `preflight`.
    async fn resolve(&self, request: &DownloadRequest, places: &Places) -> Result<Resolution>;
}

/// What a name resolves to.
pub(crate) enum Resolution {
    /// The model exists, at this path, and no request was needed to know it.
    Present(PathBuf),
    /// Files of this machine to be linked: the record of the model, whose files are all links.
    Link(Box<StoreRecord>),
    /// Files to be transferred.
    Fetch(ResolvedModel),
}

/// A model as its source has it, ready to be transferred.
pub(crate) struct ResolvedModel {
    /// The id or name that the model will have.
    pub(crate) model: String,
    /// As [`crate::models::Model::source`].
    pub(crate) source: String,
    /// As [`crate::models::Model::revision`].
    pub(crate) revision: Option<String>,
    /// As [`crate::models::Plan::gated`].
    pub(crate) gated: Option<bool>,
    /// `general.architecture` of its header, where the source tells.
    pub(crate) architecture: Option<String>,
    /// Sentences that are narrated before the first byte.
    pub(crate) remarks: Vec<String>,
    /// The files of the model, in order, including those that exist already.
    pub(crate) files: Vec<(RemoteFile, Destination)>,
    /// Makes a model of the files once all are stored (links, refs, records), on the blocking pool.
    /// Idempotent: each of several jobs that shared a transfer calls its own. Returns the path at
    /// which the catalog lists the model.
    pub(crate) commit: Commit,
}

/// See [`ResolvedModel::commit`]. Receives the stored files, in order.
pub(crate) type Commit = Box<dyn FnOnce(&[StoredFile]) -> Result<PathBuf> + Send + Sync>;
