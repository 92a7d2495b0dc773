//! A build of an engine: one version of it, on disk.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::EngineId;
use crate::paths;

/// One version of an engine, complete and proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// The release (`b6789`), or the version of the package that had the sources (`0.3.36`).
    pub version: String,
    /// What the program says of itself with `--version`.
    pub reported_version: Option<String>,
    /// The executable.
    #[serde(with = "paths::exact")]
    pub program: PathBuf,
    /// The bytes of all its files.
    pub size_bytes: u64,
    /// When it was installed.
    pub added_at: Timestamp,
    /// Where it comes from.
    pub from: Provenance,
    /// The SHA-256 of the archive that it or its sources came in, in lower-case hexadecimal.
    pub archive_sha256: Option<String>,
    /// Tokens a second that it wrote when it was tried, with the model that it was tried with.
    pub measured: Option<Measured>,
    /// What a later version of the hive wrote besides.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Build {
    /// A build that was made now, of which no more is known.
    #[must_use]
    pub fn new(version: String, program: PathBuf, from: Provenance) -> Self {
        Self {
            version,
            reported_version: None,
            program,
            size_bytes: 0,
            added_at: Timestamp::now(),
            from,
            archive_sha256: None,
            measured: None,
            unknown: Map::new(),
        }
    }
}

/// Where a build comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// An archive of a release.
    Release,
    /// Built on this machine from sources.
    Source,
    /// The archive that the settings name.
    Archive,
}

/// How fast a build was with a model of this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Measured {
    /// The id of the model.
    pub model: String,
    /// Tokens of the prompt that it read in a second.
    pub prompt_per_second: f64,
    /// Tokens that it wrote in a second.
    pub tokens_per_second: f64,
}

/// A build that did not prove itself. It is never used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedBuild {
    /// The engine that it was to be.
    pub id: EngineId,
    /// Its version.
    pub version: String,
    /// Where it comes from.
    pub from: Provenance,
    /// When it failed.
    pub failed_at: Timestamp,
    /// Why, for people.
    pub reason: String,
    /// The file that has what it printed.
    #[serde(with = "paths::exact")]
    pub log: PathBuf,
    /// What a later version of the hive wrote besides.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// An engine that is installed.
#[derive(Clone, Debug, PartialEq)]
pub struct Installed {
    /// Its id.
    pub id: EngineId,
    /// The version that is used.
    pub current: Build,
    /// The version before, which can be gone back to.
    pub previous: Option<Build>,
    /// How long the current one has been used since it was installed.
    pub used: Duration,
}
