//! A field with a secret, which is neither shown nor recorded with the job.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Code, Failure, Result};

/// What is recorded in a secret's place.
const HIDDEN: &str = "(hidden)";

/// Text that is shown and recorded nowhere.
#[derive(Deserialize)]
pub(super) struct Hidden(String);

impl Hidden {
    /// The text that the caller gave for that field.
    ///
    /// # Errors
    /// [`Code::InvalidField`] if it is what a record has in its place.
    pub(super) fn given(&self, field: &str) -> Result<&str> {
        if self.0 == HIDDEN {
            let message =
                format!("{field}: {HIDDEN} stands for a {field} that was not recorded with its job");
            return Err(Failure::new(Code::InvalidField, message).hint(format!("give the {field} itself")));
        }
        Ok(&self.0)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}
