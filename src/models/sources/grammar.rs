//! What the grammars of the sources share.

use crate::error::{Code, Failure};

/// The failure of a badly written source.
pub(crate) fn invalid(what: &str, hint: &str) -> Failure {
    Failure::new(Code::InvalidField, format!("model: {what}")).hint(hint)
}
