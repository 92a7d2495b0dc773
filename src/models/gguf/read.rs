//! Reads a header in one pass; each step is checked against the size of the file.

use std::collections::HashSet;
use std::io::{Read, Seek};
use std::path::Path;

use super::cursor::{Arrays, HeaderCursor, Step, malformed};
use super::error::GgufError;
use super::header::{DEFAULT_ALIGNMENT, Header, TensorInfo, escaped};
use super::tensor_type::TensorType;
use super::value::Metadata;
use crate::files;

/// Longest key of the metadata in bytes, after the specification.
const MAX_KEY_BYTES: u64 = 65_535;
/// Longest tensor name in bytes. The specification says 64; a few writers exceed it.
const MAX_NAME_BYTES: u64 = 1024;
/// Largest alignment in bytes. No file has a reason to exceed a page.
const MAX_ALIGNMENT: u64 = 64 << 10;
/// The most bytes that a file can have, by the system's own limit.
const LONGEST_FILE: u64 = i64::MAX as u64;
/// Fewest bytes that a key-value pair takes: an empty key, a type and a byte.
const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;
/// Fewest bytes that a tensor's description takes: an empty name, no dimension, type and offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

impl Header {
    /// Reads the header of the file at `path`.
    ///
    /// # Errors
    /// Where the file cannot be read, is not a regular file, or is malformed.
    pub fn read(path: &Path, arrays: Arrays) -> Result<Self, GgufError> {
        let file = files::open(path)?;
        let bytes = file.metadata()?.len();
        Self::from_reader(file, bytes, arrays)
    }

    /// Reads the header from the start of `reader`, which holds `file_bytes` bytes in all. Reads
    /// are buffered here.
    ///
    /// # Errors
    /// Where `reader` fails, or what it yields is malformed.
    pub fn from_reader(reader: impl Read + Seek, file_bytes: u64, arrays: Arrays) -> Result<Self, GgufError> {
        let mut cursor = HeaderCursor::new(reader, file_bytes);
        let magic: [u8; 4] = cursor.bytes().map_err(|error| error.at(|| "magic".into()))?;
        if magic == [0; 4] {
            // Some programs reserve the space of a file before they write it.
            let problem = "the file begins with zeros: nothing has been written there yet".to_owned();
            return Err(GgufError::Truncated { field: "magic".into(), problem });
        }
        if &magic != b"GGUF" {
            return Err(GgufError::malformed("magic", "the file does not start with \"GGUF\""));
        }
        let version = cursor.u32().map_err(|error| error.at(|| "version".into()))?;
        check_version(version)?;
        let tensor_count =
            cursor.count(MIN_TENSOR_BYTES).map_err(|error| error.at(|| "tensor count".into()))?;
        let pair_count =
            cursor.count(MIN_PAIR_BYTES).map_err(|error| error.at(|| "metadata count".into()))?;

        let metadata = metadata(&mut cursor, pair_count, arrays)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = tensors(&mut cursor, tensor_count)?;
        // Cannot overflow: the position is at most MAX_HEADER_BYTES, the alignment MAX_ALIGNMENT.
        let data_offset = cursor.position().next_multiple_of(alignment);
        check_layout(&mut tensors, alignment, data_offset, file_bytes)?;
        Ok(Header { version, metadata, tensors, alignment, data_offset, file_bytes })
    }
}

/// Checks that the version is one that is read: 2 or 3.
fn check_version(version: u32) -> Result<(), GgufError> {
    /// Larger numbers are no versions.
    const LARGEST: u32 = 0xff;
    match (version, version.swap_bytes()) {
        (2 | 3, _) => Ok(()),
        (1, _) => Err(GgufError::unknown("version", "1 is too old: convert the model again")),
        (4..=LARGEST, _) => Err(GgufError::unknown("version", format!("{version} is newer than 3"))),
        (_, 1..=LARGEST) => Err(GgufError::unknown("version", "the file is big-endian")),
        _ => Err(GgufError::malformed("version", format!("{version} is no version of the format"))),
    }
}

