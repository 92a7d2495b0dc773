//! What a source may use of this hive.

use std::sync::Arc;

use reqwest::Url;

use crate::models::library::Library;
use crate::models::needs::Judge;
use crate::models::sources::hub_endpoint::HubEndpoint;
use crate::models::transfer::fetch::FetchConfig;

/// Where sources look for models and where they put them.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) library: Arc<Library>,
    /// How other servers are asked.
    pub(crate) fetch: FetchConfig,
    /// The Hugging Face Hub.
    pub(crate) hub: HubEndpoint,
    /// Ollama's registry.
    pub(crate) ollama: Url,
    /// Says which engines can run a model.
    pub(crate) judge: Arc<Judge>,
    /// Whether only this machine can reach the hive: then its callers may name any file.
    pub(crate) is_local: bool,
}
