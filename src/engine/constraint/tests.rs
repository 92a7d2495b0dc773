//! Answers of models with random weights: nothing but the grammar makes them JSON.

use serde_json::{Value, json};

use super::*;
use crate::engine::load::{LoadedModel, load};
use crate::engine::sample_model::{SampleModel, SampleTokenizer};
use crate::engine::sampling::{Sampler, SamplingParams};

/// A model with random weights, and its tokenizer.
pub(in crate::engine) fn model(tokenizer: SampleTokenizer) -> (LoadedModel, Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let sample =
        SampleModel { tokenizer, embedding: 64, feed_forward: 96, layers: 1, ..SampleModel::default() };
    sample.write(&path).unwrap();
    let loaded = load(&path, &mut |_, _| {}).unwrap();
    let tokenizer = Tokenizer::from_metadata(&loaded.header.metadata).unwrap();
    (loaded, tokenizer)
}

/// What the model answers, and whether the grammar ended the answer before `limit` tokens.
fn answer(
    (loaded, tokenizer): &(LoadedModel, Tokenizer),
    constraint: Constraint,
    params: SamplingParams,
    limit: usize,
) -> (String, bool) {
    let prompt = tokenizer.encode("Answer.", false).unwrap();
    let mut sampler = Sampler::new(params, &prompt, Some(constraint));
    let mut cache = loaded.model.cache(prompt.len() + limit);
    let mut logits = loaded.model.forward(&prompt, &mut cache).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < limit {
        let token = sampler.sample(logits).unwrap();
        let ends = tokenizer.is_end_of_generation(token);
        if !ends {
            tokens.push(token);
        }
        if ends || sampler.has_ended() {
            return (tokenizer.decode(&tokens), true);
        }
        logits = loaded.model.forward(&[token], &mut cache).unwrap();
    }
    (tokenizer.decode(&tokens), false)
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "kind": {"enum": ["friend", "foe"]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
        },
        "required": ["name", "age", "kind", "tags"],
        "additionalProperties": false,
        "$defs": {"tag": {"type": "boolean"}},
    })
}

fn holds(value: &Value) -> bool {
    let Some(object) = value.as_object() else { return false };
    object.len() == 4
        && value["name"].as_str().is_some_and(|name| (1..=6).contains(&name.chars().count()))
        && value["age"].as_u64().is_some_and(|age| age <= 120)
        && ["friend", "foe"].contains(&value["kind"].as_str().unwrap_or_default())
        && value["tags"].as_array().is_some_and(|tags| tags.len() <= 2 && tags.iter().all(Value::is_boolean))
}

#[test]
fn an_answer_holds_its_schema_at_every_temperature_and_with_every_seed() {
    for kind in [SampleTokenizer::Bpe, SampleTokenizer::SentencePiece] {
        let model = model(kind);
        let grammars = Grammars::new(&model.1).unwrap();
        for (seed, temperature) in (0..24).map(|seed| (seed, 1.0)).chain([(0, 0.0), (1, 100.0), (2, 3.0)]) {
            let params = SamplingParams {
                temperature,
                seed: Some(seed),
                // A grammar comes before every wish about tokens.
                logit_bias: vec![(70, 100.0)],
                repetition_penalty: 1.3,
                presence_penalty: 1.0,
                ..SamplingParams::default()
            };
            let (text, ended) = answer(&model, grammars.form(&Form::Json(person())).unwrap(), params, 400);
            assert!(ended, "{kind:?} {seed}: {text}");
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(holds(&value), "{kind:?} {seed}: {text}");
        }
    }
}

#[test]
fn an_answer_without_an_end_is_the_beginning_of_one() {
    let model = model(SampleTokenizer::Bpe);
    let grammars = Grammars::new(&model.1).unwrap();
    let endless = json!({"type": "array", "items": {"const": "again"}, "minItems": 1000});
    let (text, ended) =
        answer(&model, grammars.form(&Form::Json(endless)).unwrap(), SamplingParams::default(), 60);
    assert!(!ended);
    let spaces = text.replace([' ', '\n'], "");
    assert!(spaces.starts_with("[\"again\","), "{text}");
}

