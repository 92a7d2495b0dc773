//! The decision: what to load, to drain, to stop, to grant and to refuse, and why.

use super::snapshot::{Decision, Snapshot};

/// Decides what to do now. Carrying the actions out changes the next snapshot; until it shows, the same actions
/// may be decided again, and must then do nothing.
pub(crate) fn decide(_now: &Snapshot) -> Decision {
    Decision::default()
}
