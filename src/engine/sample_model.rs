//! Complete models made on the spot: for tests, for benchmarks, and for a first run on a machine
//! with neither a model nor a network.
//!
//! A sample model is a real one in everything but its weights. The file has the metadata, tokenizer
//! and chat template of a published llama, so whatever reads it (llama.cpp included) treats it like
//! one. Weights are either random, or such that the model answers with a given sentence (see
//! `weights`).

mod vocabulary;
mod weights;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};

use self::vocabulary::Vocabulary;
use super::weights::candle_type;
use crate::error::{Code, Failure, Result};
use crate::models::gguf::{Array, TensorType, Value, Writer};

/// What to make. The shape of [`Default`] suits every type of weights: its rows are multiples of
/// 256, the block of the K types.
#[derive(Clone, Debug)]
pub struct SampleModel {
    /// `general.name`.
    pub name: String,
    /// Which tokenizer, and with it which chat template.
    pub tokenizer: SampleTokenizer,
    /// What the weights are.
    pub weights: SampleWeights,
    /// How the matrices are stored; norms are F32 in any case.
    pub kind: WeightType,
    /// `llama.context_length`, in tokens.
    pub context_length: u32,
    /// Width of the residual stream.
    pub embedding: u32,
    /// Number of layers.
    pub layers: u32,
    /// Query heads; they divide `embedding`, unless `head_length` is given.
    pub heads: u32,
    /// Key and value heads; they divide `heads`.
    pub kv_heads: u32,
    /// Width of a head; 0 stands for `embedding` over `heads`.
    pub head_length: u32,
    /// Width of the feed-forward network.
    pub feed_forward: u32,
    /// Fewest tokens of the vocabulary; reserved ones fill it up.
    pub vocabulary: u32,
    /// Leaves `output.weight` out, so that the embedding takes its place. A model that says a
    /// sentence needs both, and has both.
    pub tied: bool,
    /// Adds `rope_freqs.weight`, as Llama 3.1 and later have it.
    pub rope_factors: bool,
}

impl Default for SampleModel {
    fn default() -> Self {
        Self {
            name: "sample".to_owned(),
            tokenizer: SampleTokenizer::Bpe,
            weights: SampleWeights::Random { seed: 0 },
            kind: WeightType::Q8_0,
            context_length: 2048,
            embedding: 256,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_length: 0,
            feed_forward: 512,
            vocabulary: 0,
            tied: false,
            rope_factors: false,
        }
    }
}

/// The kind of tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleTokenizer {
    /// Byte-level BPE, with Llama 3's special tokens and template.
    Bpe,
    /// SentencePiece with byte fallback, with the ChatML template.
    SentencePiece,
}

/// What the weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleWeights {
    /// Random ones: real arithmetic, and babble. The same seed makes the same file.
    Random {
        /// Where the random numbers start.
        seed: u64,
    },
    /// The answer to any prompt is this text.
    Sentence(String),
}

/// How the matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are ggml's names; there is no more to say")]
pub enum WeightType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl WeightType {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The type of the tensors, and `general.file_type` of a file of such tensors (`llama.h`).
    const fn stored(self) -> (TensorType, u32) {
        match self {
            Self::F32 => (TensorType::F32, 0),
            Self::F16 => (TensorType::F16, 1),
            Self::Bf16 => (TensorType::Bf16, 32),
            Self::Q8_0 => (TensorType::Q8_0, 7),
            Self::Q4_0 => (TensorType::Q4_0, 2),
            Self::Q4_1 => (TensorType::Q4_1, 3),
            Self::Q5_0 => (TensorType::Q5_0, 8),
            Self::Q5_1 => (TensorType::Q5_1, 9),
            Self::Q2K => (TensorType::Q2K, 21),
            Self::Q3K => (TensorType::Q3K, 11),
            Self::Q4K => (TensorType::Q4K, 14),
            Self::Q5K => (TensorType::Q5K, 16),
            Self::Q6K => (TensorType::Q6K, 18),
        }
    }
}

