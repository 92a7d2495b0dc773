//! A second implementation of the architectures, as simple as possible, that tests compare the engine with: scalar
//! loops over weights decoded to `f32`, with no cache, so that every position is computed again for each token. It
//! shares with the engine only the header's reader and the decoding of rows.

use std::collections::HashMap;
use std::path::Path;

use rbee_kernels::Builder;

use super::weights::computed;
use crate::models::gguf::{Arrays, Header};

/// A model for the reference implementation.
pub(super) struct Reference {
    header: Header,
    architecture: String,
    tensors: HashMap<String, Vec<f32>>,
}

impl Reference {
    pub(super) fn read(path: &Path) -> Self {
        let header = Header::read(path, Arrays::Keep).unwrap();
        let file = std::fs::read(path).unwrap();
        let decoded = header.tensors.iter().map(|tensor| {
            let start = (header.data_offset + tensor.offset) as usize;
            let columns = tensor.shape[0] as usize;
            let rows = tensor.shape.get(1).map_or(1, |rows| *rows as usize);
            let mut builder = Builder::new(computed(tensor.kind).unwrap(), rows, columns).unwrap();
            builder.push(&file[start..start + tensor.bytes as usize]);
            let matrix = builder.finish();
            let mut decoded = vec![0.0; rows * columns];
            for (row, out) in decoded.chunks_exact_mut(columns).enumerate() {
                matrix.row(row, out);
            }
            (tensor.name.clone(), decoded)
        });
        let architecture = header.architecture().unwrap().to_owned();
        Self { tensors: decoded.collect(), architecture, header }
    }

    fn number(&self, key: &str) -> usize {
        self.maybe(key).unwrap()
    }

    fn maybe(&self, key: &str) -> Option<usize> {
        self.header.metadata.u64(&format!("{}.{key}", self.architecture)).map(|number| number as usize)
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.header.metadata.f64(&format!("{}.{key}", self.architecture))
    }

    fn weights(&self, name: &str) -> &[f32] {
        &self.tensors[name]
    }

    /// The norm of each part of `x` that is as long as the weights; `x` itself where there are none.
    fn norm(&self, x: &[f32], name: &str) -> Vec<f32> {
        let Some(weights) = self.tensors.get(name) else { return x.to_vec() };
        let epsilon = self.float("attention.layer_norm_rms_epsilon").unwrap() as f32;
        let mut out = Vec::new();
        for x in x.chunks(weights.len()) {
            let mut mean = 0.0;
            for x in x {
                mean += x * x;
            }
            mean /= x.len() as f32;
            out.extend((0..x.len()).map(|i| x[i] / (mean + epsilon).sqrt() * weights[i]));
        }
        out
    }

    fn product(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        let mut product: Vec<f32> =
            self.weights(&format!("{name}.weight")).chunks(x.len()).map(dot).collect();
        if let Some(bias) = self.tensors.get(&format!("{name}.bias")) {
            for i in 0..product.len() {
                product[i] += bias[i];
            }
        }
        product
    }

    /// How many tokens a token of this layer sees, where not all.
    fn window(&self, layer: usize) -> Option<usize> {
        if self.architecture == "gemma3" && layer % 6 < 5 {
            self.maybe("attention.sliding_window")
        } else {
            None
        }
    }

    /// Rotates the pairs of elements of one head at a position.
    fn rotate(&self, head: &mut [f32], position: usize, layer: usize) {
        let (mut base, mut scale) =
            (self.float("rope.freq_base").unwrap(), self.float("rope.scaling.factor").unwrap_or(1.0));
        if self.window(layer).is_some() {
            (base, scale) = (10_000.0, 1.0);
        }
        let dimensions = self.number("rope.dimension_count");
        for i in 0..dimensions / 2 {
            let factor = self.tensors.get("rope_freqs.weight").map_or(1.0, |factors| f64::from(factors[i]));
            let angle = position as f64 / scale / factor / base.powf(2.0 * i as f64 / dimensions as f64);
            let (first, second) =
                if self.architecture == "llama" { (2 * i, 2 * i + 1) } else { (i, i + dimensions / 2) };
            let (a, b) = (f64::from(head[first]), f64::from(head[second]));
            head[first] = (a * angle.cos() - b * angle.sin()) as f32;
            head[second] = (a * angle.sin() + b * angle.cos()) as f32;
        }
    }

    fn activation(&self, x: f32) -> f32 {
        if self.architecture == "gemma3" {
            return x / 2.0
                * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
        }
        x / (1.0 + (-x).exp())
    }

    /// The logits after the last of `tokens`.
    pub(super) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let width = self.number("embedding_length");
        let heads = self.number("attention.head_count");
        let kv_heads = self.number("attention.head_count_kv");
        let size = self.maybe("attention.key_length").unwrap_or(width / heads);
        let embedding = self.weights("token_embd.weight");
        let scale = if self.architecture == "gemma3" { (width as f32).sqrt() } else { 1.0 };
        let row =
            |token: u32| embedding[token as usize * width..][..width].iter().map(|x| x * scale).collect();
        let mut stream: Vec<Vec<f32>> = tokens.iter().map(|&token| row(token)).collect();
        for layer in 0..self.number("block_count") {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let norm_name = |part: &str| format!("blk.{layer}.{part}.weight");
            let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for (position, x) in stream.iter().enumerate() {
                let h = self.norm(x, &norm_name("attn_norm"));
                let mut query = self.norm(&self.product(&name("attn_q"), &h), &norm_name("attn_q_norm"));
                let mut key = self.norm(&self.product(&name("attn_k"), &h), &norm_name("attn_k_norm"));
                query.chunks_mut(size).for_each(|head| self.rotate(head, position, layer));
                key.chunks_mut(size).for_each(|head| self.rotate(head, position, layer));
                queries.push(query);
                keys.push(key);
                values.push(self.product(&name("attn_v"), &h));
            }
            for (position, x) in stream.iter_mut().enumerate() {
                let first = self.window(layer).map_or(0, |window| (position + 1).saturating_sub(window));
                let mut attended = vec![0.0; heads * size];
                for head in 0..heads {
                    let kv_start = head / (heads / kv_heads) * size;
                    let query = &queries[position][head * size..][..size];
                    let mut weights: Vec<f32> = (first..=position)
                        .map(|seen| {
                            let key = &keys[seen][kv_start..][..size];
                            let dot: f32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                            (dot / (size as f32).sqrt()).exp()
                        })
                        .collect();
                    let sum: f32 = weights.iter().sum();
                    weights.iter_mut().for_each(|weight| *weight /= sum);
                    for (seen, weight) in (first..).zip(&weights) {
                        for i in 0..size {
                            attended[head * size + i] += weight * values[seen][kv_start + i];
                        }
                    }
                }
                let attention = self.product(&name("attn_output"), &attended);
                let attention = self.norm(&attention, &norm_name("post_attention_norm"));
                for i in 0..width {
                    x[i] += attention[i];
                }
                let h = self.norm(x, &norm_name("ffn_norm"));
                let gate = self.product(&name("ffn_gate"), &h);
                let up = self.product(&name("ffn_up"), &h);
                let inner: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| self.activation(*g) * u).collect();
                let feed = self.norm(&self.product(&name("ffn_down"), &inner), &norm_name("post_ffw_norm"));
                for i in 0..width {
                    x[i] += feed[i];
                }
            }
        }
        let last = self.norm(stream.last().unwrap(), "output_norm.weight");
        let output = if self.tensors.contains_key("output.weight") { "output" } else { "token_embd" };
        self.product(output, &last)
    }
}
