//! What every part of the running hive shares.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// The parts of one running hive. Handlers get it as [`AppState`].
#[derive(Debug)]
pub struct App {
    /// Its settings.
    pub config: Config,
    /// Where it serves.
    pub address: std::net::SocketAddr,
    /// Cancelled when the hive begins to stop.
    pub shutdown: CancellationToken,
}

/// The shared state of every handler.
pub type AppState = Arc<App>;
