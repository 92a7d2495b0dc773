//! A bounded reader of a header's values: each read is checked against what the file has left.

use std::io::{BufReader, Read, Seek};

use super::error::GgufError;
use super::tensor_type::TensorType;
use super::value::{Array, Value};

/// Largest header (everything before the tensors' data) that is read, in bytes. The largest ones
/// in circulation, with a vocabulary of 256 Ki tokens and its merges, take about 20 MB.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;

/// Deepest nesting of arrays; none is known to nest at all.
const MAX_DEPTH: usize = 4;
/// Most dimensions of a tensor: `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;

/// How arrays, such as the vocabulary, are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrays {
    /// Keep the elements.
    Keep,
    /// Check them, and keep only how many there are ([`Array::Skipped`]).
    Skip,
}

/// Why a value could not be read. The caller adds the name of the field ([`ReadError::at`]).
pub(crate) enum ReadError {
    Io(std::io::Error),
    Truncated(String),
    Unknown(String),
    Malformed(String),
}

/// The result of reading one value.
pub(crate) type Step<T> = Result<T, ReadError>;

impl ReadError {
    /// Names the field that could not be read.
    pub(crate) fn at(self, field: impl FnOnce() -> String) -> GgufError {
        match self {
            Self::Io(error) => GgufError::Io(error),
            Self::Truncated(problem) => GgufError::Truncated { field: field(), problem },
            Self::Unknown(problem) => GgufError::unknown(field(), problem),
            Self::Malformed(problem) => GgufError::malformed(field(), problem),
        }
    }
}

pub(crate) fn malformed<T>(problem: impl Into<String>) -> Step<T> {
    Err(ReadError::Malformed(problem.into()))
}

fn unknown<T>(problem: impl Into<String>) -> Step<T> {
    Err(ReadError::Unknown(problem.into()))
}

/// A reader that tracks its position and the bytes that are left.
pub(crate) struct HeaderCursor<R> {
    reader: BufReader<R>,
    position: u64,
    /// Where reading must stop: the end of the file, or [`MAX_HEADER_BYTES`].
    end: u64,
    file_bytes: u64,
}

impl<R: Read + Seek> HeaderCursor<R> {
    /// A cursor at the start of a file of `file_bytes` bytes.
    pub(crate) fn new(reader: R, file_bytes: u64) -> Self {
        Self {
            reader: BufReader::with_capacity(64 << 10, reader),
            position: 0,
            end: file_bytes.min(MAX_HEADER_BYTES),
            file_bytes,
        }
    }

    /// The position in bytes from the start of the file.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Accounts for `len` bytes that are about to be read or skipped.
    fn claim(&mut self, len: u64) -> Step<()> {
        if len <= self.end - self.position {
            self.position += len;
            return Ok(());
        }
        self.missing(len, || format!("it needs {len} bytes"))
    }

    /// The error of something that takes more bytes than are left, `len` in all.
    fn missing<T>(&self, len: u64, what: impl FnOnce() -> String) -> Step<T> {
        let (left, position) = (self.file_bytes - self.position, self.position);
        if len <= left {
            return unknown(format!("the header is larger than {MAX_HEADER_BYTES} bytes"));
        }
        let problem = format!("{} at offset {position}, and the file has {left} left", what());
        // No header is that large, so the file was not cut off: the number is wrong.
        if len > MAX_HEADER_BYTES { malformed(problem) } else { Err(ReadError::Truncated(problem)) }
    }

    /// Claims `count` elements of `size` bytes each. Returns their size in bytes.
    fn claim_all(&mut self, count: u64, size: usize) -> Step<usize> {
        let len = count.saturating_mul(size as u64);
        self.claim(len)?;
        match usize::try_from(len) {
            Ok(len) => Ok(len),
            Err(_) => malformed(format!("{len} bytes are more than this machine can address")),
        }
    }

    fn skip(&mut self, len: u64) -> Step<()> {
        self.claim(len)?;
        // Cannot fail: what was claimed lies within MAX_HEADER_BYTES.
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        self.reader.seek_relative(len).map_err(ReadError::Io)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(ReadError::Io)?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Step<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Step<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `size` bytes each.
    pub(crate) fn count(&mut self, size: u64) -> Step<u64> {
        let count = self.u64()?;
        let least = count.saturating_mul(size);
        if least > self.end - self.position {
            return self.missing(least, || format!("{count} of them need {least} bytes or more"));
        }
        Ok(count)
    }

    fn text(&mut self) -> Step<Vec<u8>> {
        let len = self.u64()?;
        let len = self.claim_all(len, 1)?;
        let mut text = vec![0; len];
        self.reader.read_exact(&mut text).map_err(ReadError::Io)?;
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
    pub(crate) fn name(&mut self, longest: u64) -> Step<String> {
        let len = self.u64()?;
        if len > longest {
            return malformed(format!("its name of {len} bytes is longer than {longest}"));
        }
        let mut name = vec![0; self.claim_all(len, 1)?];
        self.reader.read_exact(&mut name).map_err(ReadError::Io)?;
        String::from_utf8(name).or_else(|_| malformed("its name is not UTF-8"))
    }

    fn bool(&mut self) -> Step<bool> {
        match self.bytes()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => malformed(format!("{byte} is not a boolean")),
        }
    }

    pub(crate) fn value(&mut self, kind: u32, arrays: Arrays) -> Step<Value> {
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
            _ => return unknown(format!("unknown type of value {kind}")),
        })
    }

    fn array(&mut self, arrays: Arrays, depth: usize) -> Step<Array> {
        if depth > MAX_DEPTH {
            return unknown(format!("arrays are nested more than {MAX_DEPTH} deep"));
        }
        let kind = self.u32()?;
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => return unknown(format!("unknown type of element {kind}")),
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
        self.reader.read_exact(&mut bytes).map_err(ReadError::Io)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().copied().map(number).collect())
    }

    /// A tensor's shape, type and offset.
    pub(crate) fn layout(&mut self) -> Step<(Vec<u64>, TensorType, u64)> {
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return unknown(format!("{dimensions} dimensions are more than {MAX_DIMENSIONS}"));
        }
        let shape = (0..dimensions).map(|_| self.u64()).collect::<Step<Vec<_>>>()?;
        let kind = TensorType::from_id(self.u32()?);
        Ok((shape, kind, self.u64()?))
    }
}
