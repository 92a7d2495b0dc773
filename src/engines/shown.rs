//! Installed engines as the wire has them.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::config::DeviceKind;
use crate::engine_store::{Build, EngineId, FailedBuild, Installed, Measured, Provenance};
use crate::paths;
use crate::time::Instant;

/// An installed engine: what existing clients call an installed worker.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct InstalledEngine {
    id: EngineId,
    name: String,
    worker_type: DeviceKind,
    platform: &'static str,
    #[serde(flatten)]
    current: ShownBuild,
    /// The version that can be gone back to.
    previous: Option<ShownBuild>,
    /// Seconds for which the current version has been used; the previous one goes after a while of use.
    used_seconds: u64,
    /// The process ids of the workers that run it.
    workers: Vec<u32>,
}

/// One version of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = EngineBuild)]
struct ShownBuild {
    version: String,
    reported_version: Option<String>,
    /// In bytes.
    size: u64,
    #[serde(serialize_with = "paths::shown")]
    #[schema(value_type = String)]
    path: PathBuf,
    added_at: Instant,
    from: Provenance,
    sha256: Option<String>,
    measured: Option<Measured>,
}

/// A build that did not prove itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FailedEngine {
    id: EngineId,
    version: String,
    from: Provenance,
    failed_at: Instant,
    reason: String,
    #[serde(serialize_with = "paths::shown")]
    #[schema(value_type = String)]
    log: PathBuf,
}

impl InstalledEngine {
    pub(super) fn new(installed: Installed, workers: Vec<u32>) -> Self {
        let Installed { id, current, previous, used } = installed;
        Self {
            id,
            name: name_of(id),
            worker_type: id.kind,
            platform: std::env::consts::OS,
            current: current.into(),
            previous: previous.map(Into::into),
            used_seconds: used.as_secs(),
            workers,
        }
    }
}

impl From<Build> for ShownBuild {
    fn from(build: Build) -> Self {
        Self {
            version: build.version,
            reported_version: build.reported_version,
            size: build.size_bytes,
            path: build.program,
            added_at: instant(build.added_at),
            from: build.from,
            sha256: build.archive_sha256,
            measured: build.measured,
        }
    }
}

impl From<FailedBuild> for FailedEngine {
    fn from(failed: FailedBuild) -> Self {
        let FailedBuild { id, version, from, failed_at, reason, log, .. } = failed;
        Self { id, version, from, failed_at: instant(failed_at), reason, log }
    }
}

/// The name of an engine for people.
pub(super) fn name_of(id: EngineId) -> String {
    let kind = match id.kind {
        DeviceKind::Cpu => "processor",
        DeviceKind::Cuda => "CUDA",
        DeviceKind::Metal => "Metal",
        DeviceKind::Rocm => "ROCm",
        DeviceKind::Vulkan => "Vulkan",
    };
    format!("llama-server ({kind})")
}

pub(super) fn instant(time: Timestamp) -> Instant {
    Instant(time.as_millisecond())
}
