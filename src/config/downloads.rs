//! `[downloads]`, `[hub]` and `[ollama]`: how models are downloaded, and from where.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How downloads run. The limit of concurrent downloads is in [`Jobs`](super::Jobs).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Downloads {
    /// Hosts (`name` or `name:port`) that downloads may reach over plain HTTP and on private
    /// addresses.
    pub allow_hosts: Vec<String>,
    /// The most connections that download one file together, 1 to 64.
    pub connections: usize,
    /// Bytes that are checksummed and recorded together, 4 KiB to 64 MiB. A kill loses less than
    /// twice that on each connection.
    pub chunk_bytes: u32,
    /// Bytes a second that all downloads together may take; 0 is no limit.
    pub bytes_per_second: u64,
    /// Bytes a second, on average over `timers.stall`, below which a connection counts as stalled.
    pub min_bytes_per_second: u64,
    /// Failures in a row, without progress between them, after which a download gives up.
    pub retries: u32,
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            allow_hosts: Vec::new(),
            connections: 8,
            chunk_bytes: 1 << 20,
            bytes_per_second: 0,
            min_bytes_per_second: 100,
            retries: 6,
        }
    }
}

/// The Hugging Face Hub. Where a setting is unset, the environment variable of huggingface_hub
/// applies.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hub {
    /// The address of the Hub or of a mirror. Unset means `HF_ENDPOINT`, else
    /// `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// The file with the access token. Unset means `HF_TOKEN`, else the file that `hf auth login`
    /// writes; an empty path means no token.
    #[schema(value_type = Option<String>)]
    pub token_file: Option<PathBuf>,
    /// Whether to use only what the cache has. Unset means `HF_HUB_OFFLINE`.
    pub offline: Option<bool>,
}

/// Ollama's library, and what stands in Ollama's place.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ollama {
    /// The address of the registry.
    pub endpoint: String,
    /// A second address to serve at, for clients that look for Ollama there. Any address but loopback needs a
    /// token.
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
}

impl Default for Ollama {
    fn default() -> Self {
        Self { endpoint: "https://registry.ollama.ai".to_owned(), listen: None }
    }
}
