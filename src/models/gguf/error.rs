//! Why a GGUF file is refused.

use std::io;
use std::path::Path;

use crate::error::{Code, Failure};

/// Why a file cannot be used as a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file system refused.
    #[error("the file could not be read: {0}")]
    Io(#[from] io::Error),
    /// The file ends before what it says that it has: it is still being written, or was cut off.
    #[error("{field}: {problem}")]
    Truncated {
        /// As in [`Self::Malformed`].
        field: String,
        /// What is missing.
        problem: String,
    },
    /// The file may be sound, but this reader does not know its version or a type in it.
    #[error("{field}: {problem}")]
    Unknown {
        /// As in [`Self::Malformed`].
        field: String,
        /// What is not known.
        problem: String,
    },
    /// The contents contradict the format or themselves.
    #[error("{field}: {problem}")]
    Malformed {
        /// The wrong field: `magic`, `metadata[12] tokenizer.ggml.tokens`, `tensor output.weight`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl GgufError {
    pub(crate) fn malformed(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unknown(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unknown { field: field.into(), problem: problem.into() }
    }

    /// The failure that the user sees: it names the file, the field and the next step.
    #[must_use]
    pub fn into_failure(self, path: &Path) -> Failure {
        let path_shown = path.display();
        match self {
            Self::Io(error) => Failure::io("read", path, &error),
            Self::Truncated { .. } => {
                Failure::new(Code::ModelIncomplete, format!("{path_shown} is not complete: {self}")).hint(
                    "if it is still being copied, try again when that has ended; otherwise download the model again",
                )
            }
            Self::Unknown { .. } => Failure::new(
                Code::ModelUnsupported,
                format!("{path_shown} is a GGUF file of a kind that this hive does not know: {self}"),
            )
            .hint("the file may well be sound: serve it with an engine that knows it, such as a recent llama-server"),
            Self::Malformed { .. } => {
                Failure::new(Code::ModelCorrupt, format!("{path_shown} is not a sound GGUF file: {self}"))
                    .hint("the file is damaged, or is not a GGUF file: download the model again")
            }
        }
    }
}
