//! Faults that tests inject into operations.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::Result;

/// A hook that tests set to run inside every operation, in its narration context, just before the
/// operation itself. The hook may panic, fail or never return.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Hook>>);

type Hook = dyn Fn(&'static str) -> BoxFuture<'static, Result<()>> + Send + Sync;

impl Faults {
    /// A hook that is given the operation's name in `snake_case`.
    pub fn new(
        hook: impl Fn(&'static str) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Runs the hook, if there is one.
    pub(crate) async fn inject(&self, operation: &'static str) -> Result<()> {
        match &self.0 {
            Some(hook) => hook(operation).await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(set)" } else { "Faults(none)" })
    }
}
