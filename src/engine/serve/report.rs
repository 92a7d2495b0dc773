//! The file by which a worker tells whoever started it where it listens, or why it failed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Failure, Result};
use crate::spawn;

/// Written whole or not at all: a reader never sees half of it. Readable by its owner alone.
pub(super) struct Report(Option<PathBuf>);

impl Report {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    pub(super) async fn listening(&self, port: u16) -> Result<()> {
        self.write(json!({"state": "listening", "port": port, "pid": std::process::id()})).await
    }

    pub(super) async fn failed(&self, failure: &Failure) -> Result<()> {
        self.write(json!({"state": "failed", "failure": failure})).await
    }

    async fn write(&self, contents: Value) -> Result<()> {
        let Some(path) = self.0.clone() else { return Ok(()) };
        spawn::blocking(move || {
            replace(&path, contents.to_string().as_bytes())
                .map_err(|error| Failure::io("write", &path, &error).stage("start"))
        })
        .await
        .map_err(|error| Failure::internal("the report's writer panicked").detail(error))?
    }
}

fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // Best effort: the error that led here is the one to report.
        fs::remove_file(&temporary).ok();
    })
}
