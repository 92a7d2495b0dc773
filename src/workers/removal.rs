//! The removal of an engine: while it lasts, no worker starts from the engine's folders.
//!
//! A worker is either in the list before the removal begins, which refuses the removal, or it is refused itself.

use std::path::PathBuf;
use std::sync::Arc;

use super::shared::Shared;

/// A removal that is under way.
#[derive(Debug)]
pub(crate) struct Removal {
    shared: Arc<Shared>,
    folders: Vec<PathBuf>,
}

impl Removal {
    /// # Errors
    /// The process ids of the live workers that run from these folders.
    pub(super) fn begin(shared: &Arc<Shared>, folders: Vec<PathBuf>) -> Result<Self, Vec<u32>> {
        shared.registry.leave(&folders)?;
        Ok(Self { shared: Arc::clone(shared), folders })
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.shared.registry.has_left(&self.folders);
    }
}
