//! What a file's metadata says about the model's shape, checked before anything is built from it.
//!
//! Keys and their defaults are those of llama.cpp (`llama-arch.cpp`, `llama_model::load_hparams`).

use crate::error::{Code, Failure, Result};
use crate::models::gguf::{Header, Value};

/// The one architecture that the engine computes. Mistral's dense models are of it too.
const ARCHITECTURE: &str = "llama";

/// The shape of a model. Lengths and counts are at least 1, and their products that occur as a
/// matrix's side fit a `usize`.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) context_length: usize,
    /// Width of the residual stream.
    pub(super) embedding: usize,
    pub(super) layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Width of a query or key head.
    pub(super) key_length: usize,
    /// Width of a value head.
    pub(super) value_length: usize,
    pub(super) feed_forward: usize,
    pub(super) rms_epsilon: f32,
    /// How many elements of a head are rotated: even, and at most `key_length`.
    pub(super) rope_dimensions: usize,
    pub(super) rope_base: f64,
    /// What positions are divided by (linear scaling); 1 where nothing is scaled.
    pub(super) rope_divisor: f64,
}

/// A damaged file; `field` is the metadata key or the tensor.
pub(super) fn corrupt(field: &str, problem: impl std::fmt::Display) -> Failure {
    Failure::new(Code::ModelCorrupt, format!("{field}: {problem}"))
        .hint("the file is damaged or was converted wrongly: download the model again")
        .stage("load")
}

/// A sound file that this engine cannot compute.
pub(super) fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Code::ModelUnsupported, message)
        .hint("serve this model with another engine, such as llama.cpp, described in the configuration")
        .stage("load")
}

impl Config {
    /// Reads and checks the metadata.
    pub(super) fn read(header: &Header) -> Result<Self> {
        match header.architecture() {
            Some(ARCHITECTURE) => {}
            Some(other) => {
                return Err(unsupported(format!(
                    "general.architecture is {other:?}; the built-in engine computes {ARCHITECTURE:?} only"
                )));
            }
            None => return Err(corrupt("general.architecture", "the key is missing")),
        }
        let keys = Keys(header);
        if keys.count("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(unsupported("llama.expert_count: the built-in engine has no mixture of experts"));
        }
        let embedding = keys.size("llama.embedding_length")?;
        let heads = keys.size("llama.attention.head_count")?;
        let kv_heads = keys.size_or("llama.attention.head_count_kv", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(corrupt(
                "llama.attention.head_count_kv",
                format!("{heads} query heads cannot share {kv_heads} key heads evenly"),
            ));
        }
        let head = || match embedding / heads {
            0 => Err(corrupt(
                "llama.attention.head_count",
                format!("{heads} exceeds the embedding's {embedding}"),
            )),
            _ if !embedding.is_multiple_of(heads) => Err(corrupt(
                "llama.attention.head_count",
                format!("{heads} heads do not divide the embedding's {embedding} evenly"),
            )),
            head => Ok(head),
        };
        let key_length = match keys.count("llama.attention.key_length")? {
            Some(_) => keys.size("llama.attention.key_length")?,
            None => head()?,
        };
        let value_length = match keys.count("llama.attention.value_length")? {
            Some(_) => keys.size("llama.attention.value_length")?,
            None => head()?,
        };
        for width in [key_length, value_length] {
            if heads.checked_mul(width).is_none() {
                return Err(corrupt(
                    "llama.attention.key_length",
                    format!("{heads} heads of {width} overflow"),
                ));
            }
        }
        let rope_dimensions = keys.size_or("llama.rope.dimension_count", key_length)?;
        if !rope_dimensions.is_multiple_of(2) || rope_dimensions > key_length {
            return Err(corrupt(
                "llama.rope.dimension_count",
                format!("{rope_dimensions} is odd, or exceeds a head's {key_length}"),
            ));
        }
        let rms_epsilon = keys
            .positive("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| corrupt("llama.attention.layer_norm_rms_epsilon", "the key is missing"))?;
        Ok(Self {
            context_length: keys.size("llama.context_length")?,
            embedding,
            layers: keys.size("llama.block_count")?,
            heads,
            kv_heads,
            key_length,
            value_length,
            feed_forward: keys.size("llama.feed_forward_length")?,
            rms_epsilon: rms_epsilon as f32,
            rope_dimensions,
            rope_base: keys.positive("llama.rope.freq_base")?.unwrap_or(10_000.0),
            rope_divisor: keys.rope_divisor()?,
        })
    }

    /// Width of all query heads together.
    pub(super) fn query_width(&self) -> usize {
        self.heads * self.key_length
    }

    /// Width of all value heads together, one per query head.
    pub(super) fn mixed_width(&self) -> usize {
        self.heads * self.value_length
    }
}

struct Keys<'a>(&'a Header);

impl Keys<'_> {
    /// An integer; an array of them (a count per layer) is a kind of model that is not supported.
    fn count(&self, key: &str) -> Result<Option<u64>> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(_)) => Err(unsupported(format!(
                "{key} differs from layer to layer, which the built-in engine cannot do"
            ))),
            Some(value) => match self.0.metadata.u64(key) {
                Some(count) => Ok(Some(count)),
                None => Err(corrupt(key, format!("{value:?} is not a count"))),
            },
        }
    }

    /// A count of at least 1. What is larger than 2^31 is no side of any tensor.
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

    fn rope_divisor(&self) -> Result<f64> {
        const KIND: &str = "llama.rope.scaling.type";
        // Without a type, llama.cpp takes a factor for a linear one; 0 stands for "none given".
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
