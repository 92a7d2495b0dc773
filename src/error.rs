//! Errors: a [`Code`], a public text and a private detail.
//!
//! The public fields of a [`Failure`] (`code`, `message`, `hint`, `causes`, the end of a worker's log)
//! go to clients; the private detail goes only to the hive's own log. A failure becomes either an RFC
//! 9457 problem (`http::problem`) or a job's terminal event (`jobs::event`). It is logged there, once,
//! and nowhere else.

mod code;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use code::Code;

/// Why something failed. All fields but `detail` are public.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// One sentence that names the object.
    pub message: String,
    /// The next step to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The stage that failed: `preflight`, `start`, `load`, `transfer`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Underlying causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The exit code of the process concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The name of the signal that ended the process concerned, such as `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// The last lines of the log of the process concerned, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// For a name that matches no model or several: the models that it may mean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// The private detail, for the hive's own log; never serialised.
    #[serde(skip)]
    pub detail: Option<Arc<anyhow::Error>>,
}

/// One model that an ambiguous name may mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ModelChoice)]
pub struct Choice {
    /// A name that means only this model.
    pub model: String,
    /// In bytes; unset if the source does not say.
    pub size_bytes: Option<u64>,
    /// Whether the hive recommends it.
    pub recommended: bool,
}

/// The result of an operation whose failure a user may see.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with a public sentence that names the object.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            stage: None,
            causes: Vec::new(),
            exit_code: None,
            signal: None,
            log_tail: Vec::new(),
            choices: Vec::new(),
            detail: None,
        }
    }

    /// Adds the next step to take.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the stage that failed, unless code closer to the fault has set it.
    #[must_use]
    pub fn stage(mut self, stage: &str) -> Self {
        self.stage.get_or_insert_with(|| stage.to_owned());
        self
    }

    /// Adds an error and the chain of its sources to the causes.
    #[must_use]
    pub fn cause(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// Sets the private detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<anyhow::Error>) -> Self {
        self.detail = Some(Arc::new(detail.into()));
        self
    }

    /// A failed file system call on `path`. A full disk gets a code of its own.
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let message = format!("could not {doing} {}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(Code::DiskFull, message).hint("free some space on that disk, then try again")
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Self::new(Code::Io, message).hint("check who owns the path and whether it is writable")
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Self::new(Code::Io, message).hint("the disk may be failing: look at the system's log (dmesg)")
            }
            _ => Self::new(Code::Io, message),
        }
    }

    /// A defect of the hive.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message).hint("this is a defect: please report it with the hive's log")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_closest_to_the_fault_is_kept() {
        let failure = Failure::new(Code::WorkerFailed, "x").stage("load").stage("start").stage("preflight");
        assert_eq!(failure.stage.as_deref(), Some("load"));
    }

    #[test]
    fn the_private_detail_is_never_serialised() {
        let failure = Failure::new(Code::Io, "x").detail(anyhow::anyhow!("secret"));
        let json = serde_json::to_string(&failure).expect("a failure is plain data");
        assert_eq!(json, r#"{"code":"io","message":"x"}"#);
    }
}
