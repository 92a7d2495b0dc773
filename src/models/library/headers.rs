//! Summaries of the headers of model files, remembered while a file stays unchanged.
//!
//! Reading a header takes milliseconds, and listings are requested often. The cache holds the files of
//! the last listing and no others.

use std::fs::Metadata;
use std::io::{self, Cursor};
use std::path::Path;
use std::sync::Arc;

use crate::config::Sampling;
use crate::error::{Code, Failure};
use crate::models::gguf::{Arrays, GgufError, Header};
use crate::models::library::probe::DiskProbe;
use crate::models::library::stamp::StampCache;
use crate::models::model::Status;
use crate::models::needs::{Judge, Needs};
use crate::models::traits::Traits;
use crate::models::transfer::remote::{Refusal, Verdict};

/// The most files that are remembered.
const MAX_FILES: usize = 20_000;

/// What a listing shows of a header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeaderSummary {
    pub(crate) architecture: Option<String>,
    pub(crate) quantization: Option<String>,
    pub(crate) parameter_count: u64,
    pub(crate) context_length: Option<u64>,
    pub(crate) sampling: Option<Sampling>,
    pub(crate) traits: Traits,
    pub(crate) needs: Needs,
    pub(crate) kind: FileKind,
    /// What this hive does not know of the file.
    pub(crate) unknown: Option<String>,
}

/// What a GGUF file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Model,
    /// What turns images or sound into input of a model.
    Projector,
    /// Something else that belongs to a model, in words.
    Other(&'static str),
}

/// A summary, or why there is none.
pub(crate) type HeaderResult = Result<Arc<HeaderSummary>, Arc<FileProblem>>;

/// Why the file of a model is not simply available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileProblem {
    pub(crate) status: Status,
    /// For people.
    pub(crate) detail: String,
}

/// The headers of the files of the last listing.
#[derive(Debug)]
pub(crate) struct HeaderCache {
    summaries: StampCache<HeaderResult>,
    judge: Arc<Judge>,
}

impl Default for HeaderCache {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl HeaderCache {
    pub(crate) fn new(judge: Arc<Judge>) -> Self {
        Self { summaries: StampCache::new(MAX_FILES), judge }
    }

    /// The summary of the file at `path`, whose `metadata` (of the file itself, not of a link) `probe`
    /// has just read. Blocks on the disk.
    pub(crate) fn summary(&self, path: &Path, metadata: &Metadata, probe: &DiskProbe<'_>) -> HeaderResult {
        let read = || match Header::read(path, Arrays::Skip) {
            Ok(header) => Ok(Ok(Arc::new(HeaderSummary::of(&header, self.judge.needs(&header))))),
            Err(error @ GgufError::Io(_)) => {
                // The next listing may be able to read it.
                probe.mark_unstable();
                Err(Arc::new(error.into()))
            }
            Err(error) => Ok(Err(Arc::new(error.into()))),
        };
        self.summaries.get_or_read(path, metadata, read).and_then(|result| result)
    }

