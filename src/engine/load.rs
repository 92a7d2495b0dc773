//! Reads a GGUF file into a model that is ready to compute.

#[cfg(test)]
mod tests;

use std::path::Path;

use super::forward::{Layer, Projection, Transformer};
use super::hyperparameters::{Architecture, Hyperparameters};
use super::model_error::{corrupt, in_file, unsupported};
use super::rope::Rope;
use super::tokenizer;
use super::weights::{Weights, computed};
use crate::error::{Code, Result};
use crate::models::gguf::{Arrays, Header, TensorInfo, escaped};

/// A model and its file's header, which describes the tokenizer and the chat template.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model, ready to compute.
    pub model: Transformer,
    /// The header, with its arrays.
    pub header: Header,
}

/// Why the engine cannot run the model of this header, as far as it tells; `None` where it may be able to. A header
/// that contradicts itself is no obstacle of this engine, but a fault of the file, which its load tells.
#[must_use]
pub fn obstacle(header: &Header) -> Option<String> {
    let checked = check(header).and_then(|_| tokenizer::check(&header.metadata));
    if let Err(failure) = checked {
        return Some(failure.message).filter(|_| failure.code == Code::ModelUnsupported);
    }
    let tensor = header.tensors.iter().find(|tensor| computed(tensor.kind).is_none())?;
    let (name, kind) = (escaped(&tensor.name), tensor.kind);
    Some(format!("tensor {name} has the type {kind}, with which the built-in engine cannot compute"))
}

/// Why the engine cannot run models of that architecture; `None` where it may be able to.
#[must_use]
pub(crate) fn obstacle_of_architecture(name: &str) -> Option<String> {
    Architecture::named(name).err().map(|failure| failure.message)
}

/// Bytes that a tensor takes in the memory of this engine.
pub(crate) fn bytes_in_memory(tensor: &TensorInfo) -> u64 {
    let sides = |index: usize| tensor.shape.get(index).map_or(Some(1), |&side| usize::try_from(side).ok());
    match (computed(tensor.kind), sides(0), sides(1)) {
        // Vectors are in F32.
        (Some(_), Some(columns), _) if tensor.shape.len() < 2 => 4 * columns as u64,
        (Some(kind), Some(columns), Some(rows)) => kind.bytes(rows, columns) as u64,
        _ => tensor.bytes,
    }
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
    let factors = rope_factors(&mut weights, hyperparameters.rope_dimensions / 2)?;
    let neighbours = hyperparameters.architecture.rotates_neighbours();
    let rope =
        Rope::new(hyperparameters.rope_base, hyperparameters.rope_scaling_factor, &factors, neighbours);
    let window_rope =
        hyperparameters.window.map(|window| Rope::new(window.rope_base, 1.0, &factors, neighbours));
    // Not `with_capacity`: the count is unverified, and the first missing layer ends the loop.
    let mut layers = Vec::new();
    for index in 0..hyperparameters.layers {
        layers.push(layer(&mut weights, &hyperparameters, index)?);
    }
    let norm = weights.vector("output_norm.weight", hyperparameters.embedding_length)?;
    let output = match weights.has("output.weight") {
        true => Some(weights.matrix("output.weight", hyperparameters.embedding_length, vocab_size)?),
        false => None,
    };
    weights.finish()?;
    let model = Transformer { hyperparameters, embedding, layers, norm, output, rope, window_rope };
    Ok(LoadedModel { model, header })
}

fn rope_factors(weights: &mut Weights<'_>, pairs: usize) -> Result<Vec<f32>> {
    const FACTORS: &str = "rope_freqs.weight";
    let factors = weights.vector_if_there(FACTORS, pairs)?.unwrap_or_else(|| vec![1.0; pairs]);
    if let Some(factor) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
        return Err(weights.corrupt(FACTORS, format_args!("{factor} is not a number above 0")));
    }
    Ok(factors)
}

fn layer(weights: &mut Weights<'_>, shape: &Hyperparameters, index: usize) -> Result<Layer> {
    let &Hyperparameters { embedding_length: embedding, feed_forward_length: feed_forward, .. } = shape;
    let name = |part: &str| format!("blk.{index}.{part}.weight");
    let architecture = shape.architecture;
    let mut projection = |part: &str, width: usize| -> Result<Projection> {
        Ok(Projection {
            matrix: weights.matrix(&name(part), embedding, width)?,
            bias: match architecture {
                Architecture::Qwen2 => weights.vector_if_there(&format!("blk.{index}.{part}.bias"), width)?,
                _ => None,
            },
        })
    };
    let (query, key, value) = (
        projection("attn_q", shape.query_width())?,
        projection("attn_k", shape.key_width())?,
        projection("attn_v", shape.value_width())?,
    );
    let mut norm = |is_there: bool, part: &str, width: usize| {
        is_there.then(|| weights.vector(&name(part), width)).transpose()
    };
    let (head_norms, post_norms) = (architecture.has_head_norms(), architecture.has_post_norms());
    let (query_norm, key_norm) = (
        norm(head_norms, "attn_q_norm", shape.key_length)?,
        norm(head_norms, "attn_k_norm", shape.key_length)?,
    );
    let (attention_post_norm, feed_forward_post_norm) =
        (norm(post_norms, "post_attention_norm", embedding)?, norm(post_norms, "post_ffw_norm", embedding)?);
    Ok(Layer {
        attention_norm: weights.vector(&name("attn_norm"), embedding)?,
        query,
        key,
        value,
        query_norm,
        key_norm,
        attention_output: weights.matrix(&name("attn_output"), shape.attention_width(), embedding)?,
        attention_post_norm,
        feed_forward_norm: weights.vector(&name("ffn_norm"), embedding)?,
        gate: weights.matrix(&name("ffn_gate"), embedding, feed_forward)?,
        up: weights.matrix(&name("ffn_up"), embedding, feed_forward)?,
        down: weights.matrix(&name("ffn_down"), feed_forward, embedding)?,
        feed_forward_post_norm,
    })
}
