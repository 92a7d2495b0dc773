//! The model of a repository that a name means.

use super::choice::RepositoryFile;

/// A model of a repository at one commit.
#[derive(Debug)]
pub(crate) struct ChosenModel {
    /// `org/repo`, as the Hub spells it.
    pub(crate) repo: String,
    pub(crate) commit: String,
    /// The quantization, where it names the model within its repository.
    pub(crate) tag: Option<String>,
    /// Never empty; its projector is the last.
    pub(crate) files: Vec<ChosenFile>,
    /// Whether the repository is gated; `None` where the Hub was not asked.
    pub(crate) gated: Option<bool>,
    /// `general.architecture` of its header, where the Hub tells.
    pub(crate) architecture: Option<String>,
    /// Sentences that are narrated before the first byte.
    pub(crate) remarks: Vec<String>,
}

/// A file of the chosen model.
#[derive(Clone, Debug)]
pub(crate) struct ChosenFile {
    pub(crate) file: RepositoryFile,
    /// The name of its contents in the cache.
    pub(crate) etag: String,
    /// Whether it is the model's projector.
    pub(crate) is_projector: bool,
}
