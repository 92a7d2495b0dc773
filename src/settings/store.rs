//! The file of what operations have set: `model-settings.json` in the data folder.
//!
//! It has the version of its format; fields that this version does not know are kept. A file of a newer version
//! is left alone, and nothing can be set then. A damaged one is set aside.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Code, Failure, Result};
use crate::files;
use crate::files::versioned::{VERSION, Versioned, first_version};

/// The longest file, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// What operations have set.
#[derive(Debug)]
pub(super) struct Store {
    file: PathBuf,
    /// By model: fields as in the configuration.
    pub(super) set: Map<String, Value>,
    /// Further fields of the file.
    unknown: Map<String, Value>,
    /// Why it cannot be written.
    obstacle: Option<&'static str>,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    #[serde(default = "first_version")]
    version: u64,
    #[serde(default)]
    models: Map<String, Value>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Store {
    /// Reads the file; where there is none, nothing was set.
    pub(super) fn open(file: PathBuf) -> Self {
        let mut store = Self { file, set: Map::new(), unknown: Map::new(), obstacle: None };
        match files::read(&store.file, MOST_BYTES) {
            Ok(json) => store.take(&json),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %store.file.display(), %error, "the settings that were set cannot be read");
                store.obstacle = Some("it cannot be read");
            }
        }
        store
    }

    fn take(&mut self, json: &[u8]) {
        let file = self.file.display();
        match Versioned::<Contents>::parse(json) {
            Versioned::Known(contents) => {
                self.set = contents.models;
                self.unknown = contents.unknown;
            }
            Versioned::Newer => {
                tracing::warn!(%file, "a newer version of rbee-hive wrote it: it is left alone and does not count");
                self.obstacle = Some("a newer version of rbee-hive wrote it");
            }
            Versioned::Invalid => match files::set_aside(&self.file) {
                Ok(kept_as) => tracing::warn!(
                    %file, kept_as = %kept_as.display(),
                    "it is damaged and was set aside: what ModelSettingsSet had set does not count"
                ),
                Err(error) => {
                    tracing::warn!(%file, %error, "it is damaged and is left alone");
                    self.obstacle = Some("it is damaged");
                }
            },
        }
    }

    /// Replaces what was set, on the disk and here. Blocks.
    ///
    /// # Errors
    /// [`Code::Io`] or what the file system says; nothing has changed then.
    pub(super) fn write(&mut self, set: Map<String, Value>) -> Result<()> {
        if let Some(obstacle) = self.obstacle {
            let message = format!("{} is not changed: {obstacle}", self.file.display());
            return Err(Failure::new(Code::Io, message)
                .hint("set it in the configuration file, or move that file away and restart the hive"));
        }
        let contents = Contents { version: VERSION, models: set, unknown: self.unknown.clone() };
        serde_json::to_vec_pretty(&contents)
            .map_err(io::Error::from)
            .and_then(|json| files::put_durable(&self.file, &json))
            .map_err(|error| Failure::io("write", &self.file, &error))?;
        self.set = contents.models;
        Ok(())
    }
}
