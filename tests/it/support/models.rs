//! Model files that tests write.

use std::path::{Path, PathBuf};

use rbee_hive::engine::pooling::Pooling;
use rbee_hive::engine::sample_model::{SampleModel, SampleWeights};
use rbee_hive::engine::tokenizer::Tokenizer;
use rbee_hive::models::gguf::{Array, Arrays, Header, TensorType, Value as Gguf, Writer};
use serde_json::{Value, json};

/// Writes a small model that runs.
pub(crate) fn write_model(dir: &Path, stem: &str) -> PathBuf {
    write_model_that_says(dir, stem, "Hello from a small model.")
}

/// Writes a small model that runs, and answers everything with this text.
pub(crate) fn write_model_that_says(dir: &Path, stem: &str, text: &str) -> PathBuf {
    let path = dir.join(format!("{stem}.gguf"));
    let model = SampleModel {
        name: stem.to_owned(),
        weights: SampleWeights::Sentence(text.to_owned()),
        ..SampleModel::default()
    };
    model.write(&path).expect("a small model can be written");
    path
}

/// Writes a small model of an architecture that the built-in engine does not run.
pub(crate) fn write_foreign_model(folder: &Path, stem: &str) -> PathBuf {
    let file = write_model(folder, stem);
    let mut bytes = std::fs::read(&file).expect("a model");
    // Of the same length, so that the header stays sound.
    let (own, other) = (b"llama", b"gemma");
    for at in 0..bytes.len() - own.len() {
        if bytes[at..].starts_with(own) {
            bytes[at..at + own.len()].copy_from_slice(other);
        }
    }
    std::fs::write(&file, bytes).expect("a model can be changed");
    file
}

/// A GGUF file with a tensor of a type that the hive does not know.
pub(crate) fn unknown_model() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Gguf::String("llama".to_owned()));
    writer.tensor("output.weight", &[256], TensorType::Other(144), vec![1; 150]);
    let mut file = Vec::new();
    writer.write(&mut file).expect("a small file can be written");
    file
}

/// The bytes of a projector.
pub(crate) fn projector() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Gguf::String("clip".to_owned()));
    writer.tensor("v.weight", &[8], TensorType::F32, vec![1; 32]);
    let mut file = Vec::new();
    writer.write(&mut file).expect("a small file can be written");
    file
}

/// Writes a model of BERT's architecture with random weights: one for embeddings that its pooling (llama.cpp's number)
/// makes of tokens, or, where it has a head that scores, for reranking.
pub(crate) fn write_bert(dir: &Path, stem: &str, pooling: Option<u32>, has_head: bool) {
    const WIDTH: u64 = 32;
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u{2581}hello", "\u{2581}small", "\u{2581}model", "s"];
    let text = |text: &str| Gguf::String(text.to_owned());
    let mut writer = Writer::default();
    writer
        .metadata("general.architecture", text("bert"))
        .metadata("bert.context_length", Gguf::U32(64))
        .metadata("bert.embedding_length", Gguf::U32(WIDTH as u32))
        .metadata("bert.feed_forward_length", Gguf::U32(64))
        .metadata("bert.block_count", Gguf::U32(1))
        .metadata("bert.attention.head_count", Gguf::U32(2))
        .metadata("bert.attention.layer_norm_epsilon", Gguf::F32(1e-12))
        .metadata("bert.attention.causal", Gguf::Bool(false))
        .metadata("tokenizer.ggml.model", text("bert"))
        .metadata("tokenizer.ggml.pre", text("default"))
        .metadata("tokenizer.ggml.tokens", Gguf::Array(Array::String(words.map(str::to_owned).into())))
        .metadata("tokenizer.ggml.token_type", Gguf::Array(Array::I32(vec![3, 3, 3, 3, 1, 1, 1, 1])))
        .metadata("tokenizer.ggml.token_type_count", Gguf::U32(2))
        .metadata("tokenizer.ggml.padding_token_id", Gguf::U32(0))
        .metadata("tokenizer.ggml.unknown_token_id", Gguf::U32(1))
        .metadata("tokenizer.ggml.cls_token_id", Gguf::U32(2))
        .metadata("tokenizer.ggml.bos_token_id", Gguf::U32(2))
        .metadata("tokenizer.ggml.seperator_token_id", Gguf::U32(3))
        .metadata("tokenizer.ggml.eos_token_id", Gguf::U32(3));
    if let Some(pooling) = pooling {
        writer.metadata("bert.pooling_type", Gguf::U32(pooling));
    }
    let mut random = RandomTensors::default();
    let mut tensor = |name: &str, shape: &[u64]| random.add(&mut writer, name, shape);
    tensor("token_embd.weight", &[WIDTH, words.len() as u64]);
    tensor("token_types.weight", &[WIDTH, 2]);
    tensor("position_embd.weight", &[WIDTH, 64]);
    let norms = ["token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"];
    let square = ["attn_q", "attn_k", "attn_v", "attn_output"].map(|name| format!("blk.0.{name}"));
    let mut part = |name: &str, shape: &[u64]| random.add_part(&mut writer, name, shape);
    norms.iter().for_each(|name| part(name, &[WIDTH]));
    square.iter().for_each(|name| part(name, &[WIDTH, WIDTH]));
    part("blk.0.ffn_up", &[WIDTH, 64]);
    part("blk.0.ffn_down", &[64, WIDTH]);
    if has_head {
        part("cls.output", &[WIDTH, 1]);
    }
    let mut file = std::fs::File::create(dir.join(format!("{stem}.gguf"))).expect("a file");
    writer.write(&mut file).expect("a small model can be written");
}

