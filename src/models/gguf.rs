//! GGUF: reading a model file's header, and writing whole files.
//!
//! A file that was downloaded is input from a stranger, so the reader trusts nothing that it says
//! about itself. Invariants:
//! - Every length, count and offset is checked against the file's real size before it is used, and
//!   all sums and products are checked for overflow.
//! - What a header can make the process allocate is bounded by the bytes that the header really
//!   has, and by [`MAX_HEADER_BYTES`].
//! - Nothing in here panics, whatever the bytes; a refusal is a [`GgufError`] that names the field.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod kinds;
mod read;
mod value;
mod write;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::error::{Code, Failure};

pub use kinds::TensorType;
pub use value::{Array, Metadata, Value};
pub use write::Writer;

/// Largest header (everything before the tensors' data) that is read, in bytes. The largest ones
/// in circulation, with a vocabulary of 256 Ki tokens and its merges, take about 20 MB.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;

/// The alignment, in bytes, of a file that does not state `general.alignment`.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Everything that a GGUF file says before its tensors' data.
#[derive(Clone, Debug)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// The key-value pairs.
    pub metadata: Metadata,
    /// The tensors, in the file's order. Names are unique, and each lies within the file.
    pub tensors: Vec<TensorInfo>,
    /// What offsets are multiples of, in bytes: a power of two.
    pub alignment: u64,
    /// Where the tensors' data starts, in bytes from the start of the file.
    pub data_offset: u64,
    /// Size of the whole file in bytes.
    pub file_bytes: u64,
}

/// Where one tensor lies and how it is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements per dimension in ggml's order: `shape[0]` is the row length. At most four.
    pub shape: Vec<u64>,
    /// Type of the elements.
    pub kind: TensorType,
    /// Bytes from [`Header::data_offset`].
    pub offset: u64,
    /// Size of the data in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// What to do with arrays, such as the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrays {
    /// Keep the elements.
    Keep,
    /// Check them, and keep only how many there are ([`Array::Skipped`]).
    Skip,
}

/// Why a file is no GGUF file that can be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file system refused.
    #[error("the file could not be read: {0}")]
    Io(#[from] io::Error),
    /// The contents contradict the format, themselves or the file's size.
    #[error("{field}: {problem}")]
    Malformed {
        /// What is wrong: `magic`, `metadata[12] tokenizer.ggml.tokens`, `tensor output.weight`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl GgufError {
    pub(crate) fn malformed(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { field: field.into(), problem: problem.into() }
    }

    /// What the user reads: names the file, the field and the next step.
    #[must_use]
    pub fn into_failure(self, path: &Path) -> Failure {
        match self {
            Self::Io(error) => Failure::io("read", path, &error),
            Self::Malformed { field, problem } => Failure::new(
                Code::ModelCorrupt,
                format!("{} is not a sound GGUF file: {field}: {problem}", path.display()),
            )
            .hint("the file is damaged or incomplete: download the model again"),
        }
    }
}

impl Header {
    /// Reads the header of the file at `path`.
    ///
    /// # Errors
    /// Where the file cannot be read, is not a regular file, or is malformed.
    pub fn read(path: &Path, arrays: Arrays) -> Result<Self, GgufError> {
        // Looked at before it is opened: to open a FIFO is to wait for its writer.
        if !fs::metadata(path)?.is_file() {
            return Err(GgufError::malformed("file", "it is not a regular file"));
        }
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Self::from_reader(file, bytes, arrays)
    }

    /// Reads the header from the start of `reader`, which holds `file_bytes` bytes in all. Reads
    /// are buffered here.
    ///
    /// # Errors
    /// Where `reader` fails, or what it yields is malformed.
    pub fn from_reader(reader: impl Read + Seek, file_bytes: u64, arrays: Arrays) -> Result<Self, GgufError> {
        read::header(reader, file_bytes, arrays)
    }

    /// `general.architecture`: `llama`, `qwen2`, ...
    #[must_use]
    pub fn architecture(&self) -> Option<&str> {
        self.metadata.str("general.architecture")
    }

    /// `general.name`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.metadata.str("general.name")
    }

    /// How the weights are quantised, in llama.cpp's words (`Q4_K_M`, `F16`): what
    /// `general.file_type` says, else the type that most of the data has.
    #[must_use]
    pub fn quantization(&self) -> Option<String> {
        let stated = self.metadata.u64("general.file_type").and_then(kinds::file_type_name);
        if let Some(name) = stated {
            return Some(name.to_owned());
        }
        let mut bytes: HashMap<TensorType, u64> = HashMap::new();
        for tensor in &self.tensors {
            *bytes.entry(tensor.kind).or_default() += tensor.bytes;
        }
        let commonest = bytes.into_iter().max_by_key(|&(kind, bytes)| (bytes, kind.id()));
        commonest.map(|(kind, _)| kind.name().to_owned())
    }

    /// Number of weights: the elements of all tensors.
    #[must_use]
    pub fn parameter_count(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::elements).fold(0, u64::saturating_add)
    }

    /// The context that the model was trained for, in tokens.
    #[must_use]
    pub fn context_length(&self) -> Option<u64> {
        self.metadata.u64(&format!("{}.context_length", self.architecture()?))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}
