//! Why a request or a transfer failed, and what to do about it. The kind decides the next step; the
//! failure's public code is only shown.

use std::time::Duration;

use crate::error::{Code, Failure};

/// Why a request failed, and whether another attempt can succeed.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    pub(crate) kind: TroubleKind,
}

/// What may be done about a [`Trouble`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// Every further attempt would fail in the same way.
    Fatal,
    /// This hive may not ask that server.
    Refused,
    /// What came is of no use, so that nothing of it is kept.
    Unusable,
    /// Another attempt may succeed.
    Passing,
    /// The server asked to wait this long before the next request.
    Later(Duration),
    /// The server sent nothing, or too little, within the stall time.
    Stalled,
    /// The server has another version of the file than when the transfer began.
    Changed,
    /// The URL that a redirect led to does not serve the file any more.
    Expired,
    /// The bytes received so far cannot be resumed: start from byte 0.
    Restart,
}

impl TroubleKind {
    /// Whether no further attempt can succeed.
    pub(crate) const fn is_fatal(self) -> bool {
        matches!(self, Self::Fatal | Self::Refused | Self::Unusable)
    }
}

/// What a request, or a step of a transfer, returns.
pub(crate) type FetchResult<T> = Result<T, Trouble>;

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        trouble.failure
    }
}

impl Trouble {
    pub(crate) fn new(kind: TroubleKind, failure: Failure) -> Self {
        Self { failure, kind }
    }

    pub(crate) fn fatal(failure: Failure) -> Self {
        Self::new(TroubleKind::Fatal, failure)
    }

    pub(crate) fn passing(failure: Failure) -> Self {
        Self::new(TroubleKind::Passing, failure)
    }
}

/// A failure of the server. A caller that knows more replaces the hint.
pub(crate) fn download_failed(message: String) -> Failure {
    Failure::new(Code::DownloadFailed, message)
        .hint("try again; where it fails again, ask whoever runs that server or use another source")
}
