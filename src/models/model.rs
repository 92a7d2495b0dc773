//! A model as the API shows it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::needs::{EngineSupport, Needs};
use super::traits::Traits;
use crate::config::{Capabilities, Sampling};
use crate::error::{Code, Failure, Result};
use crate::paths;

/// One model of the catalog. The order of the fields is the wire's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The key in the catalog.
    pub id: String,
    /// The file's stem, in the same grammar; two models may share it.
    pub name: String,
    /// Size of all its files in bytes.
    pub size_bytes: u64,
    /// The file, or the first file of a split model.
    #[serde(serialize_with = "paths::shown")]
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Where it came from: `https://…`, `file:/…`, or `hf:org/repo` for the Hugging Face cache.
    pub source: String,
    /// The revision of the source, where it has revisions: the Hub's commit.
    pub revision: Option<String>,
    /// Always `gguf`.
    pub format: String,
    /// `general.architecture` of the header.
    pub architecture: Option<String>,
    /// How the weights are quantised, in llama.cpp's words.
    pub quantization: Option<String>,
    /// Number of weights.
    pub parameter_count: Option<u64>,
    /// The context that it was trained for, in tokens.
    pub context_length: Option<u64>,
    /// What it can do on the engine that serves it, or that would; unset where that is not known. The catalog
    /// leaves it unset; operations set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<crate::config::Capability>>)]
    pub capabilities: Option<Capabilities>,
    /// Which engines can run it. The catalog leaves it unset; operations set it.
    #[serde(flatten)]
    pub support: EngineSupport,
    /// What it asks of an engine; `None` where its file could not be read.
    #[serde(skip)]
    pub(crate) needs: Option<Needs>,
    /// What its file tells of what it can do; `None` where the file could not be read.
    #[serde(skip)]
    pub traits: Option<Traits>,
    /// Whether a worker serves it. The catalog leaves it `false`; operations set it.
    pub loaded: bool,
    /// Whether it can be used.
    pub status: Status,
    /// When its file was last changed (linked, for an import): RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime)]
    pub added_at: String,
    /// SHA-256 of its contents in hexadecimal, where it is known without reading the file.
    pub sha256: Option<String>,
    /// The file that turns images or sound into its input. Its size is not in `size_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "paths::shown_option")]
    #[schema(value_type = Option<String>)]
    pub projector: Option<PathBuf>,
    /// How its makers recommend to sample, where its file tells (`general.sampling.*`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// What its source has of it besides, and was not brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Why it is not [`Status::Available`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_detail: Option<String>,
}

/// Whether a model can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ModelStatus)]
pub enum Status {
    /// The model can be used.
    Available,
    /// A job is downloading it.
    Downloading,
    /// A file of it, or the end of a file, is missing.
    Incomplete,
    /// Nothing in it contradicts itself, but this hive does not know its format or a type in it. An
    /// engine may.
    Unknown,
    /// The system does not let the hive read a file of it.
    Unreadable,
    /// A file of it contradicts itself, or is no GGUF file.
    Corrupt,
}

impl Model {
    /// Refuses a model that no engine could load. One that the hive does not know is left to the engine.
    ///
    /// # Errors
    /// [`Code::ModelCorrupt`] with what is wrong with it, [`Code::ModelIncomplete`] with what is missing,
    /// [`Code::Io`] where it cannot be read, or [`Code::ModelInUse`] while it is being downloaded.
    pub fn check_loadable(&self) -> Result<()> {
        let (code, state, hint) = match self.status {
            Status::Available | Status::Unknown => return Ok(()),
            Status::Downloading => {
                (Code::ModelInUse, "is being downloaded", "load it when its download has ended")
            }
            Status::Incomplete => (
                Code::ModelIncomplete,
                "is incomplete",
                "if it is being copied, wait until that has ended; otherwise bring what is missing, or download the \
                 model again",
            ),
            Status::Unreadable => (
                Code::Io,
                "cannot be read",
                "let the user that the hive runs as read the file, or check the disk that it is on",
            ),
            Status::Corrupt => (Code::ModelCorrupt, "is damaged", "download it again, or delete it"),
        };
        let detail = self.status_detail.as_deref().unwrap_or("no more is known");
        let message = format!("the model '{}' {state}: {detail} ({})", self.id, self.path.display());
        Err(Failure::new(code, message).hint(hint).stage("preflight"))
    }
}
