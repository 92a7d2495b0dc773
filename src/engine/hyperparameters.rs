//! The model's hyperparameters, read from a GGUF file's metadata and checked before anything is
//! built from them.
//!
//! Keys and their defaults are those of llama.cpp (`llama-arch.cpp`, `llama_model::load_hparams`).

use super::model_error::{corrupt, unsupported};
use super::pooling::Pooling;
use crate::error::Result;
use crate::models::gguf::{Header, Value};

/// An architecture that the engine runs. All are decoders with norms before attention and a gated feed-forward
/// network; they differ in what is said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Mistral's dense models use it too.
    Llama,
    /// Biases of queries, keys and values.
    Qwen2,
    /// Norms of each head's queries and keys.
    Qwen3,
    /// Those norms too, norms after attention and feed-forward network, and layers with a window.
    Gemma3,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// The name in `general.architecture`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }

    fn of(header: &Header) -> Result<Self> {
        match header.architecture() {
            Some(name) => Self::named(name),
            None => Err(corrupt("general.architecture", "the key is missing")),
        }
    }

    /// The architecture of that name.
    pub(super) fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            unsupported(format!(
                "general.architecture is {name:?}; the built-in engine runs only these: {known}"
            ))
        })
    }

    /// Whether a rotation turns neighbouring elements of a head, not those of its two halves.
    pub(super) const fn rotates_neighbours(self) -> bool {
        matches!(self, Self::Llama)
    }

    pub(super) const fn has_head_norms(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }

    pub(super) const fn has_post_norms(self) -> bool {
        matches!(self, Self::Gemma3)
    }
}

/// The shape of a model. Lengths and counts are at least 1, and every product of them that is a
/// side of a matrix fits a `usize`.
#[derive(Clone, Debug)]
pub(super) struct Hyperparameters {
    pub(super) architecture: Architecture,
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
    /// The layers that see only the last tokens, if there are such.
    pub(super) window: Option<Window>,
    /// How it makes embeddings, if it does.
    pub(super) pooling: Option<Pooling>,
}

/// Layers whose attention has a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// How many tokens a token sees, itself among them.
    pub(super) tokens: usize,
    /// Of so many layers the last sees all tokens.
    pub(super) period: usize,
    /// The base of the rotations in these layers, which have no scaling.
    pub(super) rope_base: f64,
}