impl SampleModel {
    /// Writes the model to `path`, replacing what is there.
    ///
    /// # Errors
    /// `invalid_field` where the shape cannot be (heads that do not divide, rows that the type's
    /// blocks do not); `io` or `disk_full` where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let writer = self.build()?;
        let failed = |error: &std::io::Error| Failure::io("write", path, error);
        let mut file = BufWriter::new(File::create(path).map_err(|error| failed(&error))?);
        writer.write(&mut file).and_then(|()| file.flush()).map_err(|error| failed(&error))
    }

    /// The whole file, not yet written.
    pub(super) fn build(&self) -> Result<Writer> {
        let divides = |part: u32, whole: u32| part > 0 && whole.is_multiple_of(part);
        let heads = divides(self.kv_heads, self.heads)
            && (self.head_length > 0 || divides(self.heads, self.embedding))
            && self.head().is_multiple_of(2);
        if !heads {
            return Err(Failure::new(
                Code::InvalidField,
                format!(
                    "a sample model cannot have {} heads and {} key heads over a width of {}",
                    self.heads, self.kv_heads, self.embedding
                ),
            ));
        }
        let sentence = match &self.weights {
            SampleWeights::Random { .. } => "",
            SampleWeights::Sentence(sentence) => sentence,
        };
        let vocabulary = Vocabulary::new(self.tokenizer, sentence, self.vocabulary as usize);
        let mut writer = Writer::default();
        self.put_metadata(&mut writer, &vocabulary);
        for tensor in weights::tensors(self, &vocabulary) {
            self.put_tensor(&mut writer, tensor)?;
        }
        Ok(writer)
    }

    /// Width of a head.
    fn head(&self) -> u32 {
        if self.head_length > 0 { self.head_length } else { self.embedding / self.heads }
    }

    fn put_metadata(&self, writer: &mut Writer, vocabulary: &Vocabulary) {
        let text = |text: &str| Value::String(text.to_owned());
        writer
            .metadata("general.architecture", text("llama"))
            .metadata("general.type", text("model"))
            .metadata("general.name", text(&self.name))
            .metadata("general.alignment", Value::U32(32))
            .metadata("general.file_type", Value::U32(self.kind.stored().1))
            .metadata("general.quantization_version", Value::U32(2))
            .metadata("llama.context_length", Value::U32(self.context_length))
            .metadata("llama.embedding_length", Value::U32(self.embedding))
            .metadata("llama.block_count", Value::U32(self.layers))
            .metadata("llama.feed_forward_length", Value::U32(self.feed_forward))
            .metadata("llama.attention.head_count", Value::U32(self.heads))
            .metadata("llama.attention.head_count_kv", Value::U32(self.kv_heads))
            .metadata("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5))
            .metadata("llama.attention.key_length", Value::U32(self.head()))
            .metadata("llama.attention.value_length", Value::U32(self.head()))
            .metadata("llama.rope.dimension_count", Value::U32(self.head()))
            .metadata("llama.rope.freq_base", Value::F32(10_000.0))
            .metadata("llama.vocab_size", Value::U32(vocabulary.tokens.len() as u32))
            .metadata("tokenizer.ggml.tokens", Value::Array(Array::String(vocabulary.tokens.clone())))
            .metadata("tokenizer.ggml.token_type", Value::Array(Array::I32(vocabulary.types.clone())))
            .metadata("tokenizer.ggml.bos_token_id", Value::U32(vocabulary.begin))
            .metadata("tokenizer.ggml.eos_token_id", Value::U32(vocabulary.end))
            .metadata("tokenizer.ggml.eot_token_id", Value::U32(vocabulary.end_of_turn))
            .metadata("tokenizer.ggml.add_bos_token", Value::Bool(true))
            .metadata("tokenizer.chat_template", text(vocabulary.template));
        match self.tokenizer {
            SampleTokenizer::Bpe => writer
                .metadata("tokenizer.ggml.model", text("gpt2"))
                .metadata("tokenizer.ggml.pre", text("llama-bpe"))
                .metadata("tokenizer.ggml.merges", Value::Array(Array::String(vocabulary.merges.clone()))),
            SampleTokenizer::SentencePiece => writer
                .metadata("tokenizer.ggml.model", text("llama"))
                .metadata("tokenizer.ggml.pre", text("default"))
                .metadata("tokenizer.ggml.scores", Value::Array(Array::F32(vocabulary.scores.clone())))
                .metadata("tokenizer.ggml.unknown_token_id", Value::U32(0))
                .metadata("tokenizer.ggml.add_space_prefix", Value::Bool(true)),
        };
    }

    fn put_tensor(&self, writer: &mut Writer, tensor: weights::Dense) -> Result<()> {
        let weights::Dense { name, outputs, inputs, data } = tensor;
        let Some(outputs) = outputs else {
            let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            writer.tensor(name, &[inputs as u64], TensorType::F32, bytes);
            return Ok(());
        };
        let kind = self.kind.stored().0;
        if !(inputs as u64).is_multiple_of(kind.block_elements()) {
            return Err(Failure::new(
                Code::InvalidField,
                format!("a sample model's {name} has rows of {inputs}, which {kind} cannot store"),
            )
            .hint(format!("make its widths multiples of {}", kind.block_elements())));
        }
        let stored = candle_type(kind).expect("the engine computes with every type that a sample has");
        let bytes = Tensor::from_vec(data, (outputs, inputs), &Device::Cpu)
            .and_then(|tensor| Ok(QTensor::quantize(&tensor, stored)?.data()?.into_owned()))
            .map_err(|error| Failure::internal(format!("{name} could not be quantised")).detail(error))?;
        writer.tensor(name, &[inputs as u64, outputs as u64], kind, bytes);
        Ok(())
    }
}
