//! Reads the weights. Each tensor is looked up by name, checked against the shape that the metadata
//! implies, and only then read.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor, ggml_file};
use candle_core::{Device, Module, Tensor};

use super::model_error::{corrupt, in_file, unsupported};
use crate::error::{Failure, Result};
use crate::files;
use crate::models::gguf::{Header, TensorInfo, TensorType};

/// Bytes that are read between two calls of the progress callback.
const READ_BYTES: usize = 8 << 20;

/// A matrix of weights, `outputs` x `inputs`. Quantised weights stay quantised. Half precision
/// becomes F32, at twice the memory: without the F16C instructions at compile time, candle converts
/// each half in software in every product, which is far slower.
#[derive(Clone, Debug)]
pub(super) struct Matrix(QMatMul);

impl Matrix {
    /// `x`, of shape (rows, inputs), times the matrix transposed: (rows, outputs).
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.0.forward(x)
    }

    /// The given rows as F32, concatenated.
    pub(super) fn rows(&self, rows: &[u32]) -> candle_core::Result<Vec<f32>> {
        self.0.embedding(&Tensor::new(rows, &Device::Cpu)?)?.flatten_all()?.to_vec1()
    }
}

/// candle's type for a type of GGUF; none for a type that the engine cannot compute with.
pub(super) const fn candle_type(kind: TensorType) -> Option<GgmlDType> {
    Some(match kind {
        TensorType::F32 => GgmlDType::F32,
        TensorType::F16 => GgmlDType::F16,
        TensorType::Bf16 => GgmlDType::BF16,
        TensorType::Q4_0 => GgmlDType::Q4_0,
        TensorType::Q4_1 => GgmlDType::Q4_1,
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q5_1 => GgmlDType::Q5_1,
        TensorType::Q8_0 => GgmlDType::Q8_0,
        TensorType::Q2K => GgmlDType::Q2K,
        TensorType::Q3K => GgmlDType::Q3K,
        TensorType::Q4K => GgmlDType::Q4K,
        TensorType::Q5K => GgmlDType::Q5K,
        TensorType::Q6K => GgmlDType::Q6K,
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
    /// Holds one tensor's bytes at a time.
    scratch: Vec<u8>,
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
        Ok(Self {
            path,
            file,
            header,
            by_name,
            read: HashSet::new(),
            scratch: Vec::new(),
            done_bytes: 0,
            total_bytes,
            progress,
        })
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
        let tensor = self.read(name, &[inputs, outputs])?;
        QMatMul::from_qtensor(tensor).map(Matrix).map_err(|error| self.undecodable(name, error))
    }

    /// Reads the vector of that name as F32.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.read(name, &[len])?;
        tensor
            .dequantize(&Device::Cpu)
            .and_then(|tensor| tensor.flatten_all()?.to_vec1())
            .map_err(|error| self.undecodable(name, error))
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
                "tensor {} is not part of the llama architecture as the built-in engine knows it",
                tensor.name.escape_debug()
            ))),
        }
    }

    fn info(&self, name: &str) -> Result<&'a TensorInfo> {
        self.by_name.get(name).copied().ok_or_else(|| self.corrupt(name, "it is missing"))
    }

    /// Reads a tensor of that shape; dimensions are in ggml's order, the innermost first.
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<QTensor> {
        let info = self.info(name)?;
        if !info.shape.iter().copied().eq(shape.iter().map(|&dimension| dimension as u64)) {
            return Err(self.corrupt(
                name,
                format_args!("its shape is {:?}, and the metadata implies {shape:?}", info.shape),
            ));
        }
        let Some(kind) = candle_type(info.kind) else {
            return Err(self.unsupported(format_args!(
                "tensor {name} has the type {}, which the built-in engine cannot compute with",
                info.kind
            )));
        };
        // The header's reader has checked that the file has these bytes.
        let len = usize::try_from(info.bytes).map_err(|_| self.too_large(name))?;
        let bytes = self.read_bytes(self.header.data_offset + info.offset, len)?;
        let dims = shape.iter().rev().copied().collect();
        let tensor = ggml_file::qtensor_from_ggml(kind, bytes, dims, &Device::Cpu);
        self.read.insert(&info.name);
        tensor.map_err(|error| self.undecodable(name, error))
    }

    fn read_bytes(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        /// candle views the bytes as blocks of its own types: this suits the alignment of each.
        const ALIGNMENT: usize = 64;
        let failed = |error: &std::io::Error| Failure::io("read", self.path, error);
        if self.scratch.len() < len + ALIGNMENT {
            self.scratch = Vec::new();
            self.scratch.resize(len + ALIGNMENT, 0);
        }
        let start = self.scratch.as_ptr().align_offset(ALIGNMENT);
        // By its contract `align_offset` may give up and return `usize::MAX`; no real platform does.
        let start = if start < ALIGNMENT { start } else { 0 };
        self.file.seek(SeekFrom::Start(offset)).map_err(|error| failed(&error))?;
        for piece in self.scratch[start..start + len].chunks_mut(READ_BYTES) {
            self.file.read_exact(piece).map_err(|error| failed(&error))?;
            self.done_bytes += piece.len() as u64;
            (self.progress)(self.done_bytes, self.total_bytes);
        }
        Ok(&self.scratch[start..start + len])
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

    /// The failure of a tensor that passed every check, but that candle cannot decode.
    fn undecodable(&self, tensor: &str, error: candle_core::Error) -> Failure {
        let failure = Failure::internal(format!("tensor {tensor} could not be decoded"));
        in_file(self.path)(failure.detail(error).stage("load"))
    }
}
