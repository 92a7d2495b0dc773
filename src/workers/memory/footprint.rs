//! What a model's header tells of the memory that the model needs.

use std::path::Path;

use super::layers::{Layers, OVERHEAD_CPU};
use crate::config::FlashAttention;
use crate::engine::forward::working_bytes;
use crate::engine::load;
use crate::models::gguf::{Arrays, Header, TensorInfo, TensorType};
use crate::models::{Needs, Task, Traits, is_encoder};
use crate::workers::device::Device;
use crate::workers::engines::{Engine, ModelStorage};
use crate::workers::place::{Estimate, margin};

/// Tokens of context where a request names none. Models are trained for far more, and the memory for
/// that would surprise users.
pub(crate) const DEFAULT_CONTEXT: u64 = 8192;
/// What a worker of the built-in engine takes for any model, with its code: measured. A debug build has more code.
const BUILTIN_FIXED: u64 = if cfg!(debug_assertions) { 41 << 20 } else { 25 << 20 };
/// How often the built-in engine has the texts of a file's header in memory: as they are read, and in each of its
/// tables. What is freed after the load is not given back.
const COPIES_OF_TEXTS: u64 = 4;
/// Bytes of a place in all hash tables of tokens together, with a vocabulary of byte pairs and with another: measured.
const BYTES_OF_A_PLACE: [u64; 2] = [100, 40];

/// What a worker takes of a GPU besides its model and buffers: the driver's context, the engine's code, and what the
/// first prompt brings. Measured of llama.cpp's server on an H200 (`docs/GPU.md`); others may take less.
const GPU_CONTEXT: u64 = 616 << 20;
/// What it takes more for products in half precision, which are the driver's library's: measured.
const GPU_HALF_PRECISION: u64 = 96 << 20;
/// Tokens of a prompt that llama.cpp's server computes together, unless it is told otherwise.
const BATCH: u64 = 512;
/// What of [`OVERHEAD_CPU`] is for buffers.
const BUFFERS_CPU: u64 = OVERHEAD_CPU / 2;

/// What a model's header tells of the memory that the model needs, and of who can run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::workers) struct ModelFootprint {
    /// Bytes of all tensors.
    weights: u64,
    /// Bytes of the tensors in half precision.
    half_precision: u64,
    /// The bytes of the parts that can be on different devices.
    pub(in crate::workers) layers: Layers,
    /// Bytes of all tensors in the memory of the built-in engine.
    in_own_form: u64,
    /// Tokens that it knows.
    vocabulary: u64,
    /// Bytes of its vocabulary in the memory of the built-in engine.
    vocabulary_bytes: u64,
    /// Heads of queries of a block.
    heads: u64,
    /// Width of the residual stream.
    embedding: u64,
    /// Width of the feed-forward network.
    feed_forward: u64,
    /// Elements of the KV cache for each token of context.
    cache_elements: u64,
    /// Tokens of context that it was trained for.
    trained_context: Option<u64>,
    /// Whether it only reads text: it has no scores of the vocabulary.
    is_encoder: bool,
    /// What it is for, and what its chat template knows.
    pub(in crate::workers) traits: Traits,
    /// What it asks of an engine.
    pub(in crate::workers) needs: Needs,
}

impl ModelFootprint {
    /// Reads the header of a model; `None` where the file is not a GGUF file. Blocks.
    pub(in crate::workers) fn read(path: &Path) -> Option<Self> {
        let header = Header::read(path, Arrays::Skip)
            .inspect_err(|error| tracing::debug!(path = %path.display(), %error, "cannot estimate the memory of a model"))
            .ok()?;
        let mut model = Self::of(&header);
        for part in crate::models::other_parts(path) {
            match Header::read(&part, Arrays::Skip) {
                Ok(header) => {
                    model.add(&header.tensors);
                    model.needs.add(&header.tensors);
                }
                // It has little but weights.
                Err(_) => model.weights = model.weights.saturating_add(length(&part)),
            }
        }
        Some(model)
    }

