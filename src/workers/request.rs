//! What a caller asks of a new worker.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::device::Device;
use crate::paths;

/// The request for a new worker. The worker's record holds it, so that a restart can repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The id of the model.
    pub model_id: String,
    /// The file of the model.
    #[serde(with = "paths::exact")]
    pub model_path: PathBuf,
    /// `auto`, a kind of device (`cpu`, `cuda`, ...) or the name of an engine.
    pub engine: String,
    /// The device.
    pub device: Device,
    /// Tokens of context of each slot. Unset leaves the choice to the engine.
    pub context_length: Option<u64>,
    /// Slots: requests that it answers at once. Unset leaves the choice to the engine.
    pub slots: Option<u32>,
    /// Whether to start it although its memory does not seem to suffice.
    #[serde(default)]
    pub force: bool,
}
