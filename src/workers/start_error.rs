//! Why a worker did not start, and what may be done about it.
//!
//! The public code of the failure is for users. Whether to try another port, to restart the worker
//! later or to keep its log is decided by the kind alone.

use crate::error::Failure;

/// Why a worker did not start.
#[derive(Debug)]
pub(super) struct StartError {
    pub(super) kind: StartErrorKind,
    /// What users are told.
    pub(super) failure: Failure,
}

/// What may be done about a [`StartError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartErrorKind {
    /// Nothing: the same start would fail again.
    Permanent,
    /// The same start may succeed later.
    Temporary,
    /// Another process took the port that the worker was assigned: another port may do.
    PortTaken,
    /// The caller cancelled the start.
    Cancelled,
    /// Another request stopped the worker.
    StoppedByRequest,
}

impl StartError {
    pub(super) fn new(kind: StartErrorKind, failure: Failure) -> Self {
        Self { kind, failure }
    }

    /// An error of a start that may succeed later.
    pub(super) fn temporary(failure: Failure) -> Self {
        Self::new(StartErrorKind::Temporary, failure)
    }
}

/// A plain failure counts as permanent.
impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self::new(StartErrorKind::Permanent, failure)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        error.failure
    }
}
