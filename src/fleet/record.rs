//! What a hive tells the fleet about itself.

use std::fmt;

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
    /// The URL at which other hives reach it directly; null where none can.
    pub(crate) direct: Option<String>,
    /// When it started, by its own clock.
    pub(crate) started_at: Instant,
    /// `linux` or `macos`, and the processor.
    pub(crate) platform: String,
    /// Whether it made the fleet, and so lets machines in and expels hives.
    pub(crate) lets_in: bool,
    /// Its devices.
    pub(crate) devices: Vec<DeviceRecord>,
    /// What is free of the disk that downloads go to; null where the disk does not tell.
    pub(crate) disk_free_bytes: Option<u64>,
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

/// The entry of a hive in the bucket: its record, and what is for hives alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    #[serde(flatten)]
    pub(super) record: HiveRecord,
    /// What lets other hives of its machine in, where it has no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Secret>,
}

impl From<HiveRecord> for Told {
    fn from(record: HiveRecord) -> Self {
        Self { record, secret: None }
    }
}

/// A secret that hives share. Never printed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
