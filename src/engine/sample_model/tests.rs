//! Sample models: their answers, their size, and impossible settings.

use super::*;
use crate::engine::load::{LoadedModel, load};

const SENTENCE: &str =
    "Hello from a model that was made on this machine: the test works, and the test is yours.\nGrüße!";

fn load_sample(sample: &SampleModel) -> LoadedModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.gguf");
    sample.write(&path).unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes < 8 << 20, "{bytes} bytes are too many for a sample");
    load(&path, &mut |_, _| {}).unwrap()
}

/// The answer to `prompt`, and the smallest difference between the best logit and the second best.
fn generate(sample: &SampleModel, loaded: &LoadedModel, prompt: &[u32]) -> (Vec<u32>, f32) {
    let vocabulary = SampleVocabulary::new(sample.tokenizer, SENTENCE, sample.vocabulary as usize);
    let mut cache = loaded.model.cache(1024);
    let mut logits = loaded.model.forward(prompt, &mut cache).unwrap();
    let (mut tokens, mut smallest_lead) = (Vec::new(), f32::INFINITY);
    loop {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        smallest_lead = smallest_lead.min(logits[order[0] as usize] - logits[order[1] as usize]);
        if order[0] == vocabulary.end_of_turn || tokens.len() > 100 {
            return (tokens, smallest_lead);
        }
        tokens.push(order[0]);
        logits = loaded.model.forward(&order[..1], &mut cache).unwrap();
    }
}

#[test]
fn a_sentence_model_answers_every_prompt_with_its_sentence() {
    for tokenizer in [SampleTokenizer::Bpe, SampleTokenizer::SentencePiece] {
        for kind in [WeightType::Q8_0, WeightType::Q4_0, WeightType::Q4K] {
            let sample = SampleModel {
                tokenizer,
                kind,
                weights: SampleWeights::Sentence(SENTENCE.to_owned()),
                ..SampleModel::default()
            };
            let loaded = load_sample(&sample);
            let vocabulary = SampleVocabulary::new(tokenizer, SENTENCE, 0);
            for prompt in [vec![10], (0..40).collect(), (0..300).map(|i| i * 7 % 270).collect::<Vec<_>>()] {
                let (tokens, lead) = generate(&sample, &loaded, &prompt);
                assert_eq!(tokens, vocabulary.sentence, "{tokenizer:?} {kind:?} after {prompt:?}");
                // At temperature 1, all other tokens together then have a probability below 1 in 10,000.
                assert!(lead > 16.0, "{tokenizer:?} {kind:?}: the lead is only {lead}");
            }
        }
    }
}

#[test]
fn the_tokens_of_a_sentence_spell_the_sentence() {
    let vocabulary = SampleVocabulary::new(SampleTokenizer::SentencePiece, SENTENCE, 0);
    let text: String =
        vocabulary.sentence.iter().map(|&id| vocabulary.tokens[id as usize].as_str()).collect();
    assert_eq!(text.replace('\u{2581}', " "), SENTENCE);
    let unique: std::collections::HashSet<_> = vocabulary.sentence.iter().collect();
    assert_eq!(unique.len(), vocabulary.sentence.len());
}

#[test]
fn an_empty_sentence_ends_the_turn_at_once() {
    let sample = SampleModel { weights: SampleWeights::Sentence(String::new()), ..SampleModel::default() };
    let loaded = load_sample(&sample);
    let vocabulary = SampleVocabulary::new(sample.tokenizer, "", 0);
    let logits = loaded.model.forward(&[65, 66], &mut loaded.model.cache(8)).unwrap();
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert_eq!(best as u32, vocabulary.end_of_turn);
}

#[test]
fn the_same_seed_makes_the_same_file() {
    let bytes = |seed| {
        let sample = SampleModel { weights: SampleWeights::Random { seed }, ..SampleModel::default() };
        let mut bytes = Vec::new();
        sample.build().unwrap().write(&mut bytes).unwrap();
        bytes
    };
    assert!(bytes(1) == bytes(1));
    assert!(bytes(1) != bytes(2));
}

#[test]
fn the_header_has_the_name_and_the_weight_type() {
    for (kind, name) in [(WeightType::Q4K, "Q4_K_S"), (WeightType::F16, "F16"), (WeightType::Bf16, "BF16")] {
        let sample = SampleModel { kind, name: "tiny".into(), vocabulary: 1000, ..SampleModel::default() };
        let loaded = load_sample(&sample);
        assert_eq!(loaded.header.quantization().as_deref(), Some(name));
        assert_eq!(loaded.header.name(), Some("tiny"));
        assert_eq!(loaded.model.vocab_size(), 1024);
    }
}

#[test]
fn impossible_shapes_are_refused() {
    for sample in [
        SampleModel { heads: 0, ..SampleModel::default() },
        SampleModel { heads: 3, ..SampleModel::default() },
        SampleModel { kv_heads: 3, ..SampleModel::default() },
        SampleModel { embedding: 128, kind: WeightType::Q4K, ..SampleModel::default() },
    ] {
        assert_eq!(sample.build().unwrap_err().code, Code::InvalidField, "{sample:?}");
    }
}
