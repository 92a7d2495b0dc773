//! Writes GGUF files, version 3, for the sample models and the tests.

use std::io::{self, Write};

use super::header::DEFAULT_ALIGNMENT;
use super::tensor_type::TensorType;
use super::value::{Array, Value};

/// Collects the contents of a file. Pairs and tensors keep the order in which they are added.
#[derive(Debug, Default)]
pub struct Writer {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Debug)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    kind: TensorType,
    data: Vec<u8>,
}

impl Writer {
    /// Adds a key-value pair.
    pub fn metadata(&mut self, key: impl Into<String>, value: Value) -> &mut Self {
        self.metadata.push((key.into(), value));
        self
    }

    /// Adds a tensor; `shape` is in ggml's order, the row length first. Nothing is checked: a test
    /// may need a wrong tensor.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        kind: TensorType,
        data: Vec<u8>,
    ) -> &mut Self {
        self.tensors.push(Tensor { name: name.into(), shape: shape.to_vec(), kind, data });
        self
    }

    /// Removes the pair or tensor of that name, if there is one.
    #[cfg(test)]
    pub(crate) fn remove(&mut self, name: &str) -> &mut Self {
        self.metadata.retain(|(key, _)| key != name);
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Where `out` fails.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(3_u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            put_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            header.extend(tensor.shape.iter().flat_map(|dimension| dimension.to_le_bytes()));
            header.extend(tensor.kind.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += (tensor.data.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        pad(&mut header);
        out.write_all(&header)?;
        for tensor in &self.tensors {
            out.write_all(&tensor.data)?;
            let padded = tensor.data.len().next_multiple_of(DEFAULT_ALIGNMENT as usize);
            out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padded - tensor.data.len()])?;
        }
        Ok(())
    }
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    /// The number of the type, then the bytes of the value.
    fn scalar<const N: usize>(out: &mut Vec<u8>, kind: u32, bytes: [u8; N]) {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    }
    match value {
        Value::U8(n) => scalar(out, 0, n.to_le_bytes()),
        Value::I8(n) => scalar(out, 1, n.to_le_bytes()),
        Value::U16(n) => scalar(out, 2, n.to_le_bytes()),
        Value::I16(n) => scalar(out, 3, n.to_le_bytes()),
        Value::U32(n) => scalar(out, 4, n.to_le_bytes()),
        Value::I32(n) => scalar(out, 5, n.to_le_bytes()),
        Value::F32(x) => scalar(out, 6, x.to_le_bytes()),
        Value::Bool(yes) => scalar(out, 7, [u8::from(*yes)]),
        Value::String(text) => {
            out.extend(8_u32.to_le_bytes());
            put_string(out, text);
        }
        Value::Array(array) => {
            out.extend(9_u32.to_le_bytes());
            put_array(out, array);
        }
        Value::U64(n) => scalar(out, 10, n.to_le_bytes()),
        Value::I64(n) => scalar(out, 11, n.to_le_bytes()),
        Value::F64(x) => scalar(out, 12, x.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    /// The number of the elements' type, how many there are, then each one's bytes.
    fn numbers<T: Copy, const N: usize>(out: &mut Vec<u8>, kind: u32, items: &[T], bytes: fn(T) -> [u8; N]) {
        out.extend(kind.to_le_bytes());
        out.extend((items.len() as u64).to_le_bytes());
        out.extend(items.iter().flat_map(|&item| bytes(item)));
    }
    match array {
        Array::U8(items) => numbers(out, 0, items, u8::to_le_bytes),
        Array::I8(items) => numbers(out, 1, items, i8::to_le_bytes),
        Array::U16(items) => numbers(out, 2, items, u16::to_le_bytes),
        Array::I16(items) => numbers(out, 3, items, i16::to_le_bytes),
        Array::U32(items) => numbers(out, 4, items, u32::to_le_bytes),
        Array::I32(items) => numbers(out, 5, items, i32::to_le_bytes),
        Array::F32(items) => numbers(out, 6, items, f32::to_le_bytes),
        Array::Bool(items) => numbers(out, 7, items, |yes| [u8::from(yes)]),
        Array::String(items) => {
            out.extend(8_u32.to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| put_string(out, item));
        }
        Array::Nested(items) => {
            out.extend(9_u32.to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| put_array(out, item));
        }
        Array::U64(items) => numbers(out, 10, items, u64::to_le_bytes),
        Array::I64(items) => numbers(out, 11, items, i64::to_le_bytes),
        Array::F64(items) => numbers(out, 12, items, f64::to_le_bytes),
        // Elements that were skipped cannot be written; an empty array takes their place.
        Array::Skipped { .. } => numbers(out, 0, &[], u8::to_le_bytes),
    }
}
