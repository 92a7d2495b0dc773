//! What a scan finds: the files of a model, or an unfinished download, and where.

use std::path::{Path, PathBuf};

use crate::models::library::file_name::name_of;
use crate::models::library::split::ModelFiles;
use crate::models::transfer::partial::Unfinished;

/// The files of one model and where they were found. Nothing in them has been read yet.
#[derive(Debug)]
pub(crate) struct ScannedModel {
    pub(crate) files: ModelFiles,
    pub(crate) location: ModelLocation,
}

/// Where a model's files were found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ModelLocation {
    /// In the hive's store.
    Store,
    /// In one of the user's folders.
    UserFolder,
    /// In the Hugging Face cache.
    HubCache(HubCacheModel),
    /// In a store of Ollama's that is one of the user's folders.
    OllamaStore(OllamaModel),
    /// Of the model, only this partial file exists; or the model's file is here and waits for its companion,
    /// whose partial file this is.
    Partial(PathBuf),
}

/// Where a model is in the Hugging Face cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubCacheModel {
    /// `org/repo`.
    pub(crate) repo: String,
    /// The commit of its snapshot.
    pub(crate) revision: String,
    /// The first file's path within the snapshot.
    pub(crate) relative: String,
    /// Whether that is the commit of the branch `main`.
    pub(crate) is_main: bool,
    /// The folder `models--org--repo`.
    pub(crate) folder: PathBuf,
}

/// A model of Ollama's own store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OllamaModel {
    /// The name that it has there: `name:tag`, `user/name:tag` or `hf.co/org/repo:tag`.
    pub(crate) name: String,
    /// SHA-256 of its file in hexadecimal.
    pub(crate) sha256: Option<String>,
    /// The file of its projector.
    pub(crate) projector: Option<PathBuf>,
    /// As [`crate::models::Model::left_out`].
    pub(crate) left_out: Vec<String>,
}

impl OllamaModel {
    /// Whether it is of another place than Ollama's library.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.name.matches('/').count() > 1
    }

    /// The name as that of a file: the one that its download from the library has in the hive's store.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.gguf", self.name.replace(['/', ':'], "-"))
    }
}

/// Who put a model there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelOwner {
    /// The hive, and the files are as it put them there.
    Hive,
    /// A newer version of the hive.
    NewerHive,
    /// Another tool or the user, or a file has changed since.
    Other,
}

/// An unfinished download of a model that does not exist otherwise.
#[derive(Debug)]
pub(crate) struct PartialModel {
    /// The path of the partial file.
    pub(crate) partial: PathBuf,
    /// The path that the finished file will have.
    pub(crate) target: PathBuf,
    pub(crate) unfinished: Unfinished,
}

impl PartialModel {
    /// The path that the model's file has or will have. The partial file may be of a companion.
    pub(crate) fn model_path(&self) -> PathBuf {
        let companion_of = self.unfinished.head.companion_of.as_ref();
        companion_of.map_or_else(|| self.target.clone(), |model| model.beside(&self.target))
    }
}

/// The source of a model that is a file of this machine, as `ModelDownload` reads it: `file:` and the path,
/// or a URL where the path is not text.
pub(crate) fn file_source(path: &Path) -> String {
    let url = || reqwest::Url::from_file_path(path).map(String::from);
    match path.to_str() {
        Some(text) => format!("file:{text}"),
        None => url().unwrap_or_else(|()| format!("file:{}", path.display())),
    }
}

impl ScannedModel {
    /// The path of the first file.
    pub(crate) fn path(&self) -> &Path {
        &self.files.paths[0]
    }

    /// The name of the first file.
    pub(crate) fn file_name(&self) -> String {
        name_of(self.path())
    }
}
