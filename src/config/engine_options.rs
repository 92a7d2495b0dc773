//! Options of llama.cpp's server that the settings of a model may change.
//!
//! Only what changes how fast a model runs, how much memory it takes or how far its context reaches: nothing
//! that opens a file or a socket, runs a program, or changes who may ask the server.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::engines::{FlashAttention, KvType};

/// Options of one model's llama-server. Unset ones are those of `[llama_server]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineOptions {
    /// Whether it uses flash attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flash_attention: Option<FlashAttention>,
    /// The type of the elements of its KV cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_type: Option<KvType>,
    /// Layers to put on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<u32>,
    /// Layers whose experts stay on the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_moe_layers: Option<u32>,
    /// Threads on the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Tokens of a prompt that are taken at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Tokens that are computed at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ubatch_size: Option<u32>,
    /// How positions beyond the trained context are scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// By how much the context is expanded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scale: Option<f64>,
    /// The base frequency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_freq_base: Option<f64>,
    /// The context that `YaRN` expands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yarn_orig_ctx: Option<u32>,
}

/// A method of scaling positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the variants are llama.cpp's names; there is no more to say")]
pub enum RopeScaling {
    None,
    Linear,
    Yarn,
}

impl RopeScaling {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Linear => "linear",
            Self::Yarn => "yarn",
        }
    }
}

impl EngineOptions {
    /// The flags of llama-server with their values, but for those that the hive's plan needs
    /// (`gpu_layers`, `threads`).
    ///
    /// Source: <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>.
    #[must_use]
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let text = |flag: &'static str, value: Option<&str>| value.map(|value| (flag, value.to_owned()));
        let whole = |flag: &'static str, value: Option<u32>| value.map(|value| (flag, value.to_string()));
        let real = |flag: &'static str, value: Option<f64>| value.map(|value| (flag, value.to_string()));
        let kv_type = self.kv_type.map(KvType::name);
        [
            text("--flash-attn", self.flash_attention.map(FlashAttention::name)),
            text("--cache-type-k", kv_type),
            text("--cache-type-v", kv_type),
            whole("--n-cpu-moe", self.cpu_moe_layers),
            whole("--batch-size", self.batch_size),
            whole("--ubatch-size", self.ubatch_size),
            text("--rope-scaling", self.rope_scaling.map(RopeScaling::name)),
            real("--rope-scale", self.rope_scale),
            real("--rope-freq-base", self.rope_freq_base),
            whole("--yarn-orig-ctx", self.yarn_orig_ctx),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The names of those that are set.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(options)) => options.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// The first option that cannot work, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let ranges = [
            ("gpu_layers", self.gpu_layers.map(f64::from), 0.0, 9999.0),
            ("cpu_moe_layers", self.cpu_moe_layers.map(f64::from), 0.0, 9999.0),
            ("threads", self.threads.map(f64::from), 1.0, 1024.0),
            ("batch_size", self.batch_size.map(f64::from), 1.0, 65_536.0),
            ("ubatch_size", self.ubatch_size.map(f64::from), 1.0, 65_536.0),
            ("rope_scale", self.rope_scale, 0.001, 1000.0),
            ("rope_freq_base", self.rope_freq_base, 1.0, 1e9),
            ("yarn_orig_ctx", self.yarn_orig_ctx.map(f64::from), 1.0, 16_777_216.0),
        ];
        let out_of_range = ranges.into_iter().find_map(|(name, value, least, most)| {
            let value = value.filter(|value| !(least..=most).contains(value))?;
            Some((name, format!("cannot be {value}: {least} to {most} may be set")))
        });
        out_of_range.or_else(|| self.contradiction())
    }

    fn contradiction(&self) -> Option<(&'static str, String)> {
        let quantized = self.kv_type.filter(|kind| kind.bits() < 16);
        if let (Some(kind), Some(FlashAttention::Off)) = (quantized, self.flash_attention) {
            return Some((
                "kv_type",
                format!("\"{}\" needs flash attention, and flash_attention is \"off\"", kind.name()),
            ));
        }
        let (batch, micro) = (self.batch_size?, self.ubatch_size?);
        (micro > batch).then(|| ("ubatch_size", format!("of {micro} is more than batch_size of {batch}")))
    }
}