    /// Forgets each file that was not requested since the last call.
    pub(crate) fn forget_unused(&self) {
        self.summaries.forget_unused();
    }
}

impl HeaderSummary {
    fn of(header: &Header, needs: Needs) -> Self {
        Self {
            needs,
            architecture: header.architecture().map(printable),
            quantization: header.quantization(),
            parameter_count: header.parameter_count(),
            context_length: header.context_length(),
            sampling: header.sampling(),
            traits: Traits::of(header),
            kind: FileKind::of(header),
            unknown: header.unknown(),
        }
    }
}

impl From<GgufError> for FileProblem {
    fn from(error: GgufError) -> Self {
        let status = match &error {
            GgufError::Io(_) => Status::Unreadable,
            GgufError::Truncated { .. } => Status::Incomplete,
            GgufError::Unknown { .. } => Status::Unknown,
            GgufError::Malformed { .. } => Status::Corrupt,
        };
        Self { status, detail: printable(&error.to_string()) }
    }
}

impl FileKind {
    /// What a file with this header is (`general.type` of the GGUF specification; older vision projectors
    /// state the architecture `clip` only).
    fn of(header: &Header) -> Self {
        // The first part of a split model may have no tensors.
        let is_empty = header.tensors.is_empty() && header.metadata.get("split.count").is_none();
        match header.metadata.str("general.type") {
            Some("mmproj") => Self::Projector,
            Some("adapter") => Self::Other("an adapter"),
            Some("imatrix") => Self::Other("an importance matrix"),
            Some("vocab") => Self::Other("a vocabulary"),
            Some(kind) if kind != "model" => Self::Other("of another kind"),
            _ if header.architecture() == Some("clip") => Self::Projector,
            _ if is_empty && header.metadata.get("tokenizer.ggml.tokens").is_some() => {
                Self::Other("a vocabulary without weights")
            }
            _ => Self::Model,
        }
    }
}

/// What the file at `path` is, as far as its header can be read: a model otherwise. Blocks.
pub(crate) fn kind_of(path: &Path) -> FileKind {
    Header::read(path, Arrays::Skip).map_or(FileKind::Model, |header| FileKind::of(&header))
}

/// Whether a file can be a model of the catalog. Returns a warning where this hive does not know the file: an
/// engine may know it.
///
/// # Errors
/// [`Refusal::Unusable`] with [`Code::ModelCorrupt`] for a damaged file, with [`Code::ModelIncomplete`] for
/// one that ends too early, and with [`Code::ModelUnsupported`] for one that belongs to a model without
/// being one;
/// [`Refusal::Unfinished`] where the file cannot be read.
pub(crate) fn check_model(path: &Path) -> Result<Option<String>, Refusal> {
    check(path, false)
}

/// Whether a file can be a projector.
///
/// # Errors
/// As [`check_model`].
pub(crate) fn check_projector(path: &Path) -> Result<(), Refusal> {
    check(path, true).map(drop)
}

fn check(path: &Path, is_projector: bool) -> Result<Option<String>, Refusal> {
    match judge(path, Header::read(path, Arrays::Skip), is_projector) {
        Ok(Verdict::Unusable(failure)) => Err(Refusal::Unusable(failure)),
        Ok(Verdict::Usable { warning, .. }) => Ok(warning),
        Ok(Verdict::Undecided) => Ok(None),
        Err(error) => Err(Refusal::Unfinished(Failure::io("read", path, &error))),
    }
}

/// Whether a file with these first bytes can be a model of the catalog.
pub(crate) fn vet_model(name: &str, beginning: &[u8], size: Option<u64>) -> Verdict {
    vet(name, beginning, size, false)
}

/// The same, for a model of which is told already that no engine here can run it.
pub(crate) fn vet_foreign_model(name: &str, beginning: &[u8], size: Option<u64>) -> Verdict {
    match vet_model(name, beginning, size) {
        Verdict::Usable { warning, .. } => Verdict::Usable { warning, header: None },
        verdict => verdict,
    }
}

/// Whether a file with these first bytes can be a projector.
pub(crate) fn vet_projector(name: &str, beginning: &[u8], size: Option<u64>) -> Verdict {
    vet(name, beginning, size, true)
}

fn vet(name: &str, beginning: &[u8], size: Option<u64>, is_projector: bool) -> Verdict {
    let size = size.unwrap_or(i64::MAX as u64);
    let header = Header::from_reader(Cursor::new(beginning), size, Arrays::Skip);
    // The only failure of a reader of bytes in memory is that there are no more.
    judge(Path::new(name), header, is_projector).unwrap_or(Verdict::Undecided)
}

fn judge(path: &Path, header: Result<Header, GgufError>, is_projector: bool) -> io::Result<Verdict> {
    let (unknown, header) = match header {
        Ok(header) => match FileKind::of(&header) {
            FileKind::Projector if !is_projector => {
                return Ok(Verdict::Unusable(not_a_model(path, "a projector")));
            }
            FileKind::Other(what) => return Ok(Verdict::Unusable(not_a_model(path, what))),
            FileKind::Projector => (header.unknown(), None),
            // Of the parts of a split model, the first one tells what it is.
            FileKind::Model if header.architecture().is_none() => (header.unknown(), None),
            FileKind::Model => (header.unknown(), Some(Box::new(header))),
        },
        Err(error @ GgufError::Unknown { .. }) => (Some(error.to_string()), None),
        Err(GgufError::Io(error)) => return Err(error),
        Err(error) => return Ok(Verdict::Unusable(error.into_failure(path))),
    };
    let warning = |unknown| {
        format!("this hive does not know this kind of file ({unknown}); an engine that knows it can serve it")
    };
    Ok(Verdict::Usable { warning: unknown.map(warning), header })
}

fn not_a_model(path: &Path, what: &str) -> Failure {
    let message = format!("{} is not a model by itself, but {what}", path.display());
    Failure::new(Code::ModelUnsupported, message).hint("name the file of the model that it belongs to")
}

/// Text from a file of unknown origin, shortened and without control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::models::library::folders::FolderCache;
    use crate::models::testing;

    #[test]
    fn an_unchanged_file_is_read_once_and_a_changed_one_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let (headers, cache) = (HeaderCache::default(), FolderCache::default());
        let summary = || headers.summary(&path, &fs::metadata(&path).unwrap(), &DiskProbe::new(&cache));

        fs::write(&path, testing::gguf("llama")).unwrap();
        testing::age(&path);
        let first = summary().unwrap();
        assert_eq!(first.architecture.as_deref(), Some("llama"));
        assert!(Arc::ptr_eq(&first, &summary().unwrap()));
        fs::write(&path, b"nonsense").unwrap();
        let problem = summary().unwrap_err();
        assert_eq!(problem.status, Status::Corrupt);
        assert!(problem.detail.contains("magic"));
    }
}
