//! `engines.json`: which builds are used, and which failed. Its paths are relative to the folder of the store, so
//! that the data folder can be moved.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Build, EngineId, FailedBuild, Installed};
use crate::error::{Code, Failure, Result};
use crate::files::versioned::{VERSION, Versioned, first_version};
use crate::{files, text};

/// A longer file, in bytes, is not one of these.
const MAX_BYTES: u64 = 1 << 20;

/// What the file says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Contents {
    #[serde(default = "first_version")]
    version: u64,
    engines: Vec<Entry>,
    #[serde(default)]
    pub(super) failures: Vec<FailedBuild>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Known(Box<Record>),
    /// An engine that this version of the hive does not know.
    Other(Value),
}

/// One engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: EngineId,
    pub(super) current: Build,
    #[serde(default)]
    pub(super) previous: Option<Build>,
    /// Milliseconds for which the current build has been used.
    #[serde(default)]
    pub(super) used_ms: u64,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// The records, or why they are not for this version to change.
#[derive(Debug)]
pub(super) enum Records {
    Open(Contents),
    Closed(String),
}

impl Default for Contents {
    fn default() -> Self {
        Self { version: VERSION, engines: Vec::new(), failures: Vec::new(), unknown: Map::new() }
    }
}

impl Contents {
    /// The engines that this version knows.
    pub(super) fn engines(&self) -> impl Iterator<Item = &Record> {
        self.engines.iter().filter_map(|entry| match entry {
            Entry::Known(record) => Some(&**record),
            Entry::Other(_) => None,
        })
    }

    pub(super) fn engine_mut(&mut self, id: EngineId) -> Option<&mut Record> {
        self.engines.iter_mut().find_map(|entry| match entry {
            Entry::Known(record) if record.id == id => Some(&mut **record),
            _ => None,
        })
    }

    /// Whether every engine is one that this version knows.
    pub(super) fn is_all_known(&self) -> bool {
        self.engines().count() == self.engines.len()
    }

    /// Makes a build the current one of its engine. The one that was current becomes the previous one, if it is
    /// `whole`.
    pub(super) fn promote(&mut self, id: EngineId, build: Build, whole: bool) {
        match self.engine_mut(id) {
            Some(record) => {
                let replaced = std::mem::replace(&mut record.current, build);
                if whole {
                    record.previous = Some(replaced);
                }
                record.used_ms = 0;
            }
            None => {
                let record = Record { id, current: build, previous: None, used_ms: 0, unknown: Map::new() };
                self.engines.push(Entry::Known(Box::new(record)));
            }
        }
    }

    /// Forgets an engine.
    pub(super) fn forget(&mut self, id: EngineId) {
        self.engines.retain(|entry| !matches!(entry, Entry::Known(record) if record.id == id));
    }

    /// The folders that are named, relative to that of the store.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let builds = self.engines().flat_map(|record| [Some(&record.current), record.previous.as_ref()]);
        let of_builds = builds.flatten().map(folder_of);
        let of_failures = self.failures.iter().filter_map(|failed| Some(failed.log.parent()?.to_owned()));
        of_builds.chain(of_failures).collect()
    }

    /// Whether its paths lead into folders of builds.
    fn is_sound(&self) -> bool {
        let mut builds = self.engines().flat_map(|record| [Some(&record.current), record.previous.as_ref()]);
        builds.all(|build| build.is_none_or(|build| is_inside(&build.program)))
            && self.failures.iter().all(|failed| is_inside(&failed.log))
    }
}

impl Record {
    /// The engine, with paths under the folder of the store.
    pub(super) fn installed(&self, store: &Path) -> Installed {
        let at = |build: &Build| Build { program: store.join(&build.program), ..build.clone() };
        Installed {
            id: self.id,
            current: at(&self.current),
            previous: self.previous.as_ref().map(at),
            used: Duration::from_millis(self.used_ms),
        }
    }
}

impl Records {
    /// Reads the file. What is damaged is set aside.
    pub(super) fn read(file: &Path) -> Self {
        let path = file.display();
        let bytes = match files::read(file, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::Open(Contents::default()),
            Err(error) => return Self::closed(format!("{path} cannot be read: {error}")),
        };
        match Versioned::<Contents>::parse(&bytes) {
            Versioned::Known(contents) if contents.is_sound() => Self::Open(contents),
            Versioned::Newer => {
                Self::closed(format!("a newer version of rbee-hive wrote {path}, and it is left alone"))
            }
            Versioned::Known(_) | Versioned::Invalid => match files::set_aside(file) {
                Ok(kept_as) => {
                    tracing::warn!(
                        %path, kept_as = %kept_as.display(),
                        "the records of the installed engines are damaged and were set aside: install the engines anew"
                    );
                    Self::Open(Contents::default())
                }
                Err(error) => Self::closed(format!("{path} is damaged, and could not be set aside: {error}")),
            },
        }
    }

    fn closed(why: String) -> Self {
        tracing::warn!("no installed engine is used, and none can be installed: {why}");
        Self::Closed(why)
    }

    /// The contents, where they are for this version.
    pub(super) fn contents(&self) -> Option<&Contents> {
        match self {
            Self::Open(contents) => Some(contents),
            Self::Closed(_) => None,
        }
    }

    /// The contents to change.
    ///
    /// # Errors
    /// [`Code::Io`]: they are not for this version.
    pub(super) fn contents_mut(&mut self) -> Result<&mut Contents> {
        match self {
            Self::Open(contents) => Ok(contents),
            Self::Closed(why) => {
                let message = format!("the records of the installed engines cannot be changed: {why}");
                Err(Failure::new(Code::Io, message)
                    .hint("run the version of rbee-hive that wrote the file, or move the file away"))
            }
        }
    }

    /// Makes a change and writes it to `file`. Where either fails, nothing has changed.
    pub(super) fn change<T>(
        &mut self,
        file: &Path,
        change: impl FnOnce(&mut Contents) -> Result<T>,
    ) -> Result<T> {
        let contents = self.contents_mut()?;
        let mut changed = contents.clone();
        let result = change(&mut changed)?;
        files::put_durable(file, text::json(&changed).as_bytes())
            .map_err(|error| Failure::io("write", file, &error))?;
        *contents = changed;
        Ok(result)
    }
}

/// The folder of a build whose program is relative to the folder of the store: `ID/VERSION`.
pub(super) fn folder_of(build: &Build) -> PathBuf {
    build.program.components().take(2).collect()
}

fn is_inside(path: &Path) -> bool {
    path.components().count() > 2 && path.components().all(|part| matches!(part, Component::Normal(_)))
}
