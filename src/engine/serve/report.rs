//! The file by which a worker tells the process that started it where it listens, or why it failed.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::error::{Failure, Result};
use crate::{files, spawn};

/// The report file, if one was asked for. It is replaced as a whole, and readable by its owner alone.
pub(super) struct ReportFile(Option<PathBuf>);

impl ReportFile {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    /// Reports the port of a worker that listens and loads its model.
    pub(super) async fn listening(&self, port: u16) -> Result<()> {
        self.write(json!({"state": "listening", "port": port, "pid": std::process::id()})).await
    }

    /// Reports why the worker ends.
    pub(super) async fn failed(&self, failure: &Failure) -> Result<()> {
        self.write(json!({"state": "failed", "failure": failure})).await
    }

    async fn write(&self, contents: Value) -> Result<()> {
        let Some(path) = self.0.clone() else { return Ok(()) };
        spawn::blocking(move || {
            files::put(&path, contents.to_string().as_bytes())
                .map(drop)
                .map_err(|error| Failure::io("write", &path, &error).stage("start"))
        })
        .await?
    }
}
