//! The reader proper: one pass over the header, every step checked against what the file has.

use std::collections::HashSet;
use std::io::{BufReader, Read, Seek};

use super::{
    Array, Arrays, DEFAULT_ALIGNMENT, GgufError, Header, MAX_HEADER_BYTES, Metadata, TensorInfo, TensorType,
    Value,
};

/// Longest key of the metadata in bytes, after the specification.
const MAX_KEY_BYTES: u64 = 65_535;
/// Longest tensor name in bytes. The specification says 64; a few writers exceed it.
const MAX_NAME_BYTES: u64 = 1024;
/// Deepest nesting of arrays; none is known to nest at all.
const MAX_DEPTH: usize = 4;
/// Most dimensions of a tensor: `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
/// Largest alignment in bytes. Beyond a page nobody has a reason.
const MAX_ALIGNMENT: u64 = 64 << 10;
/// Fewest bytes that a key-value pair takes: an empty key, a type and a byte.
const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;
/// Fewest bytes that a tensor's description takes: an empty name, no dimension, type and offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// A problem whose field the caller names.
struct Problem(String);

/// What a step of the reader can come to; the field is added by whoever knows it.
enum Fault {
    Io(std::io::Error),
    Problem(Problem),
}

type Step<T> = Result<T, Fault>;

impl Fault {
    fn at(self, field: impl FnOnce() -> String) -> GgufError {
        match self {
            Self::Io(error) => GgufError::Io(error),
            Self::Problem(Problem(problem)) => GgufError::malformed(field(), problem),
        }
    }
}

fn problem<T>(problem: impl Into<String>) -> Step<T> {
    Err(Fault::Problem(Problem(problem.into())))
}

/// Reads a header of a file of `file_bytes` bytes.
pub(crate) fn header<R: Read + Seek>(
    reader: R,
    file_bytes: u64,
    arrays: Arrays,
) -> Result<Header, GgufError> {
    let mut cursor = Cursor {
        reader: BufReader::with_capacity(64 << 10, reader),
        position: 0,
        end: file_bytes.min(MAX_HEADER_BYTES),
        file_bytes,
    };
    let magic = cursor.bytes().map_err(|fault| fault.at(|| "magic".into()))?;
    if &magic != b"GGUF" {
        return Err(GgufError::malformed("magic", "the file does not start with \"GGUF\""));
    }
    let version = cursor.u32().map_err(|fault| fault.at(|| "version".into()))?;
    match version {
        2 | 3 => {}
        _ if version & 0xffff == 0 && version != 0 => {
            return Err(GgufError::malformed("version", "the file is big-endian, which is not supported"));
        }
        _ => return Err(GgufError::malformed("version", format!("{version} is neither 2 nor 3"))),
    }
    let tensor_count = cursor.count(MIN_TENSOR_BYTES).map_err(|fault| fault.at(|| "tensor count".into()))?;
    let pair_count = cursor.count(MIN_PAIR_BYTES).map_err(|fault| fault.at(|| "metadata count".into()))?;

    let metadata = metadata(&mut cursor, pair_count, arrays)?;
    let alignment = alignment(&metadata)?;
    let tensors = tensors(&mut cursor, tensor_count)?;
    // Cannot overflow: the position is at most MAX_HEADER_BYTES, the alignment MAX_ALIGNMENT.
    let data_offset = cursor.position.next_multiple_of(alignment);
    place(&tensors, alignment, data_offset, file_bytes)?;
    Ok(Header { version, metadata, tensors, alignment, data_offset, file_bytes })
}

