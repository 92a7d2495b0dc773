//! A second implementation of the llama architecture, as simple as possible, that tests compare the
//! engine with: scalar loops over weights decoded to `f32`, with no cache, so that every position is
//! computed again for each token. It shares with the engine only the header's reader and candle's
//! decoding of quantised blocks.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::ggml_file::qtensor_from_ggml;

use super::weights::candle_type;
use crate::models::gguf::{Arrays, Header};

/// A model for the reference implementation.
pub(super) struct Reference {
    header: Header,
    tensors: HashMap<String, Vec<f32>>,
}

impl Reference {
    pub(super) fn read(path: &Path) -> Self {
        let header = Header::read(path, Arrays::Keep).unwrap();
        let file = std::fs::read(path).unwrap();
        let decoded = header.tensors.iter().map(|tensor| {
            let start = (header.data_offset + tensor.offset) as usize;
            let bytes = file[start..start + tensor.bytes as usize].to_vec();
            let dims = tensor.shape.iter().rev().map(|&n| n as usize).collect();
            let kind = candle_type(tensor.kind).unwrap();
            let decoded = qtensor_from_ggml(kind, &bytes, dims, &Device::Cpu).unwrap();
            let decoded = decoded.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            (tensor.name.clone(), decoded.to_vec1().unwrap())
        });
        Self { tensors: decoded.collect(), header }
    }

    fn number(&self, key: &str) -> usize {
        self.header.metadata.u64(&format!("llama.{key}")).unwrap() as usize
    }

    fn weights(&self, name: &str) -> &[f32] {
        &self.tensors[name]
    }

    fn norm(&self, x: &[f32], name: &str) -> Vec<f32> {
        let epsilon = self.header.metadata.f64("llama.attention.layer_norm_rms_epsilon").unwrap() as f32;
        let mut mean = 0.0;
        for x in x {
            mean += x * x;
        }
        mean /= x.len() as f32;
        let weights = self.weights(name);
        (0..x.len()).map(|i| x[i] / (mean + epsilon).sqrt() * weights[i]).collect()
    }

    fn product(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        self.weights(name).chunks(x.len()).map(dot).collect()
    }

    /// Rotates the pairs of neighbouring elements of one head at a position.
    fn rotate(&self, head: &mut [f32], position: usize) {
        let base = self.header.metadata.f64("llama.rope.freq_base").unwrap();
        let scale = self.header.metadata.f64("llama.rope.scaling.factor").unwrap_or(1.0);
        let dimensions = self.number("rope.dimension_count");
        for i in 0..dimensions / 2 {
            let factor = self.tensors.get("rope_freqs.weight").map_or(1.0, |factors| f64::from(factors[i]));
            let angle = position as f64 / scale / factor / base.powf(2.0 * i as f64 / dimensions as f64);
            let (a, b) = (f64::from(head[2 * i]), f64::from(head[2 * i + 1]));
            head[2 * i] = (a * angle.cos() - b * angle.sin()) as f32;
            head[2 * i + 1] = (a * angle.sin() + b * angle.cos()) as f32;
        }
    }

    /// The logits after the last of `tokens`.
    pub(super) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let width = self.number("embedding_length");
        let heads = self.number("attention.head_count");
        let kv_heads = self.number("attention.head_count_kv");
        let size =
            self.header.metadata.u64("llama.attention.key_length").map_or(width / heads, |n| n as usize);
        let embedding = self.weights("token_embd.weight");
        let mut stream: Vec<Vec<f32>> =
            tokens.iter().map(|&token| embedding[token as usize * width..][..width].to_vec()).collect();
        for layer in 0..self.number("block_count") {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for (position, x) in stream.iter().enumerate() {
                let h = self.norm(x, &name("attn_norm"));
                let mut query = self.product(&name("attn_q"), &h);
                let mut key = self.product(&name("attn_k"), &h);
                query.chunks_mut(size).for_each(|head| self.rotate(head, position));
                key.chunks_mut(size).for_each(|head| self.rotate(head, position));
                queries.push(query);
                keys.push(key);
                values.push(self.product(&name("attn_v"), &h));
            }
            for (position, x) in stream.iter_mut().enumerate() {
                let mut attended = vec![0.0; heads * size];
                for head in 0..heads {
                    let kv_start = head / (heads / kv_heads) * size;
                    let query = &queries[position][head * size..][..size];
                    let mut weights: Vec<f32> = (0..=position)
                        .map(|seen| {
                            let key = &keys[seen][kv_start..][..size];
                            let dot: f32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                            (dot / (size as f32).sqrt()).exp()
                        })
                        .collect();
                    let sum: f32 = weights.iter().sum();
                    weights.iter_mut().for_each(|weight| *weight /= sum);
                    for (seen, weight) in weights.iter().enumerate() {
                        for i in 0..size {
                            attended[head * size + i] += weight * values[seen][kv_start + i];
                        }
                    }
                }
                let attention = self.product(&name("attn_output"), &attended);
                for i in 0..width {
                    x[i] += attention[i];
                }
                let h = self.norm(x, &name("ffn_norm"));
                let gate = self.product(&name("ffn_gate"), &h);
                let up = self.product(&name("ffn_up"), &h);
                let inner: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let feed = self.product(&name("ffn_down"), &inner);
                for i in 0..width {
                    x[i] += feed[i];
                }
            }
        }
        let last = self.norm(stream.last().unwrap(), "output_norm.weight");
        let output = if self.tensors.contains_key("output.weight") { "output" } else { "token_embd" };
        self.product(&format!("{output}.weight"), &last)
    }
}
