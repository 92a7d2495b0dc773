//! Loading hostile, damaged and unusual files.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::sample_model::{SampleModel, SampleWeights, WeightType};
use crate::error::{Code, Failure};
use crate::models::gguf::{Array, TensorType, Value, Writer};

fn small_model() -> SampleModel {
    SampleModel {
        kind: WeightType::F32,
        embedding: 32,
        feed_forward: 32,
        layers: 1,
        ..SampleModel::default()
    }
}

fn write(writer: &Writer) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer.write(&mut fs::File::create(&path).unwrap()).unwrap();
    (folder, path)
}

#[track_caller]
fn refused(writer: &Writer) -> Failure {
    let (_folder, path) = write(writer);
    let failure = load(&path, &mut |_, _| {}).expect_err("a file that cannot be loaded");
    assert_eq!(failure.message.matches("model.gguf").count(), 1, "{failure} names the file once");
    failure
}

/// The failure for a small model with one metadata key set to `value`, or removed.
#[track_caller]
fn refused_with(key: &str, value: Option<Value>) -> Failure {
    let mut writer = small_model().build().unwrap();
    writer.remove(key);
    if let Some(value) = value {
        writer.metadata(key, value);
    }
    let failure = refused(&writer);
    assert!(failure.message.contains(key), "{failure} does not name {key}");
    assert!(failure.hint.is_some());
    failure
}

#[test]
fn progress_counts_every_byte_of_the_weights() {
    let (_folder, path) = write(&small_model().build().unwrap());
    let mut reports = Vec::new();
    let loaded = load(&path, &mut |done, total| reports.push((done, total))).unwrap();
    let total: u64 = loaded.header.tensors.iter().map(|tensor| tensor.bytes).sum();
    assert_eq!((reports[0], *reports.last().unwrap()), ((0, total), (total, total)));
    assert!(reports.is_sorted() && reports.len() > loaded.header.tensors.len());
    assert_eq!(loaded.model.context_length(), 2048);
    assert_eq!(
        loaded.model.vocab_size() as u64,
        loaded.header.metadata.array("tokenizer.ggml.tokens").unwrap().len()
    );
}

#[test]
fn an_unsupported_architecture_is_named_beside_the_supported_one() {
    let failure = refused_with("general.architecture", Some(Value::String("mamba".into())));
    assert_eq!(failure.code, Code::ModelUnsupported);
    assert!(failure.message.contains("mamba") && failure.message.contains("llama"), "{failure}");
    assert_eq!(refused_with("general.architecture", None).code, Code::ModelCorrupt);
}

#[test]
fn unimplemented_features_are_refused() {
    let text = |text: &str| Some(Value::String(text.into()));
    for (key, value) in [
        ("llama.rope.scaling.type", text("yarn")),
        ("llama.expert_count", Some(Value::U32(8))),
        ("llama.attention.causal", Some(Value::Bool(false))),
        ("llama.attention.head_count_kv", Some(Value::Array(Array::I32(vec![1, 2])))),
    ] {
        assert_eq!(refused_with(key, value).code, Code::ModelUnsupported, "{key}");
    }
    let mut writer = small_model().build().unwrap();
    writer.tensor("blk.0.attn_q.bias", &[32], TensorType::F32, vec![0; 128]);
    let failure = refused(&writer);
    assert_eq!(failure.code, Code::ModelUnsupported);
    assert!(failure.message.contains("blk.0.attn_q.bias"), "{failure}");
}

#[test]
fn invalid_metadata_is_refused_with_its_key() {
    let number = |n| Some(Value::U64(n));
    for (key, value) in [
        ("llama.attention.head_count", number(0)),
        ("llama.attention.head_count", Some(Value::I32(-4))),
        ("llama.attention.head_count", Some(Value::F32(4.0))),
        ("llama.attention.head_count_kv", number(0)),
        ("llama.attention.head_count_kv", number(3)),
        ("llama.attention.key_length", number(0)),
        ("llama.attention.value_length", number(u64::MAX)),
        ("llama.rope.dimension_count", number(3)),
        ("llama.rope.dimension_count", number(512)),
        ("llama.embedding_length", number(0)),
        ("llama.embedding_length", number(1 << 40)),
        ("llama.embedding_length", None),
        ("llama.block_count", number(0)),
        ("llama.block_count", None),
        ("llama.context_length", number(0)),
        ("llama.context_length", None),
        ("llama.feed_forward_length", None),
        ("llama.attention.layer_norm_rms_epsilon", None),
        ("llama.attention.layer_norm_rms_epsilon", Some(Value::F32(f32::NAN))),
        ("llama.rope.freq_base", Some(Value::F32(0.0))),
        ("llama.rope.freq_base", Some(Value::F32(f32::INFINITY))),
        ("llama.rope.scaling.factor", Some(Value::F32(-2.0))),
        ("tokenizer.ggml.tokens", Some(Value::Array(Array::String(vec!["a".into()])))),
    ] {
        let failure = refused_with(key, value.clone());
        assert_eq!(failure.code, Code::ModelCorrupt, "{key} {value:?}: {failure}");
    }
}

