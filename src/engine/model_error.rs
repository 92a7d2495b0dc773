//! The failures of a model file that cannot be loaded. Each names the metadata key or the tensor.

use std::fmt::Display;
use std::path::Path;

use crate::error::{Code, Failure};

/// A damaged file. `subject` is the metadata key or the tensor at fault.
pub(super) fn corrupt(subject: &str, problem: impl Display) -> Failure {
    Failure::new(Code::ModelCorrupt, format!("{subject}: {problem}"))
        .hint("the file is damaged or was converted wrongly: download the model again")
        .stage("load")
}

/// A sound file whose model this engine cannot run.
pub(super) fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Code::ModelUnsupported, message)
        .hint("serve this model with another engine, such as llama.cpp, described in the configuration")
        .stage("load")
}

/// A metadata key with a value that this engine does not know; `known` are those that it knows.
pub(super) fn unknown_value(key: &str, value: &str, known: &[&str]) -> Failure {
    Failure::new(
        Code::ModelUnsupported,
        format!("{key}: the built-in engine does not know the value {value:?}"),
    )
    .hint(format!("it knows {}; serve this model with another engine, such as llama.cpp", known.join(", ")))
    .stage("load")
}

/// Puts the file's path in front of a message that names only a key or a tensor.
pub(super) fn in_file(path: &Path) -> impl Fn(Failure) -> Failure {
    move |mut failure| {
        failure.message = format!("{}: {}", path.display(), failure.message);
        failure
    }
}