    fn of(header: &Header) -> Self {
        let number = |key: &str| header.metadata.u64(&format!("{}.{key}", header.architecture()?));
        let heads = number("attention.head_count").unwrap_or(0);
        // It is an array where it differs between layers; then every layer counts like the widest.
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let width = number("embedding_length").unwrap_or(0).checked_div(heads).unwrap_or(0);
        let keys = number("attention.key_length").unwrap_or(width);
        let values = number("attention.value_length").unwrap_or(width);
        let vocabulary =
            header.tensor("token_embd.weight").and_then(|tensor| tensor.shape.get(1).copied()).unwrap_or(0);
        let mut model = Self {
            weights: 0,
            half_precision: 0,
            in_own_form: 0,
            vocabulary,
            vocabulary_bytes: vocabulary_bytes(header, vocabulary),
            heads,
            embedding: number("embedding_length").unwrap_or(0),
            feed_forward: number("feed_forward_length").unwrap_or(0),
            layers: Layers::default(),
            cache_elements: number("block_count")
                .unwrap_or(0)
                .saturating_mul(kv_heads)
                .saturating_mul(keys.saturating_add(values)),
            trained_context: header.context_length(),
            is_encoder: header.architecture().is_some_and(is_encoder),
            traits: Traits::of(header),
            needs: Needs::of(header, load::obstacle(header)),
        };
        model.add(&header.tensors);
        model
    }

    fn add(&mut self, tensors: &[TensorInfo]) {
        for tensor in tensors {
            self.weights = self.weights.saturating_add(tensor.bytes);
            if matches!(tensor.kind, TensorType::F16 | TensorType::Bf16) {
                self.half_precision = self.half_precision.saturating_add(tensor.bytes);
            }
            self.in_own_form = self.in_own_form.saturating_add(load::bytes_in_memory(tensor));
            self.layers.add(&tensor.name, tensor.bytes);
        }
    }

    /// The footprint with that of its projector, whose whole file is in memory.
    pub(in crate::workers) fn with(mut self, projector_bytes: u64) -> Self {
        self.weights = self.weights.saturating_add(projector_bytes);
        self.layers.add_first(projector_bytes);
        self
    }

    /// The tokens of context of each slot for a request of this many: at most as many as the model was
    /// trained for.
    pub(in crate::workers) fn context(&self, requested: Option<u64>) -> u64 {
        let trained_context = self.trained_context.unwrap_or(u64::MAX).max(1);
        requested.unwrap_or(DEFAULT_CONTEXT).clamp(1, trained_context)
    }

    /// The memory that it will need on this engine, wholly on this device, with this context and number of
    /// slots.
    pub(in crate::workers) fn estimate(
        &self,
        engine: &Engine,
        device: Device,
        context: Option<u64>,
        slots: Option<u32>,
    ) -> Estimate {
        let (context, slots) = (self.context(context), u64::from(slots.unwrap_or(1)));
        // The size of a cache element is in bits, because quantised caches have elements of 4 or 8.
        let (weights, bits) = match engine.storage {
            ModelStorage::BuiltIn => (self.in_own_form, 16),
            ModelStorage::AsInFile { cache_bits } if device.is_cpu() => (self.weights, cache_bits),
            // The matrix of the embeddings is the processor's.
            ModelStorage::AsInFile { cache_bits } => (self.layers.on_one_gpu(), cache_bits),
        };
        // Each token leaves a key and a value in each layer.
        let cache =
            self.cache_elements.saturating_mul(context).saturating_mul(slots).saturating_mul(bits) / 8;
        let (fixed, grows) = match engine.storage {
            ModelStorage::BuiltIn => {
                let working = working_bytes(self.embedding, self.feed_forward, context);
                (self.builtin_overhead(working), cache.saturating_add(working))
            }
            ModelStorage::AsInFile { .. } if device.is_cpu() => {
                let more = self.buffers(engine, context).saturating_sub(BUFFERS_CPU);
                (OVERHEAD_CPU.saturating_add(more), 0)
            }
            ModelStorage::AsInFile { .. } => (self.gpu_overhead(engine, context), 0),
        };
        let overhead = fixed.saturating_add(margin(weights));
        Estimate { weights, cache, overhead, context, slots, grows, formula: None }
    }

    /// What a worker takes of a GPU besides weights and cache.
    fn gpu_overhead(&self, engine: &Engine, context: u64) -> u64 {
        let products = if self.half_precision > 0 { GPU_HALF_PRECISION } else { 0 };
        GPU_CONTEXT.saturating_add(products).saturating_add(self.buffers(engine, context))
    }