/// Schemas as the libraries of Python and JavaScript write them.
#[test]
fn the_schemas_that_client_libraries_send_can_be_held() {
    let (_, tokenizer) = model(SampleTokenizer::Bpe);
    let grammars = Grammars::new(&tokenizer).unwrap();
    let of_kind = |kind: &str| {
        json!({"type": "object", "properties": {"kind": {"const": kind, "type": "string"}}, "required": ["kind"],
               "additionalProperties": false})
    };
    for schema in [
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "title": "T", "properties": {
            "name": {"title": "Name", "description": "d", "type": "string"},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": null},
            "either": {"type": ["integer", "null"]},
            "when": {"type": "string", "format": "date-time"},
            "mail": {"type": "string", "format": "email"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
            "share": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2, "maxItems": 2},
            "map": {"type": "object", "additionalProperties": {"type": "number"}},
        }, "required": ["name"]}),
        json!({"$defs": {"Node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
            "required": ["next"], "additionalProperties": false}}, "$ref": "#/$defs/Node"}),
        json!({"oneOf": [of_kind("a"), of_kind("b")], "discriminator": {"propertyName": "kind"}}),
        // Pydantic's union with a discriminator.
        json!({"$defs": {"Cat": of_kind("cat"), "Dog": of_kind("dog")}, "type": "object",
               "properties": {"pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                                      "discriminator": {"propertyName": "kind"}}}, "required": ["pet"]}),
        json!({"oneOf": [{"const": 1, "title": "one"}, {"const": 2, "title": "two"}]}),
        json!({"type": "object", "allOf": [{"properties": {"a": {"type": "string"}}}], "properties": {"b": {"type": "boolean"}}}),
    ] {
        if let Err(error) = grammars.form(&Form::Json(schema.clone())) {
            panic!("{schema}: {error}");
        }
    }
}

#[test]
fn a_schema_that_cannot_be_held_is_refused_with_the_reason() {
    let (_, tokenizer) = model(SampleTokenizer::Bpe);
    let grammars = Grammars::new(&tokenizer).unwrap();
    for schema in [
        json!({"type": "array", "uniqueItems": true}),
        json!({"not": {"type": "string"}}),
        json!({"$ref": "https://example.com/schema"}),
        json!({"type": "strange"}),
        json!({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}),
        json!(false),
        json!(7),
    ] {
        let error = grammars.form(&Form::Json(schema.clone())).expect_err(&schema.to_string());
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
    assert!(grammars.form(&Form::Json(json!(true))).is_ok());
}

#[test]
fn a_pattern_or_a_choice_is_held_too() {
    let model = model(SampleTokenizer::Bpe);
    let grammars = Grammars::new(&model.1).unwrap();
    let choices = ["yes".to_owned(), "no / \"never\"\n".to_owned()];
    for seed in 0..8 {
        let params = SamplingParams { seed: Some(seed), ..SamplingParams::default() };
        let pattern = grammars.form(&Form::Pattern("[a-c]{2}/[0-9]".to_owned())).unwrap();
        let (text, ended) = answer(&model, pattern, params.clone(), 20);
        let bytes = text.as_bytes();
        assert!(ended && bytes.len() == 4 && bytes[2] == b'/' && bytes[3].is_ascii_digit(), "{text}");
        let choice = grammars.form(&Form::Choice(choices.to_vec())).unwrap();
        let (text, ended) = answer(&model, choice, params, 40);
        assert!(ended && choices.contains(&text), "{text}");
    }
    assert!(grammars.form(&Form::Pattern("(".to_owned())).is_err());
}

#[test]
fn a_control_token_is_chosen_only_where_the_grammar_names_it() {
    let model = model(SampleTokenizer::Bpe);
    let grammars = Grammars::new(&model.1).unwrap();
    let mark = model.1.encode("<|start_header_id|>", true).unwrap()[0];
    let constraint = grammars.lark(format!("start: <[{mark}]> \"x\"")).unwrap();
    let (text, ended) = answer(&model, constraint, SamplingParams::default(), 10);
    assert!(ended && text == "x", "{text}");
}

#[test]
fn a_schema_does_not_change_how_grammars_are_followed() {
    for lenient in
        [json!({"x-guidance": {"lenient": true}}), json!({"x-guidance": {"whitespace_flexible": false}})]
    {
        assert_eq!(with_bounded_space(lenient), with_bounded_space(json!({})));
    }
}

#[test]
fn an_answer_does_not_end_before_its_grammar_has_begun() {
    let (_, tokenizer) = model(SampleTokenizer::Bpe);
    let grammars = Grammars::new(&tokenizer).unwrap();
    let mut constraint = grammars.form(&Form::Choice(vec!["x".to_owned()])).unwrap().after("</think>");
    let mut logits = vec![0.0; tokenizer.token_count()];
    constraint.mask(&mut logits).unwrap();
    let forbidden: Vec<u32> =
        (0..).zip(&logits).filter(|(_, logit)| **logit < 0.0).map(|(id, _)| id).collect();
    assert!(!forbidden.is_empty());
    assert_eq!(forbidden, tokenizer.end_of_generation());
    // However the mark is cut, it is heard.
    for text in ["hm, a < b", "é", "</thi", "n", "k>"] {
        assert!(constraint.begins_after.is_some());
        constraint.hear(text);
    }
    assert_eq!(constraint.begins_after, None);
}
