//! Makes complete models: for tests, for benchmarks, and for a first run on a machine with neither a
//! model nor a network.
//!
//! The file has the metadata, tokenizer and chat template of a published llama model, so that every
//! program that reads GGUF (llama.cpp included) treats it like one. Only the weights differ: they are
//! random, or make the model answer with a given sentence (see `weights`).

mod weights;
mod vocabulary;
mod settings;

#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;

use rbee_kernels::encode::encode;

use self::settings::stored;
pub use self::settings::{SampleModel, SampleTokenizer, SampleWeights, WeightType};
use self::vocabulary::SampleVocabulary;
use super::hyperparameters::Architecture;
use crate::disk;
use crate::error::{Code, Failure, Result};
use crate::models::gguf::{Array, TensorType, Value, Writer};

impl SampleModel {
    /// Writes the model to `path`, over an existing file.
    ///
    /// # Errors
    /// `invalid_field` for an impossible shape (heads that do not divide the width, rows that are no
    /// multiple of the type's block); `io` or `disk_full` if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let writer = self.build()?;
        let failed = |error: &std::io::Error| Failure::io("write", path, error);
        let file = disk::open(OpenOptions::new().write(true).create(true).truncate(true), path);
        let mut file = BufWriter::new(file.map_err(|error| failed(&error))?);
        writer.write(&mut file).and_then(|()| file.flush()).map_err(|error| failed(&error))
    }

    /// The complete file, not yet written.
    pub(super) fn build(&self) -> Result<Writer> {
        let divides = |divisor: u32, number: u32| divisor > 0 && number.is_multiple_of(divisor);
        let heads_fit = divides(self.kv_heads, self.heads)
            && (self.head_length > 0 || divides(self.heads, self.embedding))
            && self.head_width().is_multiple_of(2);
        if !heads_fit {
            return Err(Failure::new(
                Code::InvalidField,
                format!(
                    "a sample model cannot have {} heads and {} key heads over a width of {}",
                    self.heads, self.kv_heads, self.embedding
                ),
            ));
        }
        let sentence = match &self.weights {
            SampleWeights::Random { .. } | SampleWeights::Repeated { .. } => "",
            SampleWeights::Sentence(sentence) => sentence,
        };
        let vocabulary = SampleVocabulary::new(self.tokenizer, sentence, self.vocabulary as usize);
        let mut writer = Writer::default();
        self.put_metadata(&mut writer, &vocabulary);
        for tensor in weights::tensors(self, &vocabulary) {
            self.put_tensor(&mut writer, tensor)?;
        }
        Ok(writer)
    }

    fn put_metadata(&self, writer: &mut Writer, vocabulary: &SampleVocabulary) {
        let text = |text: &str| Value::String(text.to_owned());
        let key = |name: &str| format!("{}.{name}", self.architecture.name());
        if self.architecture == Architecture::Gemma3 {
            writer.metadata(key("attention.sliding_window"), Value::U32(self.window));
        }
        writer
            .metadata("general.architecture", text(self.architecture.name()))
            .metadata("general.type", text("model"))
            .metadata("general.name", text(&self.name))
            .metadata("general.alignment", Value::U32(32))
            .metadata("general.file_type", Value::U32(stored(self.kind).1))
            .metadata("general.quantization_version", Value::U32(2))
            .metadata(key("context_length"), Value::U32(self.context_length))
            .metadata(key("embedding_length"), Value::U32(self.embedding))
            .metadata(key("block_count"), Value::U32(self.layers))
            .metadata(key("feed_forward_length"), Value::U32(self.feed_forward))
            .metadata(key("attention.head_count"), Value::U32(self.heads))
            .metadata(key("attention.head_count_kv"), Value::U32(self.kv_heads))
            .metadata(key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5))
            .metadata(key("attention.key_length"), Value::U32(self.head_width()))
            .metadata(key("attention.value_length"), Value::U32(self.head_width()))
            .metadata(key("rope.dimension_count"), Value::U32(self.head_width()))
            .metadata(key("rope.freq_base"), Value::F32(10_000.0))
            .metadata(key("vocab_size"), Value::U32(vocabulary.tokens.len() as u32))
            .metadata("tokenizer.ggml.tokens", Value::Array(Array::String(vocabulary.tokens.clone())))
            .metadata("tokenizer.ggml.token_type", Value::Array(Array::I32(vocabulary.types.clone())))
            .metadata("tokenizer.ggml.bos_token_id", Value::U32(vocabulary.bos))
            .metadata("tokenizer.ggml.eos_token_id", Value::U32(vocabulary.eos))
            .metadata("tokenizer.ggml.eot_token_id", Value::U32(vocabulary.end_of_turn))
            .metadata("tokenizer.ggml.add_bos_token", Value::Bool(true))
            .metadata("tokenizer.chat_template", text(vocabulary.template));
        if let Some(pooling) = self.pooling {
            writer.metadata(key("pooling_type"), Value::U32(pooling.number()));
        }
        match self.tokenizer {
            SampleTokenizer::Bpe => writer
                .metadata("tokenizer.ggml.model", text("gpt2"))
                .metadata("tokenizer.ggml.pre", text("llama-bpe"))
                .metadata("tokenizer.ggml.merges", Value::Array(Array::String(vocabulary.merges.clone()))),
            SampleTokenizer::SentencePiece => writer
                .metadata("tokenizer.ggml.model", text("llama"))
                .metadata("tokenizer.ggml.pre", text("default"))
                .metadata("tokenizer.ggml.scores", Value::Array(Array::F32(vocabulary.scores.clone())))
                .metadata("tokenizer.ggml.unknown_token_id", Value::U32(0))
                .metadata("tokenizer.ggml.add_space_prefix", Value::Bool(true)),
        };
    }

    fn put_tensor(&self, writer: &mut Writer, tensor: weights::DenseTensor) -> Result<()> {
        let weights::DenseTensor { name, outputs, inputs, data } = tensor;
        let Some(outputs) = outputs else {
            let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            writer.tensor(name, &[inputs as u64], TensorType::F32, bytes);
            return Ok(());
        };
        let kind = stored(self.kind).0;
        if !(inputs as u64).is_multiple_of(kind.block_elements()) {
            return Err(Failure::new(
                Code::InvalidField,
                format!("a sample model's {name} has rows of {inputs} elements, which {kind} cannot store"),
            )
            .hint(format!("make its widths multiples of {}", kind.block_elements())));
        }
        let drawn = encode(self.kind, &data);
        let length = drawn.len() / (data.len() / inputs) * outputs;
        let mut bytes = drawn.repeat(length.div_ceil(drawn.len()));
        bytes.truncate(length);
        writer.tensor(name, &[inputs as u64, outputs as u64], kind, bytes);
        Ok(())
    }
}