    /// The buffers of llama.cpp's server, for as many tokens as it computes together. They hold the activations in F32
    /// (of each token, those of five rows of the stream and two of the feed-forward network are there at once), without
    /// flash attention the scores of attention too, and its mask. A model that makes vectors has all tokens as its
    /// outputs: unless it is an encoder, also their scores of the vocabulary are computed, once the activations are not
    /// needed any more.
    fn buffers(&self, engine: &Engine, context: u64) -> u64 {
        let activations =
            self.feed_forward.saturating_mul(2).saturating_add(self.embedding.saturating_mul(5));
        let (scores, mask) = if engine.flag_value("--flash-attn") == Some(FlashAttention::Off.name()) {
            (self.heads.saturating_mul(context), 4)
        } else {
            (0, 2)
        };
        let has_scores = self.traits.task != Task::Text && !self.is_encoder;
        let outputs = self.embedding.saturating_add(if has_scores { self.vocabulary } else { 0 });
        let widest = activations.saturating_add(scores).max(outputs);
        let token = widest.saturating_mul(4).saturating_add(context.saturating_mul(mask));
        let size = |flag: &str| engine.flag_value(flag).and_then(|value| value.parse::<u64>().ok());
        let batch = size("--ubatch-size").unwrap_or(BATCH).min(size("--batch-size").unwrap_or(u64::MAX));
        token.saturating_mul(batch)
    }

    /// What the built-in engine takes besides weights and cache: its code, the vocabulary, and what it works with.
    fn builtin_overhead(&self, working: u64) -> u64 {
        BUILTIN_FIXED.saturating_add(self.vocabulary_bytes).saturating_add(working)
    }
}

/// The bytes that the built-in engine takes for a vocabulary of so many tokens: their texts and merges, which are
/// nearly all of a header, and hash tables, which have a power of two of places and are at most seven eighths full.
fn vocabulary_bytes(header: &Header, tokens: u64) -> u64 {
    let [byte_pairs, other] = BYTES_OF_A_PLACE;
    let place = if header.metadata.str("tokenizer.ggml.model") == Some("gpt2") { byte_pairs } else { other };
    let places = tokens.saturating_add(tokens / 7).checked_next_power_of_two().unwrap_or(u64::MAX);
    header.data_offset.saturating_mul(COPIES_OF_TEXTS).saturating_add(places.saturating_mul(place))
}

