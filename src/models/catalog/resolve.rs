//! From a source to the files that it stands for: one arm for each source.

use crate::error::{Failure, Result};
use crate::models::Catalog;
use crate::models::Model;
use crate::models::Source;
use crate::models::plan::Request;
use crate::models::transfer::remote::Resolved;

/// What a source answers.
pub(crate) enum Resolution {
    /// The model is here already, and nothing has to be asked of anybody.
    Here(Box<Model>),
    /// These files make the model.
    Files(Resolved),
}

impl Catalog {
    /// Asks the source which files the model has, and finds their places.
    ///
    /// # Errors
    /// Those of the source, with the stage `preflight`.
    pub(crate) async fn resolve(&self, source: &Source, request: &Request) -> Result<Resolution> {
        match source {
            Source::File(_) => Err(Failure::internal("a file of this machine is imported, not fetched")),
            Source::Remote(source) => match self.url_present(source, request).await? {
                (Some(model), _) => Ok(Resolution::Here(Box::new(model))),
                (None, replace) => self.resolve_url(source, replace).await.map(Resolution::Files),
            },
            Source::Hub(name) => self.resolve_hub(name, request).await.map(Resolution::Files),
            Source::Ollama(name) => self.resolve_ollama(name, request).await.map(Resolution::Files),
        }
    }
}
