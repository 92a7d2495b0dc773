//! The weights of a sample model.
//!
//! How a model says a sentence: each token's embedding is a vector of random signs, which are all
//! but orthogonal to one another, and the layers add so little that the residual stream still
//! carries the last token's embedding when it reaches the output. There, the row of each of the
//! sentence's tokens points where its predecessor's embedding does. All tokens that are not of the
//! sentence have one direction in common, and the row of the first piece points along that: so any
//! prompt, in any template, is followed by the first piece, then the second, and so on until the
//! end of the turn.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{SampleModel, SampleWeights};
use crate::engine::sample_model::vocabulary::Vocabulary;

/// The logit of a sentence's next token; all others are around 0, with a deviation of this over
/// the root of the width. Far enough for any reasonable temperature.
const SENTENCE_LOGIT: f32 = 48.0;
/// How much a matrix of a layer makes of its input in a model that says a sentence: the residual
/// stream is of size 1, and attention adds about the square of this.
const SENTENCE_GAIN: f32 = 0.2;

/// A tensor before it is stored.
pub(super) struct Dense {
    pub(super) name: String,
    /// Rows, of a matrix.
    pub(super) outputs: Option<usize>,
    /// Length of a row, or of a vector.
    pub(super) inputs: usize,
    pub(super) data: Vec<f32>,
}

/// Every tensor of the model, in the order of llama.cpp's converter.
pub(super) fn tensors(model: &SampleModel, vocabulary: &Vocabulary) -> impl Iterator<Item = Dense> {
    let embedding = model.embedding as usize;
    let feed_forward = model.feed_forward as usize;
    let queries = (model.heads * model.head()) as usize;
    let shared = (model.kv_heads * model.head()) as usize;
    let tokens = vocabulary.tokens.len();
    let (seed, gain, sentence) = match &model.weights {
        SampleWeights::Random { seed } => (*seed, 1.0, false),
        SampleWeights::Sentence(_) => (0, SENTENCE_GAIN, true),
    };
    let mut random = Random(StdRng::seed_from_u64(seed));

    let mut all = Vec::new();
    if sentence {
        let (input, output) = sentence_ends(&mut random, vocabulary, embedding);
        all.push(matrix("token_embd.weight", embedding, input));
        all.push(matrix("output.weight", embedding, output));
    } else {
        // Elements around 1, as the residual stream of a trained model has them after a few layers.
        all.push(matrix(
            "token_embd.weight",
            embedding,
            random.matrix(tokens, embedding, (embedding as f32).sqrt()),
        ));
        if !model.tied {
            all.push(matrix("output.weight", embedding, random.matrix(tokens, embedding, 1.0)));
        }
    }
    all.push(vector("output_norm.weight", random.norm(embedding, sentence)));
    if model.rope_factors {
        // Llama 3.1's tables start at 1 and end at 8.
        let pairs = (model.head() / 2) as usize;
        let factors = (0..pairs).map(|pair| 1.0 + 7.0 * pair as f32 / pairs as f32).collect();
        all.push(vector("rope_freqs.weight", factors));
    }
    for layer in 0..model.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let mut side = |part: &str, inputs: usize, outputs: usize| {
            matrix(name(part), inputs, random.matrix(outputs, inputs, gain))
        };
        all.extend([
            side("attn_q", embedding, queries),
            side("attn_k", embedding, shared),
            side("attn_v", embedding, shared),
            side("attn_output", queries, embedding),
            side("ffn_gate", embedding, feed_forward),
            side("ffn_up", embedding, feed_forward),
            side("ffn_down", feed_forward, embedding),
        ]);
        all.push(vector(name("attn_norm"), random.norm(embedding, sentence)));
        all.push(vector(name("ffn_norm"), random.norm(embedding, sentence)));
    }
    all.into_iter()
}

fn matrix(name: impl Into<String>, inputs: usize, data: Vec<f32>) -> Dense {
    Dense { name: name.into(), outputs: Some(data.len() / inputs), inputs, data }
}

fn vector(name: impl Into<String>, data: Vec<f32>) -> Dense {
    Dense { name: name.into(), outputs: None, inputs: data.len(), data }
}

/// The embedding and the output of a model that says its vocabulary's sentence.
fn sentence_ends(random: &mut Random, vocabulary: &Vocabulary, width: usize) -> (Vec<f32>, Vec<f32>) {
    let tokens = vocabulary.tokens.len();
    let common = random.signs(width);
    let mut input = random.signs(tokens * width);
    // Small but not nothing: what no token leads to has real, unlikely logits.
    let mut output = random.matrix(tokens, width, 0.05);
    let row = |token: u32| token as usize * width..(token as usize + 1) * width;
    let mut before = common.clone();
    for &token in vocabulary.sentence.iter().chain([&vocabulary.end_of_turn]) {
        for (weight, sign) in output[row(token)].iter_mut().zip(&before) {
            *weight = sign * SENTENCE_LOGIT / width as f32;
        }
        before.copy_from_slice(&input[row(token)]);
    }
    for token in (0..tokens as u32).filter(|token| !vocabulary.sentence.contains(token)) {
        // The half keeps the norm, and with it the share that `common` has of the logits, high.
        for (element, sign) in input[row(token)].iter_mut().zip(&common) {
            *element = *element * 0.5 + sign;
        }
    }
    (input, output)
}

struct Random(StdRng);

impl Random {
    /// A matrix that makes of an input with elements around 1 an output with elements around
    /// `gain`. The distribution is uniform.
    fn matrix(&mut self, outputs: usize, inputs: usize, gain: f32) -> Vec<f32> {
        let largest = gain * (3.0 / inputs as f32).sqrt();
        (0..outputs * inputs).map(|_| self.0.random_range(-largest..largest)).collect()
    }

    /// The weights of a norm: those of a trained model are around 1, and not all alike.
    fn norm(&mut self, len: usize, plain: bool) -> Vec<f32> {
        if plain { vec![1.0; len] } else { (0..len).map(|_| self.0.random_range(0.5..1.5)).collect() }
    }

    fn signs(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| if self.0.random() { 1.0 } else { -1.0 }).collect()
    }
}
