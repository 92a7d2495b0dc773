//! Compares the forward pass with the reference, for every weight type and for prompts evaluated in
//! parts of every size.

use std::fs::File;

use tempfile::TempDir;

use super::*;
use crate::engine::load::load;
use crate::engine::reference::Reference;
use crate::engine::sample_model::{SampleModel, SampleTokenizer, SampleWeights, WeightType};
use crate::models::gguf::Value;

struct Sample {
    model: Transformer,
    reference: Reference,
    _folder: TempDir,
}

fn sample(sample: &SampleModel) -> Sample {
    sample_with(sample, &[])
}

/// A sample model with some of its metadata changed.
fn sample_with(sample: &SampleModel, changes: &[(&str, Value)]) -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.gguf");
    let mut writer = sample.build().unwrap();
    for (key, value) in changes {
        writer.remove(key).metadata(*key, value.clone());
    }
    writer.write(&mut File::create(&path).unwrap()).unwrap();
    let model = load(&path, &mut |_, _| {}).unwrap().model;
    Sample { model, reference: Reference::read(&path), _folder: folder }
}

/// A model small enough for the slow reference.
fn small(seed: u64) -> SampleModel {
    SampleModel {
        weights: SampleWeights::Random { seed },
        kind: WeightType::F32,
        embedding: 64,
        feed_forward: 96,
        ..SampleModel::default()
    }
}

fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 37 + seed * 101 + 5) % 350).collect()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// The relative error of logits: the norm of the difference over the norm of the expected ones.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    difference / norm(&mut expected.iter().copied())
}

fn greedy(model: &Transformer, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = model.cache(prompt.len() + count);
    let mut next = best(&model.forward(prompt, &mut cache).unwrap());
    let mut tokens = vec![next];
    while tokens.len() < count {
        next = best(&model.forward(&[next], &mut cache).unwrap());
        tokens.push(next);
    }
    tokens
}

#[track_caller]
fn assert_agrees(Sample { model, reference, _folder }: &Sample) {
    for (seed, len) in [(0, 1), (1, 7), (2, 13)] {
        let mut tokens = prompt(seed, len);
        let mut cache = model.cache(tokens.len() + 10);
        let mut logits = model.forward(&tokens, &mut cache).unwrap();
        for _ in 0..10 {
            let expected = reference.logits(&tokens);
            // Keys and values are in half precision.
            let distance = distance(&logits, &expected);
            assert!(distance < 2e-3, "after {tokens:?}: {distance}");
            let next = best(&expected);
            tokens.push(next);
            logits = model.forward(&[next], &mut cache).unwrap();
        }
    }
}

#[test]
fn f32_weights_give_the_logits_of_the_reference() {
    for seed in 0..3 {
        assert_agrees(&sample(&small(seed)));
    }
}

#[test]
fn every_architecture_matches_the_reference() {
    for architecture in Architecture::ALL {
        // A layer of Gemma 3 without a window is the sixth.
        let layers = if architecture == Architecture::Gemma3 { 7 } else { 2 };
        assert_agrees(&sample(&SampleModel { architecture, layers, window: 6, ..small(30) }));
        assert_agrees(&sample(&SampleModel {
            architecture,
            layers,
            head_length: 24,
            tied: true,
            ..small(31)
        }));
    }
}

#[test]
fn sequences_that_are_evaluated_together_get_the_logits_that_they_get_alone() {
    for architecture in Architecture::ALL {
        let Sample { model, _folder, .. } = sample(&SampleModel { architecture, ..small(32) });
        let prompts = [prompt(1, 9), prompt(2, 1), prompt(3, 40)];
        let mut caches: Vec<KvCache> = prompts.iter().map(|_| model.cache(64)).collect();
        let mut alone: Vec<KvCache> = prompts.iter().map(|_| model.cache(64)).collect();
        for step in 0..3 {
            let next: Vec<Vec<u32>> = prompts
                .iter()
                .map(|prompt| if step == 0 { prompt.clone() } else { vec![prompt[0] + step] })
                .collect();
            let mut parts: Vec<Part<'_>> =
                next.iter().zip(&mut caches).map(|(tokens, cache)| Part { tokens, cache }).collect();
            let together = model.forward_together(&mut parts);
            for ((logits, tokens), cache) in together.iter().zip(&next).zip(&mut alone) {
                let expected = model.forward(tokens, cache).unwrap();
                assert!(
                    distance(logits, &expected) < 1e-4,
                    "{architecture:?}: {}",
                    distance(logits, &expected)
                );
            }
        }
    }
}

