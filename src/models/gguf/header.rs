//! The header of a GGUF file: its metadata and where its tensors are.

use std::collections::HashMap;

use super::tensor_type::{TensorType, file_type_name};
use super::value::{Metadata, Value};
use crate::config::Sampling;

/// The alignment, in bytes, of a file that does not state `general.alignment`.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The part of a GGUF file before its tensors' data.
#[derive(Clone, Debug)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// The key-value pairs.
    pub metadata: Metadata,
    /// The tensors, in the file's order. Names are unique, and each lies within the file.
    pub tensors: Vec<TensorInfo>,
    /// Offsets are multiples of this, in bytes: a power of two.
    pub alignment: u64,
    /// Where the tensors' data starts, in bytes from the start of the file.
    pub data_offset: u64,
    /// Size of the whole file in bytes.
    pub file_bytes: u64,
}

/// Where a tensor's data is and how it is laid out.
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
    /// Size of the data in bytes. Where the type is unknown, up to the next tensor.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Header {
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

    /// How the weights are quantised, in llama.cpp's terms (`Q4_K_M`, `F16`): `general.file_type`, or
    /// otherwise the type of most of the data.
    #[must_use]
    pub fn quantization(&self) -> Option<String> {
        let stated = self.metadata.u64("general.file_type").and_then(file_type_name);
        if let Some(name) = stated {
            return Some(name.to_owned());
        }
        let mut bytes: HashMap<TensorType, u64> = HashMap::new();
        for tensor in &self.tensors {
            *bytes.entry(tensor.kind).or_default() += tensor.bytes;
        }
        let commonest = bytes.into_iter().max_by_key(|&(kind, bytes)| (bytes, kind.id()));
        commonest.and_then(|(kind, _)| kind.name()).map(str::to_owned)
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

    /// How the model's makers recommend to sample. Values out of range, and kinds of samplers that no request
    /// has, are left out.
    ///
    /// Source: `general.sampling.*` of <https://github.com/ggml-org/llama.cpp/pull/17120>.
    #[must_use]
    pub fn sampling(&self) -> Option<Sampling> {
        let number = |name: &str| self.metadata.get(&format!("general.sampling.{name}")).and_then(decimal);
        let valid =
            |sampling: Sampling| if sampling.problem().is_none() { sampling } else { Sampling::default() };
        let top_k = self.metadata.u64("general.sampling.top_k").and_then(|count| u32::try_from(count).ok());
        let sampling = [
            Sampling { temperature: number("temp"), ..Sampling::default() },
            Sampling { top_p: number("top_p"), ..Sampling::default() },
            Sampling { top_k, ..Sampling::default() },
            Sampling { min_p: number("min_p"), ..Sampling::default() },
            Sampling { repeat_penalty: number("penalty_repeat"), ..Sampling::default() },
        ]
        .map(valid)
        .into_iter()
        .fold(Sampling::default(), Sampling::or);
        Some(sampling).filter(|sampling| *sampling != Sampling::default())
    }

    /// What this reader does not know of the file: the first tensor whose type is not in its table.
    #[must_use]
    pub fn unknown(&self) -> Option<String> {
        let tensor = self.tensors.iter().find(|tensor| tensor.kind.name().is_none())?;
        Some(format!("tensor {} has the type {}", escaped(&tensor.name), tensor.kind))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// A number as it was written before it was narrowed: 0.95, not 0.949999988079071.
fn decimal(value: &Value) -> Option<f64> {
    match *value {
        Value::F32(number) => number.to_string().parse().ok(),
        Value::F64(number) => Some(number),
        Value::I32(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        _ => None,
    }
}

/// A name from a file, made fit for a message: escaped and shortened.
pub(crate) fn escaped(name: &str) -> String {
    const LONGEST: usize = 80;
    let mut escaped: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        escaped.push('…');
    }
    escaped
}