impl Hyperparameters {
    /// Reads and checks the metadata.
    pub(super) fn read(header: &Header) -> Result<Self> {
        let architecture = Architecture::of(header)?;
        let metadata = CheckedMetadata { header, architecture };
        let key = |name: &str| metadata.key(name);
        if metadata.count("expert_count")?.unwrap_or(0) > 0 {
            return Err(unsupported(format!(
                "{}: the built-in engine does not support mixtures of experts",
                key("expert_count")
            )));
        }
        if header.metadata.bool(&key("attention.causal")) == Some(false) {
            return Err(unsupported(format!(
                "{}: the built-in engine does not support attention to later tokens",
                key("attention.causal")
            )));
        }
        for softcap in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if metadata.header.metadata.f64(&key(softcap)).is_some_and(|cap| cap != 0.0) {
                return Err(unsupported(format!(
                    "{}: the built-in engine does not support it",
                    key(softcap)
                )));
            }
        }
        let embedding_length = metadata.size("embedding_length")?;
        let heads = metadata.size("attention.head_count")?;
        let kv_heads = metadata.size_or("attention.head_count_kv", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(corrupt(
                &key("attention.head_count_kv"),
                format!("{heads} query heads cannot share {kv_heads} key heads evenly"),
            ));
        }
        let head_width = |name: &str| {
            if metadata.count(name)?.is_some() {
                return metadata.size(name);
            }
            match embedding_length / heads {
                0 => Err(corrupt(
                    &key("attention.head_count"),
                    format!("{heads} heads are more than the embedding length of {embedding_length}"),
                )),
                _ if !embedding_length.is_multiple_of(heads) => Err(corrupt(
                    &key("attention.head_count"),
                    format!("{heads} heads do not divide the embedding length of {embedding_length} evenly"),
                )),
                width => Ok(width),
            }
        };
        let (key_length, value_length) =
            (head_width("attention.key_length")?, head_width("attention.value_length")?);
        for (name, width) in [("attention.key_length", key_length), ("attention.value_length", value_length)]
        {
            if heads.checked_mul(width).is_none() {
                return Err(corrupt(
                    &key(name),
                    format!("{heads} heads of width {width} are too large for this machine"),
                ));
            }
        }
        let rope_dimensions = metadata.size_or("rope.dimension_count", key_length)?;
        if !rope_dimensions.is_multiple_of(2) || rope_dimensions > key_length {
            return Err(corrupt(
                &key("rope.dimension_count"),
                format!("{rope_dimensions} is odd, or more than a head's width of {key_length}"),
            ));
        }
        const EPSILON: &str = "attention.layer_norm_rms_epsilon";
        let rms_epsilon =
            metadata.positive(EPSILON)?.ok_or_else(|| corrupt(&key(EPSILON), "the key is missing"))?;
        Ok(Self {
            architecture,
            context_length: metadata.size("context_length")?,
            embedding_length,
            layers: metadata.size("block_count")?,
            heads,
            kv_heads,
            key_length,
            value_length,
            feed_forward_length: metadata.size("feed_forward_length")?,
            rms_epsilon: rms_epsilon as f32,
            rope_dimensions,
            rope_base: metadata.positive("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling_factor: metadata.rope_scaling_factor()?,
            window: metadata.window()?,
            pooling: metadata.count("pooling_type")?.and_then(Pooling::of_number),
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

    /// What scores are multiplied with.
    pub(super) fn attention_scale(&self) -> f32 {
        /// Gemma 3 27B, which llama.cpp knows by this too.
        const LAYERS_OF_THE_LARGEST: usize = 62;
        let width = match self.architecture {
            Architecture::Gemma3 if self.layers == LAYERS_OF_THE_LARGEST => {
                self.embedding_length / self.heads
            }
            _ => self.key_length,
        };
        (width as f32).sqrt().recip()
    }

    /// What embeddings are multiplied with.
    pub(super) fn embedding_scale(&self) -> f32 {
        match self.architecture {
            Architecture::Gemma3 => (self.embedding_length as f32).sqrt(),
            _ => 1.0,
        }
    }

    /// The window of a layer, if it has one.
    pub(super) fn window_of(&self, layer: usize) -> Option<Window> {
        self.window.filter(|window| layer % window.period < window.period - 1)
    }
}

/// A header whose values are checked as they are read.
struct CheckedMetadata<'a> {
    header: &'a Header,
    architecture: Architecture,
}

impl CheckedMetadata<'_> {
    /// The whole key of a name.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    /// An integer. An array, which gives a count for each layer, is not supported.
    fn count(&self, name: &str) -> Result<Option<u64>> {
        let key = self.key(name);
        match self.header.metadata.get(&key) {
            None => Ok(None),
            Some(Value::Array(_)) => Err(unsupported(format!(
                "{key} differs from layer to layer, which the built-in engine does not support"
            ))),
            Some(value) => match self.header.metadata.u64(&key) {
                Some(count) => Ok(Some(count)),
                None => Err(corrupt(&key, format!("{value:?} is not a count"))),
            },
        }
    }

    /// A count of at least 1. No side of a tensor is larger than 2^31.
    fn size(&self, name: &str) -> Result<usize> {
        match self.count(name)? {
            Some(size @ 1..=0x8000_0000) => Ok(size as usize),
            Some(size) => Err(corrupt(&self.key(name), format!("{size} is out of range"))),
            None => Err(corrupt(&self.key(name), "the key is missing")),
        }
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        if self.header.metadata.get(&self.key(name)).is_none() { Ok(default) } else { self.size(name) }
    }

    /// A finite number above 0.
    fn positive(&self, name: &str) -> Result<Option<f64>> {
        let key = self.key(name);
        match (self.header.metadata.get(&key), self.header.metadata.f64(&key)) {
            (None, _) => Ok(None),
            (_, Some(number)) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            (Some(value), _) => Err(corrupt(&key, format!("{value:?} is not a number above 0"))),
        }
    }

    fn rope_scaling_factor(&self) -> Result<f64> {
        let kind = self.key("rope.scaling.type");
        // Without a type, llama.cpp reads the factor as linear scaling; a factor of 0 means none.
        let factor = |name| match self.header.metadata.f64(&self.key(name)) {
            Some(0.0) => Ok(None),
            _ => self.positive(name),
        };
        match self.header.metadata.str(&kind) {
            Some("none") => Ok(1.0),
            None | Some("linear") => {
                let factor = match factor("rope.scaling.factor")? {
                    Some(factor) => Some(factor),
                    None => factor("rope.scale_linear")?,
                };
                Ok(factor.unwrap_or(1.0))
            }
            Some(other) => Err(unsupported(format!(
                "{kind} is {other:?}; the built-in engine knows \"none\" and \"linear\""
            ))),
        }
    }

    /// The window of Gemma 3. Other architectures attend to all tokens, whatever a file says, as in llama.cpp.
    fn window(&self) -> Result<Option<Window>> {
        const TOKENS: &str = "attention.sliding_window";
        if self.architecture != Architecture::Gemma3 || matches!(self.count(TOKENS)?, None | Some(0)) {
            return Ok(None);
        }
        Ok(Some(Window {
            tokens: self.size(TOKENS)?,
            period: self.size_or("attention.sliding_window_pattern", 6)?,
            rope_base: self.positive("rope.freq_base_swa")?.unwrap_or(10_000.0),
        }))
    }
}
