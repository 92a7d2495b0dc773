//! The settings of a sample model: its shape, its tokenizer and its weights.

use crate::engine::pooling::Pooling;
use crate::models::gguf::TensorType;

/// A sample model to make. The default shape suits every weight type: its rows are multiples of 256,
/// the block size of the K types.
#[derive(Clone, Debug)]
pub struct SampleModel {
    /// `general.name`.
    pub name: String,
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
    /// `llama.pooling_type`, which makes it an embedding model.
    pub pooling: Option<Pooling>,
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
    /// Weights with which the model answers every prompt with this text.
    Sentence(String),
}

/// The type of the matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are ggml's names")]
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
    pub(super) const fn stored(self) -> (TensorType, u32) {
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
    /// Width of a head.
    pub(super) fn head_width(&self) -> u32 {
        if self.head_length > 0 { self.head_length } else { self.embedding / self.heads }
    }
}