fn metadata<R: Read + Seek>(
    cursor: &mut Cursor<R>,
    count: u64,
    arrays: Arrays,
) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    for index in 0..count {
        let key = cursor.name(MAX_KEY_BYTES).map_err(|fault| fault.at(|| format!("metadata[{index}]")))?;
        let field = || format!("metadata[{index}] {}", shown(&key));
        let value =
            cursor.u32().and_then(|kind| cursor.value(kind, arrays)).map_err(|fault| fault.at(field))?;
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

fn tensors<R: Read + Seek>(cursor: &mut Cursor<R>, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for index in 0..count {
        let name = cursor.name(MAX_NAME_BYTES).map_err(|fault| fault.at(|| format!("tensor[{index}]")))?;
        let field = || format!("tensor {}", shown(&name));
        let (shape, kind, offset) = cursor.layout().map_err(|fault| fault.at(field))?;
        let bytes = tensor_bytes(&shape, kind).map_err(|fault| fault.at(field))?;
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
        return problem(format!(
            "a row of {row} elements is not a whole number of {kind} blocks of {}",
            kind.block_elements()
        ));
    }
    let mut elements = 1_u64;
    for &dimension in shape {
        elements = match elements.checked_mul(dimension) {
            Some(0) => return problem("a dimension is 0"),
            Some(product) => product,
            None => return problem(format!("the shape {shape:?} overflows")),
        };
    }
    match (elements / kind.block_elements()).checked_mul(kind.block_bytes()) {
        Some(bytes) => Ok(bytes),
        None => problem(format!("the shape {shape:?} overflows")),
    }
}

/// Checks that the tensors are aligned, lie within the file and do not overlap.
fn place(tensors: &[TensorInfo], alignment: u64, data_offset: u64, file_bytes: u64) -> Result<(), GgufError> {
    let malformed = |tensor: &TensorInfo, problem| {
        GgufError::malformed(format!("tensor {}", shown(&tensor.name)), problem)
    };
    let available = file_bytes.saturating_sub(data_offset);
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    let mut taken = 0;
    for tensor in by_offset {
        let TensorInfo { offset, bytes, .. } = *tensor;
        if !offset.is_multiple_of(alignment) {
            return Err(malformed(tensor, format!("its offset {offset} is not a multiple of {alignment}")));
        }
        if offset < taken {
            return Err(malformed(tensor, format!("its offset {offset} lies inside another tensor")));
        }
        taken = match offset.checked_add(bytes) {
            Some(end) if end <= available => end,
            _ => {
                return Err(malformed(
                    tensor,
                    format!(
                        "its {bytes} bytes at offset {offset} of the data do not fit into the {available} that \
                         the file has"
                    ),
                ));
            }
        };
    }
    Ok(())
}

/// A name out of a file, fit for a message: escaped, and cut where it is long.
fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// A reader that knows where it is and how much is left.
struct Cursor<R> {
    reader: BufReader<R>,
    position: u64,
    /// Where reading must stop: the end of the file, or [`MAX_HEADER_BYTES`].
    end: u64,
    file_bytes: u64,
}

impl<R: Read + Seek> Cursor<R> {
    /// Accounts for `len` bytes that are about to be read or skipped.
    fn claim(&mut self, len: u64) -> Step<()> {
        let left = self.end - self.position;
        if len <= left {
            self.position += len;
            return Ok(());
        }
        if self.end < self.file_bytes {
            return problem(format!("the header is larger than {MAX_HEADER_BYTES} bytes"));
        }
        problem(format!("it needs {len} bytes at offset {}, and the file has {left} left", self.position))
    }

    /// Claims `count` elements of `size` bytes each, and answers their size in memory's terms.
    fn claim_all(&mut self, count: u64, size: usize) -> Step<usize> {
        let len = count.saturating_mul(size as u64);
        self.claim(len)?;
        match usize::try_from(len) {
            Ok(len) => Ok(len),
            Err(_) => problem(format!("{len} bytes are more than this machine can address")),
        }
    }

    fn skip(&mut self, len: u64) -> Step<()> {
        self.claim(len)?;
        // Cannot fail: what was claimed lies within MAX_HEADER_BYTES.
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        self.reader.seek_relative(len).map_err(Fault::Io)
    }

    fn bytes<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(Fault::Io)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Step<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Step<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `size` bytes each.
    fn count(&mut self, size: u64) -> Step<u64> {
        let count = self.u64()?;
        let left = self.end - self.position;
        if count.saturating_mul(size) > left {
            return problem(format!("{count} is more than the {left} bytes that follow can hold"));
        }
        Ok(count)
    }

    fn text(&mut self) -> Step<Vec<u8>> {
        let len = self.u64()?;
        let len = self.claim_all(len, 1)?;
        let mut text = vec![0; len];
        self.reader.read_exact(&mut text).map_err(Fault::Io)?;
        Ok(text)
    }

    /// A string of the metadata. Vocabularies hold pieces of characters, so bytes that are not
    /// UTF-8 are replaced rather than refused.
    fn string(&mut self) -> Step<String> {
        let text = self.text()?;
        Ok(String::from_utf8(text)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// A key or a tensor's name.
    fn name(&mut self, longest: u64) -> Step<String> {
        let len = self.u64()?;
        if len > longest {
            return problem(format!("its name of {len} bytes is longer than {longest}"));
        }
        let mut name = vec![0; self.claim_all(len, 1)?];
        self.reader.read_exact(&mut name).map_err(Fault::Io)?;
        String::from_utf8(name).or_else(|_| problem("its name is not UTF-8"))
    }

    fn bool(&mut self) -> Step<bool> {
        match self.bytes()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => problem(format!("{byte} is not a boolean")),
        }
    }

    fn value(&mut self, kind: u32, arrays: Arrays) -> Step<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.bytes()?)),
            1 => Value::I8(i8::from_le_bytes(self.bytes()?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes()?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.bytes()?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string()?),
            9 => Value::Array(self.array(arrays, 1)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.bytes()?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            _ => return problem(format!("unknown type of value {kind}")),
        })
    }

    fn array(&mut self, arrays: Arrays, depth: usize) -> Step<Array> {
        if depth > MAX_DEPTH {
            return problem(format!("arrays are nested more than {MAX_DEPTH} deep"));
        }
        let kind = self.u32()?;
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => return problem(format!("unknown type of element {kind}")),
        };
        let len = self.count(size)?;
        if arrays == Arrays::Skip {
            match kind {
                8 => {
                    for _ in 0..len {
                        let bytes = self.u64()?;
                        self.skip(bytes)?;
                    }
                }
                9 => {
                    for _ in 0..len {
                        self.array(arrays, depth + 1)?;
                    }
                }
                _ => self.skip(len * size)?,
            }
            return Ok(Array::Skipped { len });
        }
        Ok(match kind {
            0 => Array::U8(self.numbers(len, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(len, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(len, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(len, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(len, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(len, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(len, f32::from_le_bytes)?),
            7 => Array::Bool((0..len).map(|_| self.bool()).collect::<Step<_>>()?),
            8 => Array::String((0..len).map(|_| self.string()).collect::<Step<_>>()?),
            9 => Array::Nested((0..len).map(|_| self.array(arrays, depth + 1)).collect::<Step<_>>()?),
            10 => Array::U64(self.numbers(len, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(len, i64::from_le_bytes)?),
            _ => Array::F64(self.numbers(len, f64::from_le_bytes)?),
        })
    }

    fn numbers<T, const N: usize>(&mut self, len: u64, number: fn([u8; N]) -> T) -> Step<Vec<T>> {
        let mut bytes = vec![0; self.claim_all(len, N)?];
        self.reader.read_exact(&mut bytes).map_err(Fault::Io)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().copied().map(number).collect())
    }

    /// A tensor's shape, type and offset.
    fn layout(&mut self) -> Step<(Vec<u64>, TensorType, u64)> {
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return problem(format!("{dimensions} dimensions are more than {MAX_DIMENSIONS}"));
        }
        let shape = (0..dimensions).map(|_| self.u64()).collect::<Step<Vec<_>>>()?;
        let kind = self.u32()?;
        let Some(kind) = TensorType::from_id(kind) else {
            return problem(format!("unknown type of tensor {kind}"));
        };
        Ok((shape, kind, self.u64()?))
    }
}