fn metadata<R: Read + Seek>(
    cursor: &mut HeaderCursor<R>,
    count: u64,
    arrays: Arrays,
) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    for index in 0..count {
        let key = cursor.name(MAX_KEY_BYTES).map_err(|error| error.at(|| format!("metadata[{index}]")))?;
        let field = || format!("metadata[{index}] {}", escaped(&key));
        let value =
            cursor.u32().and_then(|kind| cursor.value(kind, arrays)).map_err(|error| error.at(field))?;
        let field = field();
        if !metadata.insert(key, value) {
            return Err(GgufError::malformed(field, "the key occurs twice"));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    match (metadata.get(KEY), metadata.u64(KEY)) {
        (None, _) => Ok(DEFAULT_ALIGNMENT),
        (_, Some(alignment)) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => Ok(alignment),
        (Some(value), _) => Err(GgufError::malformed(
            KEY,
            format!("{value:?} is not a power of two of at most {MAX_ALIGNMENT} bytes"),
        )),
    }
}

fn tensors<R: Read + Seek>(cursor: &mut HeaderCursor<R>, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for index in 0..count {
        let name = cursor.name(MAX_NAME_BYTES).map_err(|error| error.at(|| format!("tensor[{index}]")))?;
        let field = || format!("tensor {}", escaped(&name));
        let (shape, kind, offset) = cursor.layout().map_err(|error| error.at(field))?;
        let bytes = tensor_bytes(&shape, kind).map_err(|error| error.at(field))?;
        if !names.insert(name.clone()) {
            return Err(GgufError::malformed(field(), "the name occurs twice"));
        }
        tensors.push(TensorInfo { name, shape, kind, offset, bytes });
    }
    Ok(tensors)
}

/// The size of a tensor's data in bytes.
fn tensor_bytes(shape: &[u64], kind: TensorType) -> Step<u64> {
    let row = shape.first().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.block_elements()) {
        return malformed(format!(
            "a row of {row} elements is not a whole number of {kind} blocks of {}",
            kind.block_elements()
        ));
    }
    let mut elements = 1_u64;
    for &dimension in shape {
        elements = match elements.checked_mul(dimension) {
            Some(0) => return malformed("a dimension is 0"),
            Some(product) => product,
            None => return malformed(format!("the shape {shape:?} overflows")),
        };
    }
    match (elements / kind.block_elements()).checked_mul(kind.block_bytes()) {
        Some(bytes) => Ok(bytes),
        None => malformed(format!("the shape {shape:?} overflows")),
    }
}

/// Checks that the tensors are aligned, lie within the file and do not overlap. Sets the size of those
/// whose type is unknown.
fn check_layout(
    tensors: &mut [TensorInfo],
    alignment: u64,
    data_offset: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    let refused = |tensor: &TensorInfo, problem| {
        GgufError::malformed(format!("tensor {}", escaped(&tensor.name)), problem)
    };
    let available = file_bytes.saturating_sub(data_offset);
    let mut by_offset: Vec<&mut TensorInfo> = tensors.iter_mut().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    let offsets: Vec<_> = by_offset.iter().map(|tensor| tensor.offset).collect();
    let mut taken = 0;
    for (index, tensor) in by_offset.into_iter().enumerate() {
        if tensor.kind.name().is_none() {
            let next = offsets.get(index + 1).copied().unwrap_or(available);
            tensor.bytes = next.saturating_sub(tensor.offset);
        }
        let TensorInfo { offset, bytes, .. } = *tensor;
        if !offset.is_multiple_of(alignment) {
            return Err(refused(tensor, format!("its offset {offset} is not a multiple of {alignment}")));
        }
        if offset < taken {
            return Err(refused(tensor, format!("its offset {offset} lies inside another tensor")));
        }
        taken = match offset.checked_add(bytes) {
            Some(end) if end <= available => end,
            Some(end) if end <= LONGEST_FILE => {
                return Err(GgufError::Truncated {
                    field: format!("tensor {}", escaped(&tensor.name)),
                    problem: format!("it ends at byte {end} of the data, of which the file has {available}"),
                });
            }
            _ => {
                return Err(refused(
                    tensor,
                    format!("its offset {offset} makes it longer than files can be"),
                ));
            }
        };
    }
    Ok(())
}
