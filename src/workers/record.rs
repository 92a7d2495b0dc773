//! The record of a worker: what a later daemon needs to adopt the worker.
//!
//! A worker outlives a daemon that is killed, so its record is on disk from the start of its process
//! until its end is proven: `record.json` in the worker's folder. Only the user who runs the hive can
//! read it, because it holds the worker's secret. It is replaced as a whole, so a reader never sees
//! half of it.
//!
//! A record has the version of its format; one without it is of version 1. Rewriting a record keeps
//! the fields that this version does not know. A record of a newer version is never rewritten, and
//! its worker is neither adopted nor ended.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::map::Entry;

use super::device::Device;
use super::folder::WorkerFolder;
use super::identity::{self, Identity};
use super::place::Share;
use super::request::{StartRequest, is_default};
use crate::{files, paths};

/// The format that this hive writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u64 = 1;
/// A record is one line of JSON; a longer file, in bytes, is not a record.
const MAX_RECORD_BYTES: u64 = 256 << 10;

/// What is known of a worker's process, and the request that it was started for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct WorkerRecord {
    /// Unique for ever. The environment of every process of the worker has it too.
    pub(super) worker_id: String,
    /// The boot of the system that the process id belongs to.
    pub(super) boot_id: String,
    /// The leader of the worker's process group.
    pub(super) process: Identity,
    /// RFC 3339.
    pub(super) started_at: jiff::Timestamp,
    /// The name of its engine.
    pub(super) engine: String,
    /// The engine's executable.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "paths::exact_option")]
    pub(super) program: Option<PathBuf>,
    /// The device that it computes on.
    pub(super) device: Device,
    /// Which part of the model is on which device; empty where all of it is on `device`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) split: Vec<Share>,
    /// What was requested; a restart requests the same.
    pub(super) request: StartRequest,
    /// Tokens of context of each slot, where the hive had planned it.
    #[serde(default)]
    pub(super) context_length: Option<u64>,
    /// The worker's secret.
    pub(super) secret: String,
    /// The TCP port on loopback, once the worker listens on it.
    pub(super) port: Option<u16>,
    /// Whether it has answered that it is ready.
    pub(super) ready: bool,
    /// Whether it tries an engine: no later daemon adopts it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) trial: bool,
}

/// A record with its version, as it is written.
#[derive(Serialize)]
struct Versioned<'a> {
    version: u64,
    #[serde(flatten)]
    record: &'a WorkerRecord,
}

/// What a record's file holds.
#[derive(Debug)]
pub(super) enum StoredRecord {
    /// A record that this hive can read.
    Readable(Box<WorkerRecord>),
    /// A record of a version that this hive cannot read.
    Newer {
        /// The version, as it is written in the file.
        version: String,
        /// The process id of the worker, where the file has it in the same place.
        pid: Option<u32>,
    },
}

impl WorkerRecord {
    /// Writes the record to `path`. Fields of a record that is there already and that this version
    /// does not know are kept.
    ///
    /// # Errors
    /// What the file system says, or that the record at `path` has a newer version.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut json = serde_json::to_value(Versioned { version: FORMAT_VERSION, record: self })?;
        if let Ok(stored) = read_json(path) {
            if let Some(version) = newer_version(&stored) {
                return Err(io::Error::other(format!("the record there has the newer version {version}")));
            }
            keep_unknown(&mut json, stored);
        }
        files::put(path, &serde_json::to_vec(&json)?).map(drop)
    }

    /// Whether the record was written before the system's last boot.
    pub(super) fn is_from_an_earlier_boot(&self) -> bool {
        self.boot_id != identity::boot_id()
    }
}

impl StoredRecord {
    /// Reads a record's file.
    ///
    /// # Errors
    /// Where the file cannot be read or is not a record.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let json = read_json(path)?;
        if let Some(version) = newer_version(&json) {
            let pid = json["process"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            return Ok(Self::Newer { version, pid });
        }
        Ok(Self::Readable(Box::new(serde_json::from_value(json)?)))
    }
}

