//! What a hive tells the fleet about itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::time::Instant;

/// What a hive tells the fleet about itself, with every sign of life. Fields of later versions are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct HiveRecord {
    /// Its name.
    pub(crate) hive: String,
    /// Its data folder, by an id that stays: the same folder may take its name over at once.
    pub(crate) folder: String,
    /// Its run: another one after each start.
    pub(crate) run: String,
    /// Its version.
    pub(crate) version: String,
    /// The name of its machine.
    pub(crate) hostname: String,
    /// Its process.
    pub(crate) pid: u32,
    /// The URL at which it serves.
    pub(crate) url: String,
    /// When it started, by its own clock.
    pub(crate) started_at: Instant,
    /// `linux` or `macos`, and the processor.
    pub(crate) platform: String,
    /// Its devices.
    pub(crate) devices: Vec<DeviceRecord>,
    /// How many models it has.
    pub(crate) models: usize,
    /// How many workers it has.
    pub(crate) workers: usize,
    /// How many jobs of it have not ended.
    pub(crate) jobs: usize,
}

/// A device of a hive, with its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct DeviceRecord {
    /// `cpu`, `cuda:0` and so on.
    pub(crate) device: String,
    /// All of its memory.
    pub(crate) capacity_bytes: u64,
    /// What is free of it.
    pub(crate) free_bytes: u64,
}
