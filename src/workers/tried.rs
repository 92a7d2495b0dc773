//! Which architectures, types of tensors and ways to split words an engine was tried with, and whether it knew them:
//! `DATA_DIR/engine-support.json`.
//!
//! A trial belongs to an engine with its version and [files](ProgramFiles): once these change, all of its trials are
//! forgotten. The last trial counts.

use std::fmt;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::engines::told::ProgramFiles;
use crate::files;
use crate::files::versioned::{self, VERSION, first_version};
use crate::models::Needs;

/// The most trials that are kept; the earliest go first.
const MOST_TRIALS: usize = 512;
/// A longer file, in bytes, is not one of these.
const MAX_BYTES: u64 = 4 << 20;

/// Something that an engine knows or does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub(super) enum Subject {
    Architecture(String),
    /// By its number in the file.
    TensorType(u32),
    PreTokenizer(String),
}

impl Subject {
    /// All that a model needs.
    pub(super) fn all(needs: &Needs) -> impl Iterator<Item = Self> {
        let architecture = needs.architecture.clone().map(Self::Architecture);
        let types = needs.tensor_types.iter().map(|kind| Self::TensorType(kind.id()));
        let pre_tokenizer = needs.pre_tokenizer.clone().map(Self::PreTokenizer);
        architecture.into_iter().chain(types).chain(pre_tokenizer)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Architecture(name) => write!(f, "the architecture '{name}'"),
            Self::TensorType(id) => {
                write!(f, "tensors of the type {}", crate::models::gguf::TensorType::from_id(*id))
            }
            Self::PreTokenizer(name) => write!(f, "the pre-tokenizer '{name}'"),
        }
    }
}

/// An engine as trials belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrialOf {
    pub(super) engine: String,
    pub(super) version: Option<String>,
    pub(super) files: ProgramFiles,
}

/// One trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trial {
    of: TrialOf,
    subject: Subject,
    /// Whether the engine knew it.
    pub(super) known: bool,
    pub(super) at: Timestamp,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    #[serde(default = "first_version")]
    version: u64,
    trials: Vec<Trial>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { version: VERSION, trials: Vec::new(), unknown: Map::new() }
    }
}

/// The trials of one hive.
#[derive(Debug)]
pub(super) struct Tried {
    path: PathBuf,
    /// `None` where the file is not for this version to change. Never locked while the disk is used.
    contents: Mutex<Option<Contents>>,
    /// Held while the file is written. Locked only on the blocking pool.
    writing: Mutex<()>,
}

impl Tried {
    /// The trials of that file. Blocks.
    pub(super) fn open(path: PathBuf) -> Self {
        let contents = versioned::load(&path, MAX_BYTES, "nothing is learned of engines");
        Self { path, contents: Mutex::new(contents), writing: Mutex::default() }
    }

    /// The last trial of an engine with that subject.
    pub(super) fn last(&self, of: &TrialOf, subject: &Subject) -> Option<Trial> {
        let contents = self.contents.lock();
        contents.as_ref()?.trials.iter().find(|trial| trial.of == *of && trial.subject == *subject).cloned()
    }

    /// Keeps what a trial of an engine showed of these subjects. Blocks.
    pub(super) fn keep(&self, of: &TrialOf, subjects: impl Iterator<Item = Subject>, known: bool) {
        let _writing = self.writing.lock();
        let json = {
            let mut contents = self.contents.lock();
            let Some(contents) = &mut *contents else { return };
            if !add(&mut contents.trials, of, subjects, known) {
                return;
            }
            serde_json::to_vec(contents)
        };
        let kept = json.map_err(io::Error::from).and_then(|json| files::put(&self.path, &json));
        if let Err(error) = kept {
            tracing::warn!(path = %self.path.display(), %error, "could not keep what an engine knows");
        }
    }
}

/// Returns whether something has changed.
fn add(trials: &mut Vec<Trial>, of: &TrialOf, subjects: impl Iterator<Item = Subject>, known: bool) -> bool {
    let before = trials.len();
    let is_outdated =
        |trial: &Trial| trial.of.engine == of.engine && trial.of.files.is_of(&of.files) && trial.of != *of;
    trials.retain(|trial| !is_outdated(trial));
    let mut changed = trials.len() != before;
    for subject in subjects {
        let known_before = trials.iter().position(|trial| trial.of == *of && trial.subject == subject);
        if known_before.is_some_and(|at| trials[at].known == known) {
            continue;
        }
        known_before.map(|at| trials.remove(at));
        if trials.len() >= MOST_TRIALS {
            trials.remove(0);
        }
        let (of, at, unknown) = (of.clone(), Timestamp::now(), Map::new());
        trials.push(Trial { of, subject, known, at, unknown });
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(folder: &std::path::Path, contents: &str, version: &str) -> TrialOf {
        let program = folder.join("llama-server");
        std::fs::write(&program, contents).unwrap();
        let files = ProgramFiles::now(&program).unwrap();
        TrialOf { engine: "llama-server".to_owned(), version: Some(version.to_owned()), files }
    }

    #[test]
    fn trials_are_remembered_until_the_engine_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine-support.json");
        let subject = Subject::Architecture("mamba9".to_owned());
        let old = engine(folder.path(), "old", "1");
        let tried = Tried::open(path.clone());
        tried.keep(&old, [subject.clone(), Subject::TensorType(12)].into_iter(), false);
        tried.keep(&old, std::iter::once(Subject::TensorType(12)), true);
        let again = Tried::open(path.clone());
        assert!(!again.last(&old, &subject).unwrap().known);
        assert!(again.last(&old, &Subject::TensorType(12)).unwrap().known, "the last trial counts");
        let newer = engine(folder.path(), "newer", "1");
        assert_eq!(again.last(&newer, &subject), None, "it is another engine");
        again.keep(&newer, std::iter::once(Subject::PreTokenizer("x".to_owned())), true);
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["trials"].as_array().unwrap().len(), 1, "those of the old one are forgotten: {json}");
        assert_eq!(json["trials"][0]["subject"], serde_json::json!({ "kind": "pre_tokenizer", "name": "x" }));
    }

    #[test]
    fn the_file_of_the_first_version_is_read_and_what_is_unknown_in_it_kept() {
        let fixture = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/records/engine-support/version-1/engine-support.json"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine-support.json");
        std::fs::copy(fixture, &path).unwrap();
        let tried = Tried::open(path.clone());
        let of = tried.contents.lock().as_ref().unwrap().trials[0].of.clone();
        assert!(!tried.last(&of, &Subject::Architecture("mamba9".to_owned())).unwrap().known);
        assert!(tried.last(&of, &Subject::TensorType(12)).unwrap().known);
        tried.keep(&of, std::iter::once(Subject::PreTokenizer("x".to_owned())), true);
        let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(written["trials"][1]["mood"], "kept", "{written}");
    }

    #[test]
    fn what_is_known_already_is_not_written_and_a_newer_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine-support.json");
        let of = engine(folder.path(), "p", "1");
        let subject = || std::iter::once(Subject::Architecture("llama".to_owned()));
        let mut trials = Vec::new();
        assert!(add(&mut trials, &of, subject(), true));
        assert!(!add(&mut trials, &of, subject(), true));
        assert!(add(&mut trials, &of, subject(), false));
        assert_eq!(trials.len(), 1);

        std::fs::write(&path, r#"{"version":2,"trials":"other"}"#).unwrap();
        let tried = Tried::open(path.clone());
        tried.keep(&of, subject(), false);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"version":2,"trials":"other"}"#);
    }
}
