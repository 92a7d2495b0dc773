//! Loading: from a GGUF file to a model that is ready to compute.

#[cfg(test)]
mod tests;

use std::path::Path;

use super::config::{Config, corrupt};
use super::forward::{Layer, Model};
use super::rope::Rope;
use super::weights::Weights;
use crate::error::Result;
use crate::models::gguf::{Arrays, Header};

/// A model, and what its file says besides the weights (the tokenizer, the chat template).
#[derive(Debug)]
pub struct Loaded {
    /// Ready to compute.
    pub model: Model,
    /// With its arrays kept.
    pub header: Header,
}

/// Loads the model at `path`. `progress` is called with the bytes of weights read and the bytes
/// there are in all: first with 0, last with all of them.
///
/// # Errors
/// `model_corrupt` where the file is damaged or contradicts itself, `model_unsupported` where the
/// architecture or a tensor's type is not the engine's, `io` where it cannot be read.
pub fn load(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Loaded> {
    let header = Header::read(path, Arrays::Keep).map_err(|error| error.into_failure(path))?;
    let config = Config::read(&header)?;
    let mut weights = Weights::open(path, &header, progress)?;

    let vocabulary = weights.rows_of("token_embd.weight")?;
    if let Some(tokens) = header.metadata.array("tokenizer.ggml.tokens")
        && tokens.len() != vocabulary as u64
    {
        return Err(corrupt(
            "tokenizer.ggml.tokens",
            format!("{} tokens, but token_embd.weight has {vocabulary} rows", tokens.len()),
        ));
    }
    let embedding = weights.matrix("token_embd.weight", config.embedding, vocabulary)?;
    let rope = rope(&mut weights, &config)?;
    // Not `with_capacity`: the count is a claim, and the first missing layer ends the loop.
    let mut layers = Vec::new();
    for index in 0..config.layers {
        layers.push(layer(&mut weights, &config, index)?);
    }
    let norm = weights.vector("output_norm.weight", config.embedding)?;
    // Without a matrix of its own, the output shares the embedding's.
    let output = match weights.has("output.weight") {
        true => weights.matrix("output.weight", config.embedding, vocabulary)?,
        false => embedding.clone(),
    };
    weights.finish()?;
    let model = Model { config, vocabulary, embedding, layers, norm, output, rope };
    Ok(Loaded { model, header })
}

fn rope(weights: &mut Weights<'_>, config: &Config) -> Result<Rope> {
    const FACTORS: &str = "rope_freqs.weight";
    let pairs = config.rope_dimensions / 2;
    let factors = match weights.has(FACTORS) {
        true => weights.vector(FACTORS, pairs)?,
        false => vec![1.0; pairs],
    };
    if let Some(factor) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
        return Err(corrupt(FACTORS, format!("{factor} is not a number above 0")));
    }
    Ok(Rope::new(config, &factors))
}

fn layer(weights: &mut Weights<'_>, config: &Config, index: usize) -> Result<Layer> {
    let &Config { embedding, feed_forward, .. } = config;
    let name = |part: &str| format!("blk.{index}.{part}.weight");
    Ok(Layer {
        attention_norm: weights.vector(&name("attn_norm"), embedding)?,
        query: weights.matrix(&name("attn_q"), embedding, config.query_width())?,
        key: weights.matrix(&name("attn_k"), embedding, config.kv_heads * config.key_length)?,
        value: weights.matrix(&name("attn_v"), embedding, config.kv_heads * config.value_length)?,
        attention_output: weights.matrix(&name("attn_output"), config.mixed_width(), embedding)?,
        feed_forward_norm: weights.vector(&name("ffn_norm"), embedding)?,
        gate: weights.matrix(&name("ffn_gate"), embedding, feed_forward)?,
        up: weights.matrix(&name("ffn_up"), embedding, feed_forward)?,
        down: weights.matrix(&name("ffn_down"), feed_forward, embedding)?,
    })
}