/// The bytes of a file; 0 where it cannot be looked at. Blocks.
pub(in crate::workers) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sample_model::{SampleModel, WeightType};

    fn footprint(kind: WeightType) -> ModelFootprint {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        SampleModel { kind, ..SampleModel::default() }.write(&path).unwrap();
        ModelFootprint::read(&path).unwrap()
    }

    #[test]
    fn plans_for_a_gpu_agree_with_what_was_measured_on_one() {
        // On an H200, after a prompt, in MiB: `docs/GPU.md`.
        const LARGE: (u64, u64, u64) = (4096, 16, 2928);
        const WITH_VOCABULARY: (u64, u64, u64) = (4096, 16, 3457);
        const SMALL: (u64, u64, u64) = (2048, 8, 691);
        let measured = [
            (LARGE, 8192, 1, 4146),
            (LARGE, 1024, 1, 3690),
            (LARGE, 8192, 4, 5682),
            (LARGE, 65536, 1, 7786),
            (WITH_VOCABULARY, 8192, 1, 4676),
            (WITH_VOCABULARY, 1024, 1, 4220),
            (WITH_VOCABULARY, 8192, 4, 6212),
            (WITH_VOCABULARY, 65536, 1, 8316),
            (SMALL, 1024, 1, 1456),
            (SMALL, 8192, 1, 1574),
            (SMALL, 32768, 2, 2494),
        ];
        let gpu = Device::Exact { kind: crate::config::DeviceKind::Cuda, index: 0 };
        let server =
            Engine { storage: ModelStorage::AsInFile { cache_bits: 16 }, ..Engine::builtin("p".into()) };
        for (shape, context, slots, taken) in measured {
            let mib = |count: u64| count << 20;
            let (width, blocks, weights) = (shape.0, shape.1, mib(shape.2));
            let mut model = ModelFootprint {
                embedding: width,
                feed_forward: width * 11 / 4,
                // A quarter of the heads has keys and values.
                cache_elements: blocks * width / 4 * 2,
                half_precision: if shape == SMALL { weights } else { 0 },
                trained_context: Some(131_072),
                layers: Layers::default(),
                ..footprint(WeightType::Q8_0)
            };
            model.layers.add("blk.0.x", weights);
            model.layers.add("output.weight", 0);
            model.layers.add("token_embd.weight", mib(532));
            let planned = model.estimate(&server, gpu, Some(context), Some(slots)).total();
            assert!(planned >= mib(taken), "{context} {slots}: {planned} planned, {taken} MiB taken");
            assert!(
                planned < mib(taken) / 100 * 103,
                "{context} {slots}: {planned} planned, {taken} MiB taken"
            );
        }
    }

    #[test]
    fn buffers_agree_with_what_was_measured_of_models_for_vectors() {
        // SmolLM2-135M with `--embeddings --pooling mean` on a processor, llama.cpp's compute buffer in KiB.
        let model = ModelFootprint {
            embedding: 576,
            feed_forward: 1536,
            heads: 9,
            vocabulary: 49_152,
            trained_context: Some(8192),
            traits: Traits { task: Task::Embeddings, states_pooling: true, template: None },
            ..footprint(WeightType::Q8_0)
        };
        let server =
            Engine { storage: ModelStorage::AsInFile { cache_bits: 16 }, ..Engine::builtin("p".into()) };
        for (context, batch, attention, kib) in [
            (8192, 512, "auto", 107_663),
            (8192, 2048, "auto", 430_653),
            (8192, 8192, "auto", 1_722_624),
            (4096, 4096, "auto", 828_539),
            (8192, 512, "off", 170_383),
            (8192, 8192, "off", 2_726_083),
        ] {
            let flags = ["--flash-attn", attention, "--batch-size", &batch.to_string(), "--ubatch-size"];
            let mut arguments: Vec<String> = flags.map(str::to_owned).into();
            arguments.push(batch.to_string());
            let server = Engine { arguments, ..server.clone() };
            let (planned, taken) = (model.buffers(&server, context), kib << 10);
            // By 3 % too much without flash attention, else by less than a thousandth.
            let least = taken / 1000 * 999;
            assert!((least..taken / 100 * 104).contains(&planned), "{context} {batch}: {planned}, {taken}");
            let of = |engine: &Engine| model.estimate(engine, Device::CPU, Some(context), None).overhead;
            assert!(of(&server) >= taken, "the plan has room for it");
        }
        let encoder = ModelFootprint { is_encoder: true, ..model.clone() };
        assert!(encoder.buffers(&server, 512) < model.buffers(&server, 512) / 4);
    }

    #[test]
    fn an_estimate_follows_from_the_header() {
        let builtin = Engine::builtin("p".into());
        let model = footprint(WeightType::F16);
        assert!(model.half_precision > 1_000_000 && model.half_precision < model.weights);
        let estimate = model.estimate(&builtin, Device::CPU, Some(1000), Some(3));
        assert!(
            estimate.weights.abs_diff(model.weights) < model.weights / 100,
            "F16 stays F16: {estimate:?}"
        );
        // 2 layers, 2 heads of keys and of values, 64 wide, of 2 bytes.
        assert_eq!(estimate.cache, 2 * 2 * (64 + 64) * 2 * 1000 * 3);
        assert!(model.vocabulary > 0 && model.vocabulary_bytes > 70 * model.vocabulary, "{model:?}");
        let working = working_bytes(model.embedding, model.feed_forward, 1000);
        assert!(estimate.overhead >= BUILTIN_FIXED + model.vocabulary_bytes + working);
        assert_eq!(estimate.grows, estimate.cache + working, "of long prompts");
        let native = Engine { storage: ModelStorage::AsInFile { cache_bits: 16 }, ..builtin };
        let other = model.estimate(&native, Device::CPU, Some(1000), Some(3));
        assert_eq!((other.weights, other.cache), (model.weights, estimate.cache));
        let gpu = Device::Exact { kind: crate::config::DeviceKind::Cuda, index: 0 };
        let on_gpu = model.estimate(&native, gpu, Some(1000), Some(3));
        assert!(on_gpu.weights < model.weights, "the embeddings are the processor's");
        assert_eq!(on_gpu.fixed(), model.gpu_overhead(&native, 1000));
        let with_projector = model.clone().with(1 << 20);
        let with_projector = with_projector.estimate(&native, Device::CPU, Some(1000), Some(3));
        assert_eq!(with_projector.weights, model.weights + (1 << 20));
        assert_eq!(model.context(None), 2048, "no more than the model was trained for");
        assert!(ModelFootprint::read(Path::new("/no/such/file")).is_none());
    }
}
