//! The settings of a sample model: its shape, its tokenizer and its weights.

pub use rbee_kernels::Type as WeightType;

use crate::engine::hyperparameters::Architecture;
use crate::engine::pooling::Pooling;
use crate::models::gguf::TensorType;

/// A sample model to make. The default shape suits every weight type: its rows are multiples of 256,
/// the block size of the K types.
#[derive(Clone, Debug)]
pub struct SampleModel {
    /// `general.name`.
    pub name: String,
    /// `general.architecture`. Of Gemma 3, every sixth layer sees all tokens, the others the last ones.
    pub architecture: Architecture,
    /// The tokenizer, and with it the chat template.
    pub tokenizer: SampleTokenizer,
    /// The weights.
    pub weights: SampleWeights,
    /// The type of the matrices; norms are always F32.
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
    /// Fewest tokens of the vocabulary; reserved tokens fill it up.
    pub vocabulary: u32,
    /// Omits `output.weight`, so that the embedding is used for it (tied embeddings). Ignored for a
    /// model that answers with a sentence, which needs both matrices.
    pub tied: bool,
    /// Adds `rope_freqs.weight`, which Llama 3.1 and later models have.
    pub rope_factors: bool,
    /// Tokens that a layer of Gemma 3 with a window sees.
    pub window: u32,
    /// `llama.pooling_type`, which makes it an embedding model.
    pub pooling: Option<Pooling>,
}

impl Default for SampleModel {
    fn default() -> Self {
        Self {
            name: "sample".to_owned(),
            architecture: Architecture::Llama,
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
            window: 512,
            pooling: None,
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

/// The weights of a sample model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleWeights {
    /// Random weights: the model computes in full and generates random text. The same seed makes the
    /// same file.
    Random {
        /// Seed of the random numbers.
        seed: u64,
    },
    /// As `Random`, of which the rows of a matrix repeat after a few: large models are made quickly.
    Repeated {
        /// Seed of the random numbers.
        seed: u64,
    },
    /// Weights with which the model answers every prompt with this text.
    Sentence(String),
}

/// The type of the tensors, and `general.file_type` of a file of such tensors (`llama.h`).
pub(super) const fn stored(kind: WeightType) -> (TensorType, u32) {
    match kind {
        WeightType::F32 => (TensorType::F32, 0),
        WeightType::F16 => (TensorType::F16, 1),
        WeightType::Bf16 => (TensorType::Bf16, 32),
        WeightType::Q8_0 => (TensorType::Q8_0, 7),
        WeightType::Q4_0 => (TensorType::Q4_0, 2),
        WeightType::Q4_1 => (TensorType::Q4_1, 3),
        WeightType::Q5_0 => (TensorType::Q5_0, 8),
        WeightType::Q5_1 => (TensorType::Q5_1, 9),
        WeightType::Q2K => (TensorType::Q2K, 21),
        WeightType::Q3K => (TensorType::Q3K, 11),
        WeightType::Q4K => (TensorType::Q4K, 14),
        WeightType::Q5K => (TensorType::Q5K, 16),
        WeightType::Q6K => (TensorType::Q6K, 18),
        WeightType::Iq4Nl => (TensorType::Iq4Nl, 25),
        WeightType::Iq4Xs => (TensorType::Iq4Xs, 30),
    }
}

impl SampleModel {
    /// Width of a head.
    pub(super) fn head_width(&self) -> u32 {
        if self.head_length > 0 { self.head_length } else { self.embedding / self.heads }
    }
}
