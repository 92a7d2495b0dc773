//! The weights of a sample model.
//!
//! How a model answers with a sentence: each token's embedding is a vector of random signs, so that
//! any two embeddings are almost orthogonal. The layers add so little that the residual stream is
//! still close to the last token's embedding when it reaches the output matrix. There, the row of
//! each token of the sentence has the direction of the embedding of the token before it. The
//! embeddings of all tokens outside the sentence have one direction in common, and the row of the
//! sentence's first token has that direction. So after any prompt, in any template, the model
//! generates the first token, then the second, and so on until the end of the turn.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::settings::{SampleModel, SampleWeights};
use super::vocabulary::SampleVocabulary;
use crate::engine::hyperparameters::Architecture;

/// The logit of a sentence's next token. All others are around 0, with a standard deviation of this
/// over the square root of the width: far enough apart for any reasonable temperature.
const SENTENCE_LOGIT: f32 = 48.0;
/// The gain of the layers' matrices in a model that answers with a sentence. The elements of the
/// residual stream are around 1, and attention adds about the square of this.
const SENTENCE_GAIN: f32 = 0.2;

/// Rows that are drawn of a matrix whose rows repeat.
const DRAWN_ROWS: usize = 64;

/// A tensor in F32, before it is quantised.
pub(super) struct DenseTensor {
    pub(super) name: String,
    /// Number of rows; none for a vector.
    pub(super) outputs: Option<usize>,
    /// Length of a row or of the vector.
    pub(super) inputs: usize,
    /// The first rows at least; where there are fewer than `outputs`, they repeat.
    pub(super) data: Vec<f32>,
}

/// Every tensor of the model, in the order of llama.cpp's converter.
pub(super) fn tensors(
    model: &SampleModel,
    vocabulary: &SampleVocabulary,
) -> impl Iterator<Item = DenseTensor> {
    let embedding = model.embedding as usize;
    let feed_forward = model.feed_forward as usize;
    let query_width = (model.heads * model.head_width()) as usize;
    let kv_width = (model.kv_heads * model.head_width()) as usize;
    let tokens = vocabulary.tokens.len();
    let (seed, gain, sentence) = match &model.weights {
        SampleWeights::Random { seed } | SampleWeights::Repeated { seed } => (*seed, 1.0, false),
        SampleWeights::Sentence(_) => (0, SENTENCE_GAIN, true),
    };
    let drawn = match &model.weights {
        SampleWeights::Repeated { .. } => DRAWN_ROWS,
        _ => usize::MAX,
    };
    let mut random = Random(StdRng::seed_from_u64(seed));

    let mut all = Vec::new();
    if sentence {
        let (input, output) = sentence_matrices(&mut random, vocabulary, embedding);
        all.push(matrix("token_embd.weight", embedding, tokens, input));
        all.push(matrix("output.weight", embedding, tokens, output));
    } else {
        // Elements around 1, as in the residual stream of a trained model after a few layers.
        let mut of_tokens = |name: &str, gain: f32| {
            matrix(name, embedding, tokens, random.matrix(tokens.min(drawn), embedding, gain))
        };
        all.push(of_tokens("token_embd.weight", (embedding as f32).sqrt()));
        if !model.tied {
            all.push(of_tokens("output.weight", 1.0));
        }
    }
    all.push(vector("output_norm.weight", random.norm(embedding, sentence)));
    if model.rope_factors {
        // Llama 3.1's tables start at 1 and end at 8.
        let pairs = (model.head_width() / 2) as usize;
        let factors = (0..pairs).map(|pair| 1.0 + 7.0 * pair as f32 / pairs as f32).collect();
        all.push(vector("rope_freqs.weight", factors));
    }
    for layer in 0..model.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let mut layer_matrix = |part: &str, inputs: usize, outputs: usize| {
            matrix(name(part), inputs, outputs, random.matrix(outputs.min(drawn), inputs, gain))
        };
        all.extend([
            layer_matrix("attn_q", embedding, query_width),
            layer_matrix("attn_k", embedding, kv_width),
            layer_matrix("attn_v", embedding, kv_width),
            layer_matrix("attn_output", query_width, embedding),
            layer_matrix("ffn_gate", embedding, feed_forward),
            layer_matrix("ffn_up", embedding, feed_forward),
            layer_matrix("ffn_down", feed_forward, embedding),
        ]);
        let head_width = model.head_width() as usize;
        let mut norm = |part: &str, width: usize| all.push(vector(name(part), random.norm(width, sentence)));
        norm("attn_norm", embedding);
        norm("ffn_norm", embedding);
        if model.architecture.has_head_norms() {
            norm("attn_q_norm", head_width);
            norm("attn_k_norm", head_width);
        }
        if model.architecture.has_post_norms() {
            norm("post_attention_norm", embedding);
            norm("post_ffw_norm", embedding);
        }
        if model.architecture == Architecture::Qwen2 {
            for (part, width) in [("attn_q", query_width), ("attn_k", kv_width), ("attn_v", kv_width)] {
                let bias = random.matrix(1, width, gain);
                all.push(vector(format!("blk.{layer}.{part}.bias"), bias));
            }
        }
    }
    all.into_iter()
}

fn matrix(name: impl Into<String>, inputs: usize, outputs: usize, data: Vec<f32>) -> DenseTensor {
    DenseTensor { name: name.into(), outputs: Some(outputs), inputs, data }
}

fn vector(name: impl Into<String>, data: Vec<f32>) -> DenseTensor {
    DenseTensor { name: name.into(), outputs: None, inputs: data.len(), data }
}

/// The embedding and the output matrix of a model that answers with the vocabulary's sentence.
fn sentence_matrices(
    random: &mut Random,
    vocabulary: &SampleVocabulary,
    width: usize,
) -> (Vec<f32>, Vec<f32>) {
    let tokens = vocabulary.tokens.len();
    let common = random.signs(width);
    let mut input = random.signs(tokens * width);
    // Small but not zero, so that tokens outside the sentence have ordinary, low logits.
    let mut output = random.matrix(tokens, width, 0.05);
    let row = |token: u32| token as usize * width..(token as usize + 1) * width;
    let mut previous = common.clone();
    for &token in vocabulary.sentence.iter().chain([&vocabulary.end_of_turn]) {
        for (weight, sign) in output[row(token)].iter_mut().zip(&previous) {
            *weight = sign * SENTENCE_LOGIT / width as f32;
        }
        previous.copy_from_slice(&input[row(token)]);
    }
    for token in (0..tokens as u32).filter(|token| !vocabulary.sentence.contains(token)) {
        // Half of the token's own signs, so that `common` dominates after the norm.
        for (element, sign) in input[row(token)].iter_mut().zip(&common) {
            *element = *element * 0.5 + sign;
        }
    }
    (input, output)
}

/// A generator of random weights.
struct Random(StdRng);

impl Random {
    /// A matrix of uniformly distributed elements. For an input with elements around 1 its output has
    /// elements around `gain`.
    fn matrix(&mut self, outputs: usize, inputs: usize, gain: f32) -> Vec<f32> {
        let largest = gain * (3.0 / inputs as f32).sqrt();
        (0..outputs * inputs).map(|_| self.0.random_range(-largest..largest)).collect()
    }

    /// The weights of a norm: all 1 if `plain`, else around 1, as in a trained model.
    fn norm(&mut self, len: usize, plain: bool) -> Vec<f32> {
        if plain { vec![1.0; len] } else { (0..len).map(|_| self.0.random_range(0.5..1.5)).collect() }
    }

    fn signs(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| if self.0.random() { 1.0 } else { -1.0 }).collect()
    }
}
