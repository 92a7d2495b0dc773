//! The record of a worker: what a later run of the daemon needs to take the worker over.
//!
//! A worker outlives a daemon that is killed, so the record lies on disk from the moment there is a
//! process until its end was proven: `record.json` in the worker's folder, for its owner's eyes
//! alone, because the worker's secret is in it. It is replaced as a whole; a reader never sees half
//! of one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::devices::Device;
use super::identity::{self, Identity};
use super::start::StartRequest;
use crate::files;

/// A record is a line of JSON; more than this, in bytes, is not one.
const MAX_RECORD_BYTES: u64 = 256 << 10;

/// What is known of a worker's process, and what it was started for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Unique for ever. In the environment of every process of the worker, too.
    pub(super) worker_id: String,
    /// Of the run of the system that the process id is from.
    pub(super) boot_id: String,
    /// The leader of the worker's group.
    pub(super) process: Identity,
    /// RFC 3339.
    pub(super) started_at: jiff::Timestamp,
    /// The name of its engine.
    pub(super) engine: String,
    /// The device that it was put on.
    pub(super) device: Device,
    /// What was asked for: what a restart asks for again.
    pub(super) request: StartRequest,
    /// The worker's own secret.
    pub(super) secret: String,
    /// The TCP port on loopback, once the worker listens there.
    pub(super) port: Option<u16>,
    /// Whether it has answered that it is ready.
    pub(super) ready: bool,
}

impl Record {
    /// Puts the record into its place.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        files::put(path, &serde_json::to_vec(self)?).map(drop)
    }

    /// Reads a record.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        std::fs::File::open(path)?.take(MAX_RECORD_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Whether the record is from before the system was last started.
    pub(super) fn is_from_an_earlier_boot(&self) -> bool {
        self.boot_id != identity::boot_id()
    }
}

/// The records in the folder of the workers, in the order of their workers' starts.
///
/// # Errors
/// Where the folder cannot be read, or where others than this user may have written to it: a
/// record says whom to signal and whom to trust with requests.
pub(super) fn read_all(workers: &Path) -> io::Result<Vec<(PathBuf, io::Result<Record>)>> {
    use std::os::unix::fs::MetadataExt;

    let metadata = std::fs::metadata(workers)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "other users may enter it, so what it says of workers is not to be trusted",
        ));
    }
    let mut records = Vec::new();
    for entry in std::fs::read_dir(workers)? {
        let folder = entry?.path();
        match Record::read(&folder.join("record.json")) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            record => records.push((folder, record)),
        }
    }
    // Ids of workers are in the order of time.
    records.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(records)
}