#[test]
fn heads_must_divide_the_embedding_if_the_file_gives_no_head_width() {
    for heads in [5, 64] {
        let mut writer = small_model().build().unwrap();
        writer.remove("llama.attention.key_length").remove("llama.attention.head_count_kv");
        writer.remove("llama.attention.head_count").metadata("llama.attention.head_count", Value::U32(heads));
        let failure = refused(&writer);
        assert_eq!(failure.code, Code::ModelCorrupt);
        assert!(failure.message.contains("llama.attention.head_count"), "{failure}");
    }
}

#[test]
fn metadata_that_contradicts_a_tensor_is_refused_with_the_tensors_name() {
    for (key, value, tensor) in [
        ("llama.embedding_length", 64, "token_embd.weight"),
        ("llama.block_count", 2, "blk.1."),
        ("llama.block_count", 0x8000_0000, "blk.1."),
        ("llama.feed_forward_length", 64, "blk.0.ffn_gate.weight"),
        ("llama.attention.head_count_kv", 1, "blk.0.attn_k.weight"),
        ("llama.attention.value_length", 16, "blk.0.attn_v.weight"),
        ("llama.attention.head_count", 64, "blk.0.attn_q.weight"),
        ("llama.attention.key_length", 0x7fff_ffff, "blk.0.attn_q.weight"),
    ] {
        let mut writer = small_model().build().unwrap();
        writer.remove(key).metadata(key, Value::U64(value));
        let failure = refused(&writer);
        assert_eq!(failure.code, Code::ModelCorrupt, "{key}");
        assert!(failure.message.contains(tensor), "{key}: {failure} does not name {tensor}");
    }
}

#[test]
fn missing_and_misshapen_tensors_are_refused_with_their_name() {
    for tensor in
        ["token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_down.weight"]
    {
        let mut writer = small_model().build().unwrap();
        writer.remove(tensor);
        let failure = refused(&writer);
        assert_eq!(failure.code, Code::ModelCorrupt);
        assert!(failure.message.contains(tensor), "{failure}");

        writer.tensor(tensor, &[2, 3, 4], TensorType::F32, vec![0; 96]);
        let failure = refused(&writer);
        assert_eq!(failure.code, Code::ModelCorrupt);
        assert!(failure.message.contains(tensor) && failure.message.contains("[2, 3, 4]"), "{failure}");
    }
}

#[test]
fn an_unsupported_tensor_type_is_refused_with_the_tensors_name() {
    let mut writer = small_model().build().unwrap();
    writer.remove("blk.0.ffn_up.weight").tensor(
        "blk.0.ffn_up.weight",
        &[32, 32],
        TensorType::Mxfp4,
        vec![0; 544],
    );
    let failure = refused(&writer);
    assert_eq!(failure.code, Code::ModelUnsupported);
    assert!(
        failure.message.contains("blk.0.ffn_up.weight") && failure.message.contains("MXFP4"),
        "{failure}"
    );
}

#[test]
fn a_rope_frequency_factor_of_zero_is_refused() {
    let mut writer = small_model().build().unwrap();
    let factors = [1.0_f32, 0.0, 1.0, 1.0];
    writer.tensor(
        "rope_freqs.weight",
        &[4],
        TensorType::F32,
        factors.iter().flat_map(|x| x.to_le_bytes()).collect(),
    );
    let failure = refused(&writer);
    assert_eq!(failure.code, Code::ModelCorrupt);
    assert!(failure.message.contains("rope_freqs.weight"), "{failure}");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_was_cut() {
    let (_folder, path) =
        write(&SampleModel { weights: SampleWeights::Random { seed: 1 }, ..small_model() }.build().unwrap());
    let complete = fs::read(&path).unwrap();
    for len in [0, 3, 10, 1000, complete.len() / 2, complete.len() - 64] {
        fs::write(&path, &complete[..len]).unwrap();
        let failure = load(&path, &mut |_, _| {}).unwrap_err();
        assert_eq!(failure.code, Code::ModelIncomplete, "cut at {len}: {failure}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(load(&path, &mut |_, _| {}).unwrap_err().code, Code::Io);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_header_bytes_never_make_the_engine_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (_folder, path) = write(&small_model().build().unwrap());
        let mut file = fs::read(&path).unwrap();
        let header = Header::read(&path, Arrays::Skip).unwrap().data_offset as usize;
        for (at, byte) in changes {
            *at.get_mut(&mut file[..header]) = byte;
        }
        fs::write(&path, &file).unwrap();
        if let Ok(LoadedModel { model, .. }) = load(&path, &mut |_, _| {}) {
            let logits = model.forward(&[1, 2, 3], &mut model.cache(3)).unwrap();
            prop_assert_eq!(logits.len(), model.vocab_size());
        }
    }
}
