//! Reads a GGUF file into a model that is ready to compute.

#[cfg(test)]
mod tests;

use std::path::Path;

use super::forward::{LlamaModel, TransformerLayer};
use super::hyperparameters::Hyperparameters;
use super::model_error::{corrupt, in_file, unsupported};
use super::rope::Rope;
use super::weights::{Weights, candle_type};
use crate::error::Result;
use crate::models::gguf::{Arrays, Header};

/// A model and its file's header, which describes the tokenizer and the chat template.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model, ready to compute.
    pub model: LlamaModel,
    /// The header, with its arrays.
    pub header: Header,
}

/// Why the engine cannot run the model of this header, as far as it tells; `None` where it may be able to.
#[must_use]
pub fn obstacle(header: &Header) -> Option<String> {
    if let Err(failure) = check(header) {
        return Some(failure.message);
    }
    let kind = header.tensors.iter().map(|tensor| tensor.kind).find(|kind| candle_type(*kind).is_none())?;
    Some(format!("the built-in engine cannot compute with tensors of the type {kind}"))
}

/// Checks what the header tells of the model's kind and shape.
fn check(header: &Header) -> Result<Hyperparameters> {
    if let Some(unknown) = header.unknown() {
        return Err(unsupported(format!("{unknown}, which the built-in engine does not know")));
    }
    Hyperparameters::read(header)
}

/// Loads the model at `path`. `progress` is called with the bytes of weights that were read and
/// with their total: first with 0 bytes read, last with all of them.
///
/// # Errors
/// `model_corrupt` for a file that contradicts itself, `model_incomplete` for one that ends too early,
/// `model_unsupported` for an architecture or a tensor type that the engine cannot run, `io` for a file
/// that cannot be read. Every message names the file.
pub fn load(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<LoadedModel> {
    let header = Header::read(path, Arrays::Keep).map_err(|error| error.into_failure(path))?;
    let hyperparameters = check(&header).map_err(in_file(path))?;
    let mut weights = Weights::open(path, &header, progress)?;

    let vocab_size = weights.rows_of("token_embd.weight")?;
    if let Some(tokens) = header.metadata.array("tokenizer.ggml.tokens")
        && tokens.len() != vocab_size as u64
    {
        let problem = format!("{} tokens, but token_embd.weight has {vocab_size} rows", tokens.len());
        return Err(in_file(path)(corrupt("tokenizer.ggml.tokens", problem)));
    }
    let embedding = weights.matrix("token_embd.weight", hyperparameters.embedding_length, vocab_size)?;
    let rope = rope(&mut weights, &hyperparameters)?;
    // Not `with_capacity`: the count is unverified, and the first missing layer ends the loop.
    let mut layers = Vec::new();
    for index in 0..hyperparameters.layers {
        layers.push(layer(&mut weights, &hyperparameters, index)?);
    }
    let norm = weights.vector("output_norm.weight", hyperparameters.embedding_length)?;
    // A model without an output matrix uses the embedding's (tied embeddings).
    let output = match weights.has("output.weight") {
        true => weights.matrix("output.weight", hyperparameters.embedding_length, vocab_size)?,
        false => embedding.clone(),
    };
    weights.finish()?;
    let model = LlamaModel { hyperparameters, vocab_size, embedding, layers, norm, output, rope };
    Ok(LoadedModel { model, header })
}

fn rope(weights: &mut Weights<'_>, hyperparameters: &Hyperparameters) -> Result<Rope> {
    const FACTORS: &str = "rope_freqs.weight";
    let pairs = hyperparameters.rope_dimensions / 2;
    let factors = match weights.has(FACTORS) {
        true => weights.vector(FACTORS, pairs)?,
        false => vec![1.0; pairs],
    };
    if let Some(factor) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
        return Err(weights.corrupt(FACTORS, format_args!("{factor} is not a number above 0")));
    }
    Ok(Rope::new(hyperparameters, &factors))
}

fn layer(
    weights: &mut Weights<'_>,
    hyperparameters: &Hyperparameters,
    index: usize,
) -> Result<TransformerLayer> {
    let &Hyperparameters { embedding_length: embedding, feed_forward_length: feed_forward, .. } =
        hyperparameters;
    let name = |part: &str| format!("blk.{index}.{part}.weight");
    Ok(TransformerLayer {
        attention_norm: weights.vector(&name("attn_norm"), embedding)?,
        query: weights.matrix(&name("attn_q"), embedding, hyperparameters.query_width())?,
        key: weights.matrix(&name("attn_k"), embedding, hyperparameters.key_width())?,
        value: weights.matrix(&name("attn_v"), embedding, hyperparameters.value_width())?,
        attention_output: weights.matrix(
            &name("attn_output"),
            hyperparameters.attention_width(),
            embedding,
        )?,
        feed_forward_norm: weights.vector(&name("ffn_norm"), embedding)?,
        gate: weights.matrix(&name("ffn_gate"), embedding, feed_forward)?,
        up: weights.matrix(&name("ffn_up"), embedding, feed_forward)?,
        down: weights.matrix(&name("ffn_down"), feed_forward, embedding)?,
    })
}
