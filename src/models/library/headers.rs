//! What the catalog knows of a file's contents: a summary of its header, kept in memory for as long
//! as the file stays as it is.
//!
//! Reading a header takes milliseconds and a listing is asked for often, so a summary is reused
//! while the path leads to a file of the same identity, size and time of change. The cache holds
//! the files of the last listing and nothing else.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Code, Failure};
use crate::models::gguf::{Arrays, GgufError, Header};
use crate::models::library::folders::Stamp;
use crate::models::library::look::Look;
use crate::models::transfer::remote::Refusal;

/// The most files that are remembered.
const MAX_FILES: usize = 20_000;

/// What a listing shows of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) architecture: Option<String>,
    pub(crate) quantization: Option<String>,
    pub(crate) parameter_count: u64,
    pub(crate) context_length: Option<u64>,
    /// Whether the file holds something other than a model: an adapter, a projector, a matrix.
    pub(crate) is_accessory: bool,
}

/// A summary, or what is wrong with the file.
pub(crate) type Outcome = Result<Arc<Summary>, Arc<str>>;

/// The summaries of the last listing.
#[derive(Debug, Default)]
pub(crate) struct Headers(Mutex<HashMap<OsString, Known>>);

#[derive(Clone, Debug)]
struct Known {
    stamp: Stamp,
    outcome: Outcome,
    /// Whether the listing that is being made has asked for it.
    is_asked: bool,
}

impl Headers {
    /// The summary of the file at `path`, whose metadata (of the file itself, not of a link) `look` has
    /// just asked for. Blocks on the disk.
    pub(crate) fn summary(&self, path: &Path, metadata: &Metadata, look: &Look<'_>) -> Outcome {
        let stamp = Stamp::of(metadata);
        if let Some(known) = self.0.lock().get_mut(path.as_os_str())
            && known.stamp == stamp
        {
            known.is_asked = true;
            return known.outcome.clone();
        }
        let outcome = match Header::read(path, Arrays::Skip) {
            Ok(header) => Ok(Arc::new(Summary::of(&header))),
            Err(error @ GgufError::Malformed { .. }) => Err(printable(&error.to_string()).into()),
            Err(error @ GgufError::Io(_)) => {
                // The file may be sound all the same.
                look.does_not_last();
                return Err(error.to_string().into());
            }
        };
        let mut known = self.0.lock();
        if known.len() < MAX_FILES || known.contains_key(path.as_os_str()) {
            let it = Known { stamp, outcome: outcome.clone(), is_asked: true };
            known.insert(path.as_os_str().to_owned(), it);
        }
        outcome
    }

    /// Forgets every file that was not asked for since the last time.
    pub(crate) fn forget_others(&self) {
        self.0.lock().retain(|_, known| std::mem::take(&mut known.is_asked));
    }
}

impl Summary {
    fn of(header: &Header) -> Self {
        Self {
            architecture: header.architecture().map(printable),
            quantization: header.quantization(),
            parameter_count: header.parameter_count(),
            context_length: header.context_length(),
            is_accessory: is_accessory(header),
        }
    }
}

/// Whether the file holds something that belongs to a model instead of a model (`general.type` of
/// the GGUF specification; older vision projectors state the architecture `clip` only).
fn is_accessory(header: &Header) -> bool {
    let kind = header.metadata.str("general.type");
    kind.is_some_and(|kind| kind != "model") || header.architecture() == Some("clip")
}

/// The header of a file that can be a model of the catalog.
///
/// # Errors
/// [`Code::ModelCorrupt`] for a damaged file; [`Code::ModelUnsupported`] for one that belongs to a
/// model without being one.
pub(crate) fn sound_model(path: &Path) -> Result<Header, Failure> {
    let header = Header::read(path, Arrays::Skip).map_err(|error| error.into_failure(path))?;
    not_accessory(path, &header).map(|()| header)
}

fn not_accessory(path: &Path, header: &Header) -> Result<(), Failure> {
    if is_accessory(header) {
        return Err(Failure::new(
            Code::ModelUnsupported,
            format!("{} is not a model by itself (an adapter, a projector or the like)", path.display()),
        )
        .hint("name the file of the model that it belongs to"));
    }
    Ok(())
}

/// Whether a downloaded file is a sound model.
///
/// # Errors
/// [`Refusal::Unusable`] for those of [`sound_model`], and [`Refusal::Unfinished`] where the file
/// cannot be read.
pub(crate) fn accept_model(path: &Path) -> Result<(), Refusal> {
    let header = Header::read(path, Arrays::Skip).map_err(|error| match error {
        GgufError::Io(error) => Refusal::Unfinished(Failure::io("read", path, &error)),
        malformed @ GgufError::Malformed { .. } => Refusal::Unusable(malformed.into_failure(path)),
    })?;
    not_accessory(path, &header).map_err(Refusal::Unusable)
}

/// Text out of a stranger's file, short and without control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::models::library::folders::Folders;
    use crate::models::testing;

    #[test]
    fn a_changed_file_is_read_again_and_a_vanished_one_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let headers = Headers::default();
        let known = Folders::default();
        let summary = || headers.summary(&path, &fs::metadata(&path).unwrap(), &Look::new(&known));

        fs::write(&path, testing::gguf("llama")).unwrap();
        let first = summary().unwrap();
        assert_eq!(first.architecture.as_deref(), Some("llama"));
        assert!(Arc::ptr_eq(&first, &summary().unwrap()), "an unchanged file is not read again");
        fs::write(&path, b"nonsense").unwrap();
        assert!(summary().unwrap_err().contains("magic"));
        headers.forget_others();
        assert_eq!(headers.0.lock().len(), 1, "it was asked for");
        headers.forget_others();
        assert!(headers.0.lock().is_empty());
    }
}
