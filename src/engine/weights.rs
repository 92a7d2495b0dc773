//! Reads the weights. Each tensor is looked up by name, checked against the shape that the metadata
//! implies, and only then read.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rbee_kernels::{Builder, Matrix, Type};

use super::model_error::{corrupt, in_file, unsupported};
use crate::error::{Failure, Result};
use crate::files;
use crate::models::gguf::{Header, TensorInfo, TensorType};

/// About how many bytes are read at once: so many are in memory twice.
const READ_BYTES: usize = 1 << 20;

/// The kernels' type for a type of GGUF; none for a type that the engine cannot compute with.
pub(super) const fn computed(kind: TensorType) -> Option<Type> {
    Some(match kind {
        TensorType::F32 => Type::F32,
        TensorType::F16 => Type::F16,
        TensorType::Bf16 => Type::Bf16,
        TensorType::Q4_0 => Type::Q4_0,
        TensorType::Q4_1 => Type::Q4_1,
        TensorType::Q5_0 => Type::Q5_0,
        TensorType::Q5_1 => Type::Q5_1,
        TensorType::Q8_0 => Type::Q8_0,
        TensorType::Q2K => Type::Q2K,
        TensorType::Q3K => Type::Q3K,
        TensorType::Q4K => Type::Q4K,
        TensorType::Q5K => Type::Q5K,
        TensorType::Q6K => Type::Q6K,
        TensorType::Iq4Nl => Type::Iq4Nl,
        TensorType::Iq4Xs => Type::Iq4Xs,
        _ => return None,
    })
}

/// A model file whose tensors are being read.
pub(super) struct Weights<'a> {
    path: &'a Path,
    file: File,
    header: &'a Header,
    by_name: HashMap<&'a str, &'a TensorInfo>,
    /// Names of the tensors that were read.
    read: HashSet<&'a str>,
    done_bytes: u64,
    total_bytes: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Weights<'a> {
    pub(super) fn open(
        path: &'a Path,
        header: &'a Header,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let file = files::open(path).map_err(|error| Failure::io("open", path, &error))?;
        let by_name = header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let total_bytes = header.tensors.iter().map(|tensor| tensor.bytes).sum();
        progress(0, total_bytes);
        Ok(Self { path, file, header, by_name, read: HashSet::new(), done_bytes: 0, total_bytes, progress })
    }

    /// Whether the file has a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The number of rows of the matrix of that name.
    pub(super) fn rows_of(&self, name: &str) -> Result<usize> {
        let info = self.info(name)?;
        match info.shape[..] {
            [_, rows] => usize::try_from(rows).map_err(|_| self.too_large(name)),
            _ => Err(self.corrupt(name, format_args!("its shape {:?} is not that of a matrix", info.shape))),
        }
    }

    /// Reads the matrix of that name, which must have these sides.
    pub(super) fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Matrix> {
        self.read(name, &[inputs, outputs], inputs, outputs)
    }

    /// Reads the vector of that name as F32.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let row = self.read(name, &[len], len, 1)?;
        let mut vector = vec![0.0; len];
        row.row(0, &mut vector);
        Ok(vector)
    }

    /// Reads the vector of that name, if there is one.
    pub(super) fn vector_if_there(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.has(name).then(|| self.vector(name, len)).transpose()
    }

    /// Refuses a file that has a tensor which was not read: this engine would leave out a part of
    /// what the model computes.
    pub(super) fn finish(self) -> Result<()> {
        // Tables of old converters, which every engine computes by itself.
        let ignored =
            |name: &str| name.ends_with(".rotary_emb.inv_freq") || name.ends_with("attn_rot_embd.weight");
        let unread = self
            .header
            .tensors
            .iter()
            .find(|tensor| !self.read.contains(tensor.name.as_str()) && !ignored(&tensor.name));
        match unread {
            None => {
                (self.progress)(self.total_bytes, self.total_bytes);
                Ok(())
            }
            Some(tensor) => Err(self.unsupported(format_args!(
                "tensor {} is not part of the architecture as the built-in engine knows it",
                tensor.name.escape_debug()
            ))),
        }
    }

    fn info(&self, name: &str) -> Result<&'a TensorInfo> {
        self.by_name.get(name).copied().ok_or_else(|| self.corrupt(name, "it is missing"))
    }

    /// Reads a tensor of that shape; dimensions are in ggml's order, the innermost first.
    fn read(&mut self, name: &str, shape: &[usize], columns: usize, rows: usize) -> Result<Matrix> {
        let info = self.info(name)?;
        if !info.shape.iter().copied().eq(shape.iter().map(|&dimension| dimension as u64)) {
            return Err(self.corrupt(
                name,
                format_args!("its shape is {:?}, and the metadata implies {shape:?}", info.shape),
            ));
        }
        let Some(kind) = computed(info.kind) else {
            return Err(self.unsupported(format_args!(
                "tensor {name} has the type {}, which the built-in engine cannot compute with",
                info.kind
            )));
        };
        // The header's reader has checked that the file has these bytes, in whole blocks.
        let mut left = usize::try_from(info.bytes).map_err(|_| self.too_large(name))?;
        let Some(mut builder) = Builder::new(kind, rows, columns) else {
            return Err(self.corrupt(name, format_args!("rows of {columns} elements are no {}", info.kind)));
        };
        let unit = builder.unit();
        let mut part = vec![0; left.min(unit * (READ_BYTES / unit).max(1))];
        let failed = |error: &std::io::Error| Failure::io("read", self.path, error);
        let start = self.header.data_offset + info.offset;
        self.file.seek(SeekFrom::Start(start)).map_err(|error| failed(&error))?;
        while left > 0 {
            part.truncate(left);
            self.file.read_exact(&mut part).map_err(|error| failed(&error))?;
            builder.push(&part);
            left -= part.len();
            self.done_bytes += part.len() as u64;
            (self.progress)(self.done_bytes, self.total_bytes);
        }
        self.read.insert(&info.name);
        Ok(builder.finish())
    }

    /// The failure of a tensor that contradicts the metadata.
    pub(super) fn corrupt(&self, tensor: &str, problem: impl Display) -> Failure {
        in_file(self.path)(corrupt(&format!("tensor {tensor}"), problem))
    }

    fn too_large(&self, tensor: &str) -> Failure {
        self.corrupt(tensor, "it is too large for this machine")
    }

    fn unsupported(&self, message: std::fmt::Arguments<'_>) -> Failure {
        in_file(self.path)(unsupported(message.to_string()))
    }
}
