//! Why an archive was not unpacked.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Code, Failure};

/// Why an archive was not unpacked.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It breaks a rule; a sentence that begins with `it`.
    Refused(String),
    /// It cannot be read as what it claims to be.
    Damaged(io::Error),
    /// The disk of this machine failed.
    Disk { doing: &'static str, path: PathBuf, error: io::Error },
    /// The caller wants it no more.
    Cancelled,
}

impl Trouble {
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }

    pub(super) fn disk(doing: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Disk { doing, path: path.to_owned(), error }
    }

    /// The failure of the archive of that name.
    pub(super) fn into_failure(self, name: &str) -> Failure {
        let refused = |message: String| {
            Failure::new(Code::EngineRefused, message)
                .hint("nothing of it was installed: name another version, or ask whoever publishes it")
        };
        let failure = match self {
            Self::Refused(why) => refused(format!("{name} is refused: {why}")),
            Self::Damaged(error) => refused(format!("{name} cannot be unpacked")).cause(&error),
            Self::Disk { doing, path, error } => Failure::io(doing, &path, &error),
            Self::Cancelled => Failure::new(Code::Cancelled, "the installation was cancelled"),
        };
        failure.stage("unpack")
    }
}