/// Random tensors, the same in every run.
#[derive(Default)]
struct RandomTensors(u32);

impl RandomTensors {
    fn add(&mut self, writer: &mut Writer, name: &str, shape: &[u64]) {
        let mut random = || {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(self.0) / f64::from(u32::MAX) - 0.5) as f32
        };
        let count: u64 = shape.iter().product();
        let data = (0..count).flat_map(|_| random().to_le_bytes()).collect();
        writer.tensor(name, shape, TensorType::F32, data);
    }

    /// The weights of a part, of this shape, and the biases that are added to what they make.
    fn add_part(&mut self, writer: &mut Writer, name: &str, shape: &[u64]) {
        self.add(writer, &format!("{name}.weight"), shape);
        self.add(writer, &format!("{name}.bias"), &shape[shape.len() - 1..]);
    }
}

/// How many places of the context an image takes with the projector of [`write_projector`].
pub(crate) const IMAGE_TOKENS: u64 = 4;

/// Writes a projector that runs, with random weights, for models of the width of [`write_model`]'s: it scales an
/// image to 32 by 32 pixels, and makes one place of the context of 16 by 16.
pub(crate) fn write_projector(dir: &Path, name: &str) {
    const WIDTH: u64 = 16;
    const OF_MODEL: u64 = 256;
    let text = |text: &str| Gguf::String(text.to_owned());
    let of_colours = |value: f32| Gguf::Array(Array::F32(vec![value; 3]));
    let mut writer = Writer::default();
    writer
        .metadata("general.architecture", text("clip"))
        .metadata("clip.has_vision_encoder", Gguf::Bool(true))
        .metadata("clip.projector_type", text("gemma3"))
        .metadata("clip.use_gelu", Gguf::Bool(true))
        .metadata("clip.vision.image_size", Gguf::U32(32))
        .metadata("clip.vision.patch_size", Gguf::U32(8))
        .metadata("clip.vision.projector.scale_factor", Gguf::U32(2))
        .metadata("clip.vision.embedding_length", Gguf::U32(WIDTH as u32))
        .metadata("clip.vision.feed_forward_length", Gguf::U32(32))
        .metadata("clip.vision.projection_dim", Gguf::U32(OF_MODEL as u32))
        .metadata("clip.vision.block_count", Gguf::U32(1))
        .metadata("clip.vision.attention.head_count", Gguf::U32(2))
        .metadata("clip.vision.attention.layer_norm_epsilon", Gguf::F32(1e-6))
        .metadata("clip.vision.image_mean", of_colours(0.5))
        .metadata("clip.vision.image_std", of_colours(0.5));
    let mut random = RandomTensors::default();
    let mut part = |name: &str, shape: &[u64]| random.add_part(&mut writer, name, shape);
    part("v.patch_embd", &[8, 8, 3, WIDTH]);
    ["v.blk.0.ln1", "v.blk.0.ln2", "v.post_ln"].iter().for_each(|norm| part(norm, &[WIDTH]));
    for square in ["attn_q", "attn_k", "attn_v", "attn_out"] {
        part(&format!("v.blk.0.{square}"), &[WIDTH, WIDTH]);
    }
    part("v.blk.0.ffn_up", &[WIDTH, 32]);
    part("v.blk.0.ffn_down", &[32, WIDTH]);
    random.add(&mut writer, "v.position_embd.weight", &[WIDTH, 16]);
    random.add(&mut writer, "mm.soft_emb_norm.weight", &[WIDTH]);
    random.add(&mut writer, "mm.input_projection.weight", &[OF_MODEL, WIDTH]);
    let mut file = std::fs::File::create(dir.join(name)).expect("a file");
    writer.write(&mut file).expect("a small file can be written");
}

/// Writes a small model that makes embeddings: those of its random weights.
pub(crate) fn write_embedding_model(dir: &Path, stem: &str) {
    let model = SampleModel {
        name: stem.to_owned(),
        weights: SampleWeights::Random { seed: 3 },
        pooling: Some(Pooling::Mean),
        context_length: 64,
        ..SampleModel::default()
    };
    model.write(&dir.join(format!("{stem}.gguf"))).expect("a small model can be written");
}

/// Writes a model whose context is larger than a test can fill. It generates without end for a request with the
/// `logit_bias` that this gives, which forbids every token that ends a generation.
pub(crate) fn write_endless_model(dir: &Path, stem: &str) -> Value {
    let path = dir.join(format!("{stem}.gguf"));
    let model = SampleModel {
        name: stem.to_owned(),
        weights: SampleWeights::Random { seed: 7 },
        context_length: 1 << 20,
        ..SampleModel::default()
    };
    model.write(&path).expect("a model");
    let header = Header::read(&path, Arrays::Keep).expect("a sound file");
    let tokenizer = Tokenizer::from_metadata(&header.metadata).expect("a tokenizer");
    tokenizer.end_of_generation().iter().map(|id| (id.to_string(), json!(-100))).collect()
}
