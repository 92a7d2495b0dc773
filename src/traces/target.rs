//! The target of every span.

/// The target of every span.
pub(crate) const TARGET: &str = "trace";
