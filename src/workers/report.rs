//! The readiness report: the small file in which a worker tells which port it listens on, or why it
//! cannot serve.

use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::error::Failure;
use crate::files;

/// A report is one line of JSON; a longer file, in bytes, is not a report.
const MAX_REPORT_BYTES: u64 = 256 << 10;

/// What a worker reports. It replaces the file atomically, by a rename.
#[derive(Debug, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum ReadinessReport {
    /// It listens on loopback and loads its model.
    Listening {
        /// The TCP port.
        port: u16,
    },
    /// It cannot serve, and is about to end.
    Failed {
        /// Why, as the user reads it.
        failure: Failure,
    },
}

/// Reads the report; `None` where the worker has not written one yet.
///
/// # Errors
/// Where the file exists and cannot be read or is not a report.
pub(super) fn read(path: &Path) -> io::Result<Option<ReadinessReport>> {
    match files::read(path, MAX_REPORT_BYTES) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn reports_are_read_and_other_files_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        assert!(read(&path).unwrap().is_none());
        std::fs::write(&path, r#"{"state":"listening","port":4711,"pid":1}"#).unwrap();
        assert!(matches!(read(&path).unwrap(), Some(ReadinessReport::Listening { port: 4711 })));
        let failed = r#"{"state":"failed","failure":{"code":"model_corrupt","message":"m","hint":"h","causes":["c"]}}"#;
        std::fs::write(&path, failed).unwrap();
        let Some(ReadinessReport::Failed { failure }) = read(&path).unwrap() else { panic!("not a failure") };
        assert_eq!((failure.code, failure.causes), (Code::ModelCorrupt, vec!["c".to_owned()]));
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).is_err());
    }
}
