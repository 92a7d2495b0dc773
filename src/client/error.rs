//! Why a hive did not do what a client asked for.

use std::fmt;

use crate::error::{Code, Failure};

/// Why a hive did not do what a client asked for.
#[derive(Debug)]
pub enum Error {
    /// No hive answers at that address, or the connection was lost and did not come back.
    Unreachable(Failure),
    /// The hive answered with a problem: it did not take the request. A code of a later version is
    /// [`Code::OutcomeUnknown`].
    Refused(Failure),
    /// The job failed, or the answer to a request to a model.
    Failed(Failure),
    /// The job was cancelled.
    Cancelled,
}

/// What a client gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What failed and what to do about it; none for a job that was cancelled.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Unreachable(failure) | Self::Refused(failure) | Self::Failed(failure) => Some(failure),
            Self::Cancelled => None,
        }
    }

    /// As a job ended.
    pub(super) fn failed(failure: &Failure) -> Self {
        Self::Failed(failure.clone())
    }

    /// Something that a hive of this version does not say.
    pub(super) fn unexpected(error: &serde_json::Error) -> Self {
        let failure = Failure::new(Code::OutcomeUnknown, "what the hive answered is not understood");
        Self::Failed(
            failure.cause(error).hint("the hive may be of another version: compare `rbee-hive --version`"),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure() {
            Some(failure) => failure.fmt(f),
            None => f.write_str("the job was cancelled"),
        }
    }
}

impl std::error::Error for Error {}
