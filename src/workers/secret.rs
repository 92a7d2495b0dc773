//! The secret that one worker shares with the hive.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The secret of one worker: 32 random bytes in hexadecimal. Never printed.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// A new secret.
    pub(super) fn random() -> Self {
        Self(crate::text::hex(&rand::random::<[u8; 32]>()).into())
    }

    /// The secret that a worker's record holds.
    pub(super) fn from_record(secret: &str) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the `Authorization` header of a request to its worker.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A line of the worker's log with its secret replaced, for readers.
    #[must_use]
    pub fn redact<'a>(&self, line: &'a str) -> Cow<'a, str> {
        if line.contains(&*self.0) { line.replace(&*self.0, "[secret]").into() } else { line.into() }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
