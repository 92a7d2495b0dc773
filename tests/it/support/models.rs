//! Model files that tests write.

use std::path::{Path, PathBuf};

use rbee_hive::engine::sample_model::{SampleModel, SampleWeights};
use rbee_hive::engine::tokenizer::Tokenizer;
use rbee_hive::models::gguf::{Arrays, Header, TensorType, Value as Gguf, Writer};
use serde_json::{Value, json};

/// Writes a small model that runs.
pub(crate) fn write_model(dir: &Path, stem: &str) -> PathBuf {
    let path = dir.join(format!("{stem}.gguf"));
    let model = SampleModel {
        name: stem.to_owned(),
        weights: SampleWeights::Sentence("Hello from a small model.".to_owned()),
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
