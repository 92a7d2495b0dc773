//! A change of settings.

use serde_json::{Map, Value};

/// A change that an operation asks for.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The id of the model.
    pub(crate) model: String,
    pub(crate) variant: Option<String>,
    /// The fields to set.
    pub(crate) settings: Map<String, Value>,
    /// The dotted names of those that operations had set, and that are to count no more.
    pub(crate) unset: Vec<String>,
    /// The ids and the names of the models of the catalog, which no alias may have.
    pub(crate) taken: Vec<String>,
}