#[test]
fn every_feature_of_the_architecture_matches_the_reference() {
    for settings in [
        SampleModel { tokenizer: SampleTokenizer::SentencePiece, ..small(10) },
        SampleModel { rope_factors: true, ..small(11) },
        SampleModel { tied: true, ..small(12) },
        SampleModel { kv_heads: 4, ..small(13) },
        SampleModel { kv_heads: 1, heads: 8, layers: 3, ..small(14) },
        SampleModel { head_length: 24, ..small(15) },
    ] {
        assert_agrees(&sample(&settings));
    }
    for (key, value) in [
        ("llama.rope.freq_base", Value::F32(500_000.0)),
        ("llama.rope.scaling.factor", Value::F32(4.0)),
        ("llama.rope.dimension_count", Value::U32(8)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(0.1)),
    ] {
        assert_agrees(&sample_with(&small(16), &[(key, value)]));
    }
}

#[test]
fn logits_of_every_weight_type_are_close_to_the_reference() {
    // The reference multiplies decoded weights by F32 activations; for quantised weights, the engine
    // rounds activations to 8 bits. Keys and values are in half precision.
    let tolerance = |kind| match kind {
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => 2e-3,
        _ => 3e-2,
    };
    for kind in WeightType::ALL {
        let Sample { model, reference, _folder } = sample(&SampleModel {
            kind,
            layers: 1,
            weights: SampleWeights::Random { seed: 3 },
            ..SampleModel::default()
        });
        let prompt = prompt(4, 5);
        let expected = reference.logits(&prompt);
        let at_once = model.forward(&prompt, &mut model.cache(8)).unwrap();
        let mut cache = model.cache(8);
        let mut stepwise = Vec::new();
        for token in &prompt {
            stepwise = model.forward(&[*token], &mut cache).unwrap();
        }
        for found in [at_once, stepwise] {
            let distance = distance(&found, &expected);
            assert!(distance < tolerance(kind), "{kind:?}: {distance}");
        }
    }
}

#[test]
fn a_prompt_gives_the_same_logits_in_parts_of_any_size() {
    let Sample { model, _folder, .. } = sample(&SampleModel { context_length: 8192, ..small(20) });
    // More than one batch, and more than the cache's initial room.
    let prompt = prompt(5, 600);
    let at_once = model.forward(&prompt, &mut model.cache(600)).unwrap();
    for len in [1, 13, 256, 599] {
        let mut cache = model.cache(600);
        let mut logits = Vec::new();
        for part in prompt.chunks(len) {
            logits = model.forward(part, &mut cache).unwrap();
        }
        assert_eq!(cache.len(), 600);
        assert!(distance(&logits, &at_once) < 1e-4, "in parts of {len}: {}", distance(&logits, &at_once));
    }
}

#[test]
fn a_truncated_cache_gives_the_logits_of_a_new_one() {
    let Sample { model, _folder, .. } = sample(&small(21));
    let (kept, other) = (prompt(6, 20), prompt(7, 30));
    let mut cache = model.cache(100);
    model.forward(&[&kept[..], &other[..]].concat(), &mut cache).unwrap();
    cache.truncate(1000);
    assert_eq!(cache.len(), 50);
    cache.truncate(20);
    assert_eq!(cache.len(), 20);
    let again = model.forward(&other[5..], &mut cache).unwrap();
    let fresh = model.forward(&[&kept[..], &other[5..]].concat(), &mut model.cache(100)).unwrap();
    assert!(distance(&again, &fresh) < 1e-5);
}

#[test]
fn two_sequences_do_not_affect_each_other() {
    let Sample { model, _folder, .. } = sample(&small(22));
    let (mut one, mut two) = (model.cache(64), model.cache(64));
    let alone = greedy(&model, &prompt(8, 9), 6);
    let mut next = best(&model.forward(&prompt(8, 9), &mut one).unwrap());
    model.forward(&prompt(9, 20), &mut two).unwrap();
    for expected in alone {
        assert_eq!(next, expected);
        next = best(&model.forward(&[next], &mut one).unwrap());
        model.forward(&[3], &mut two).unwrap();
    }
}

#[test]
fn invalid_tokens_are_refused_and_leave_the_cache_unchanged() {
    let Sample { model, _folder, .. } = sample(&small(23));
    let mut cache = model.cache(10);
    model.forward(&prompt(1, 8), &mut cache).unwrap();
    let unknown = model.vocab_size() as u32;
    for tokens in [vec![], vec![unknown], vec![u32::MAX], prompt(1, 3)] {
        let failure = model.forward(&tokens, &mut cache).unwrap_err();
        assert_eq!(failure.code, Code::InvalidRequest, "{failure}");
        assert_eq!(cache.len(), 8);
    }
    model.forward(&prompt(1, 2), &mut cache).unwrap();
    assert_eq!((cache.len(), cache.capacity()), (10, 10));
}

#[test]
fn a_cache_takes_no_memory_for_unused_capacity() {
    let Sample { model, _folder, .. } = sample(&small(24));
    let mut cache = model.cache(usize::MAX);
    model.forward(&prompt(1, 8), &mut cache).unwrap();
    assert_eq!(cache.len(), 8);
}