fn read_json(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&files::read(path, MAX_RECORD_BYTES)?)?)
}

/// The version of a record that this hive cannot read. A version that is not a number is a newer one.
fn newer_version(record: &Value) -> Option<String> {
    let version = record.get("version")?;
    let is_known = version.as_u64().is_some_and(|version| version <= FORMAT_VERSION);
    (!is_known).then(|| version.to_string())
}

/// Adds the fields of `stored` that `record` does not have, at every depth.
fn keep_unknown(record: &mut Value, stored: Value) {
    let (Value::Object(record), Value::Object(stored)) = (record, stored) else { return };
    for (name, value) in stored {
        match record.entry(name) {
            Entry::Vacant(unknown) => drop(unknown.insert(value)),
            Entry::Occupied(mut known) => keep_unknown(known.get_mut(), value),
        }
    }
}

/// The records of these workers, with the folder of each. A folder without a record is left out.
pub(super) fn read_all(folders: Vec<WorkerFolder>) -> Vec<(WorkerFolder, io::Result<StoredRecord>)> {
    let records = folders.into_iter().map(|folder| (StoredRecord::read(&folder.record()), folder));
    let is_there = |record: &io::Result<StoredRecord>| {
        let kind = record.as_ref().err().map(io::Error::kind);
        !matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    };
    records.filter(|(record, _)| is_there(record)).map(|(record, folder)| (folder, record)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceKind;

    /// Written by rbee-hive before records had versions; see tests/fixtures/records/workers/README.md.
    const FIXTURE: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records/workers/without-version/record.json");

    fn readable(path: &Path) -> WorkerRecord {
        match StoredRecord::read(path).unwrap() {
            StoredRecord::Readable(record) => *record,
            newer @ StoredRecord::Newer { .. } => panic!("{newer:?}"),
        }
    }

    #[test]
    fn a_record_without_a_version_is_read_and_gets_one_when_it_is_rewritten() {
        let record = readable(Path::new(FIXTURE));
        assert_eq!(record.engine, "builtin");
        assert_eq!(record.device, Device::Exact { kind: DeviceKind::Cpu, index: 0 });
        assert_eq!((record.request.model_id.as_str(), record.ready), ("tiny", true));
        assert!(record.port.is_some() && record.secret.len() == 64 && record.process.pid > 1);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        std::fs::copy(FIXTURE, &path).unwrap();
        record.write(&path).unwrap();
        assert_eq!(read_json(&path).unwrap()["version"], FORMAT_VERSION);
        assert_eq!(readable(&path), record);
    }

    #[test]
    fn unknown_fields_are_kept_when_a_record_is_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        let mut json = read_json(Path::new(FIXTURE)).unwrap();
        json["note"] = "kept".into();
        json["request"]["keep_alive"] = "30s".into();
        json["request"]["draft_model"] = serde_json::json!({ "id": "draft", "tokens": 4 });
        std::fs::write(&path, json.to_string()).unwrap();
        let record = WorkerRecord { port: Some(1), ..readable(&path) };
        record.write(&path).unwrap();
        let rewritten = read_json(&path).unwrap();
        assert_eq!((&rewritten["note"], &rewritten["port"]), (&json["note"], &1.into()));
        assert_eq!(rewritten["request"], json["request"]);
    }

    #[test]
    fn a_record_of_a_newer_version_is_recognised_and_never_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        let record = readable(Path::new(FIXTURE));
        for (version, as_read) in [("2", "2"), ("\"next\"", "\"next\""), ("-1", "-1")] {
            let text = format!(r#"{{"version":{version},"process":{{"pid":7}},"other":[]}}"#);
            std::fs::write(&path, &text).unwrap();
            let StoredRecord::Newer { version, pid } = StoredRecord::read(&path).unwrap() else {
                panic!("{text}")
            };
            assert_eq!((version.as_str(), pid), (as_read, Some(7)));
            record.write(&path).unwrap_err();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, "[]").unwrap();
        StoredRecord::read(&path).unwrap_err();
    }
}
