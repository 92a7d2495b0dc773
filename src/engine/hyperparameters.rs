//! The model's hyperparameters, read from a GGUF file's metadata and checked before anything is
//! built from them.
//!
//! Keys and their defaults are those of llama.cpp (`llama-arch.cpp`, `llama_model::load_hparams`).

use super::model_error::{corrupt, unsupported};
use super::pooling::Pooling;
use crate::error::Result;
use crate::models::gguf::{Header, Value};

/// The one architecture that the engine runs. Mistral's dense models use it too.
const ARCHITECTURE: &str = "llama";

/// The shape of a model. Lengths and counts are at least 1, and every product of them that is a
/// side of a matrix fits a `usize`.
#[derive(Clone, Debug)]
pub(super) struct Hyperparameters {
    /// The context that the model was trained for, in tokens.
    pub(super) context_length: usize,
    /// Width of the residual stream.
    pub(super) embedding_length: usize,
    pub(super) layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Width of a query or key head.
    pub(super) key_length: usize,
    /// Width of a value head.
    pub(super) value_length: usize,
    /// Width of the feed-forward network.
    pub(super) feed_forward_length: usize,
    pub(super) rms_epsilon: f32,
    /// How many elements of a head are rotated: even, and at most `key_length`.
    pub(super) rope_dimensions: usize,
    pub(super) rope_base: f64,
    /// Positions are divided by this (linear scaling); 1 for a model without scaling.
    pub(super) rope_scaling_factor: f64,
    /// How it makes embeddings, if it does.
    pub(super) pooling: Option<Pooling>,
}

impl Hyperparameters {
    /// Reads and checks the metadata.
    pub(super) fn read(header: &Header) -> Result<Self> {
        match header.architecture() {
            Some(ARCHITECTURE) => {}
            Some(other) => {
                return Err(unsupported(format!(
                    "general.architecture is {other:?}; the built-in engine runs only {ARCHITECTURE:?}"
                )));
            }
            None => return Err(corrupt("general.architecture", "the key is missing")),
        }
        let metadata = CheckedMetadata(header);
        if metadata.count("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(unsupported(
                "llama.expert_count: the built-in engine does not support mixtures of experts",
            ));
        }
        if header.metadata.bool("llama.attention.causal") == Some(false) {
            return Err(unsupported(
                "llama.attention.causal: the built-in engine does not support attention to later tokens",
            ));
        }
        let embedding_length = metadata.size("llama.embedding_length")?;
        let heads = metadata.size("llama.attention.head_count")?;
        let kv_heads = metadata.size_or("llama.attention.head_count_kv", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(corrupt(
                "llama.attention.head_count_kv",
                format!("{heads} query heads cannot share {kv_heads} key heads evenly"),
            ));
        }
        let default_head_width = || match embedding_length / heads {
            0 => Err(corrupt(
                "llama.attention.head_count",
                format!("{heads} heads are more than the embedding length of {embedding_length}"),
            )),
            _ if !embedding_length.is_multiple_of(heads) => Err(corrupt(
                "llama.attention.head_count",
                format!("{heads} heads do not divide the embedding length of {embedding_length} evenly"),
            )),
            width => Ok(width),
        };
        let key_length = match metadata.count("llama.attention.key_length")? {
            Some(_) => metadata.size("llama.attention.key_length")?,
            None => default_head_width()?,
        };
        let value_length = match metadata.count("llama.attention.value_length")? {
            Some(_) => metadata.size("llama.attention.value_length")?,
            None => default_head_width()?,
        };
        for (key, width) in
            [("llama.attention.key_length", key_length), ("llama.attention.value_length", value_length)]
        {
            if heads.checked_mul(width).is_none() {
                return Err(corrupt(
                    key,
                    format!("{heads} heads of width {width} are too large for this machine"),
                ));
            }
        }
        let rope_dimensions = metadata.size_or("llama.rope.dimension_count", key_length)?;
        if !rope_dimensions.is_multiple_of(2) || rope_dimensions > key_length {
            return Err(corrupt(
                "llama.rope.dimension_count",
                format!("{rope_dimensions} is odd, or more than a head's width of {key_length}"),
            ));
        }
        let rms_epsilon = metadata
            .positive("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| corrupt("llama.attention.layer_norm_rms_epsilon", "the key is missing"))?;
        Ok(Self {
            context_length: metadata.size("llama.context_length")?,
            embedding_length,
            layers: metadata.size("llama.block_count")?,
            heads,
            kv_heads,
            key_length,
            value_length,
            feed_forward_length: metadata.size("llama.feed_forward_length")?,
            rms_epsilon: rms_epsilon as f32,
            rope_dimensions,
            rope_base: metadata.positive("llama.rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling_factor: metadata.rope_scaling_factor()?,
            pooling: metadata.count("llama.pooling_type")?.and_then(Pooling::of_number),
        })
    }

    /// Width of all query heads together.
    pub(super) fn query_width(&self) -> usize {
        self.heads * self.key_length
    }

    /// Width of all key heads together.
    pub(super) fn key_width(&self) -> usize {
        self.kv_heads * self.key_length
    }

    /// Width of all value heads together.
    pub(super) fn value_width(&self) -> usize {
        self.kv_heads * self.value_length
    }

    /// Width of the attention's result: a value head's width for each query head.
    pub(super) fn attention_width(&self) -> usize {
        self.heads * self.value_length
    }
}

/// A header whose values are checked as they are read.
struct CheckedMetadata<'a>(&'a Header);

impl CheckedMetadata<'_> {
    /// An integer. An array, which gives a count for each layer, is not supported.
    fn count(&self, key: &str) -> Result<Option<u64>> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(_)) => Err(unsupported(format!(
                "{key} differs from layer to layer, which the built-in engine does not support"
            ))),
            Some(value) => match self.0.metadata.u64(key) {
                Some(count) => Ok(Some(count)),
                None => Err(corrupt(key, format!("{value:?} is not a count"))),
            },
        }
    }

    /// A count of at least 1. No side of a tensor is larger than 2^31.
    fn size(&self, key: &str) -> Result<usize> {
        match self.count(key)? {
            Some(size @ 1..=0x8000_0000) => Ok(size as usize),
            Some(size) => Err(corrupt(key, format!("{size} is out of range"))),
            None => Err(corrupt(key, "the key is missing")),
        }
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.0.metadata.get(key).is_none() { Ok(default) } else { self.size(key) }
    }

    /// A finite number above 0.
    fn positive(&self, key: &str) -> Result<Option<f64>> {
        match (self.0.metadata.get(key), self.0.metadata.f64(key)) {
            (None, _) => Ok(None),
            (_, Some(number)) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            (Some(value), _) => Err(corrupt(key, format!("{value:?} is not a number above 0"))),
        }
    }

    fn rope_scaling_factor(&self) -> Result<f64> {
        const KIND: &str = "llama.rope.scaling.type";
        // Without a type, llama.cpp reads the factor as linear scaling; a factor of 0 means none.
        let factor = |key| match self.0.metadata.f64(key) {
            Some(0.0) => Ok(None),
            _ => self.positive(key),
        };
        match self.0.metadata.str(KIND) {
            Some("none") => Ok(1.0),
            None | Some("linear") => {
                let factor = match factor("llama.rope.scaling.factor")? {
                    Some(factor) => Some(factor),
                    None => factor("llama.rope.scale_linear")?,
                };
                Ok(factor.unwrap_or(1.0))
            }
            Some(other) => Err(unsupported(format!(
                "{KIND} is {other:?}; the built-in engine knows \"none\" and \"linear\""
            ))),
        }
    }
}
