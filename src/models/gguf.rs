//! GGUF: reading a model file's header, and writing whole files.
//!
//! A downloaded file is untrusted input, so the reader checks everything that it states about itself.
//! Invariants:
//! - Every length, count and offset is checked against the file's size before it is used, and all sums
//!   and products are checked for overflow.
//! - The memory that a header can make the process allocate is bounded by the bytes that the header
//!   has, and by [`MAX_HEADER_BYTES`].
//! - No bytes make the reader panic; a refusal is a [`GgufError`] that names the field.
//! - What the reader does not know is not taken for damage: a tensor of an unknown type is kept as such, and
//!   a file that cannot be read on is [`GgufError::Unknown`]. One that ends too early is
//!   [`GgufError::Truncated`].
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod read;
mod cursor;
mod write;
mod header;
mod value;
mod tensor_type;
mod error;

#[cfg(test)]
mod tests;

pub use cursor::{Arrays, MAX_HEADER_BYTES};
pub use error::GgufError;
pub(crate) use header::escaped;
pub use header::{DEFAULT_ALIGNMENT, Header, TensorInfo};
pub use tensor_type::TensorType;
pub use value::{Array, Metadata, Value};
pub use write::Writer;
