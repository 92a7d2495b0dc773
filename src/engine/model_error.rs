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

/// How to get the engine that runs what this one does not. The hive itself knows what is best for a model and a
/// machine; this engine, which may run without a hive, names what runs everywhere.
const OTHER_ENGINE: &str = "llama-server runs more models: WorkerInstall {\"worker_id\":\"llama-server-cpu\"} \
                            installs it";

/// A sound file whose model this engine cannot run.
pub(super) fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Code::ModelUnsupported, message).hint(OTHER_ENGINE).stage("load")
}

/// A metadata key with a value that this engine does not know; `known` are those that it knows.
pub(super) fn unknown_value(key: &str, value: &str, known: &[&str]) -> Failure {
    Failure::new(
        Code::ModelUnsupported,
        format!("{key}: the built-in engine does not know the value {value:?}"),
    )
    .hint(format!("it knows {}; {OTHER_ENGINE}", known.join(", ")))
    .stage("load")
}

/// Puts the file's path in front of a message that names only a key or a tensor.
pub(super) fn in_file(path: &Path) -> impl Fn(Failure) -> Failure {
    move |mut failure| {
        failure.message = format!("{}: {}", path.display(), failure.message);
        failure
    }
}
