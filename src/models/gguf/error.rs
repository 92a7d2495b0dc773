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
    /// The contents contradict the format, themselves or the file's size.
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

    /// The failure that the user sees: it names the file, the field and the next step.
    #[must_use]
    pub fn into_failure(self, path: &Path) -> Failure {
        match self {
            Self::Io(error) => Failure::io("read", path, &error),
            Self::Malformed { field, problem } => Failure::new(
                Code::ModelCorrupt,
                format!("{} is not a sound GGUF file: {field}: {problem}", path.display()),
            )
            .hint("the file is damaged or incomplete: download the model again"),
        }
    }
}
