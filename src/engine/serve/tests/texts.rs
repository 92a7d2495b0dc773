//! Completions, embeddings and tokens.

use base64::Engine as _;

use super::*;
use crate::engine::pooling::Pooling;

#[tokio::test]
async fn a_completion_continues_each_of_its_prompts() {
    let worker = Worker::start(sentence_model("one two three four"), 2, None).await;
    let (status, answer) = worker.ask("/v1/completions", json!({"prompt": "Count:", "temperature": 0})).await;
    assert_eq!((status, &answer["object"]), (200, &json!("text_completion")), "{answer}");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(
        answer["choices"][0],
        json!({"index": 0, "text": "one two three four", "logprobs": null, "finish_reason": "stop"})
    );
    let (_, tokens) = worker.ask("/tokenize", json!({"content": "Count:", "add_special": true})).await;
    assert_eq!(answer["usage"]["prompt_tokens"], tokens["tokens"].as_array().unwrap().len());

    let several = json!({"prompt": ["A", "Bb"], "n": 2, "echo": true, "temperature": 0, "stop": " three"});
    let (_, answer) = worker.ask("/v1/completions", several).await;
    let texts: Vec<&str> =
        answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["Aone two", "Aone two", "Bbone two", "Bbone two"]);
    // Each prompt counts once: the letters, and what begins a text.
    assert_eq!(answer["usage"]["prompt_tokens"], 5);

    let request = json!({"prompt": "Count:", "temperature": 0, "logprobs": 1, "stream": true, "stream_options": {"include_usage": true}});
    let response =
        worker.client.post(format!("{}/v1/completions", worker.url)).json(&request).send().await.unwrap();
    let text = response.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    let chunks: Vec<Value> = text
        .split_terminator("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect();
    let pieces = |name: &str| {
        let all = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"][name].as_array());
        all.flatten().cloned().collect::<Vec<_>>()
    };
    let joined: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(joined, "one two three four");
    let tokens = pieces("tokens");
    assert_eq!(tokens.iter().filter_map(Value::as_str).collect::<String>(), joined);
    let mut offset = 0;
    for (token, found) in tokens.iter().zip(pieces("text_offset")) {
        assert_eq!(found, offset);
        offset += token.as_str().unwrap().chars().count();
    }
    assert!(pieces("token_logprobs").iter().all(|logprob| logprob.as_f64().unwrap() > -0.01));
    assert!(
        pieces("top_logprobs")
            .iter()
            .zip(&tokens)
            .all(|(top, token)| top[token.as_str().unwrap()].is_number())
    );
    assert!(chunks.last().unwrap()["usage"]["completion_tokens"].as_u64() > Some(3));

    let (status, error) = worker.ask("/v1/completions", json!({"prompt": "x ".repeat(5000)})).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("prompt")), "{error}");
    let (_, formed) =
        worker.ask("/v1/completions", json!({"prompt": "a", "guided_choice": ["left", "right"]})).await;
    assert!(["left", "right"].contains(&formed["choices"][0]["text"].as_str().unwrap()), "{formed}");
    let most = json!({"prompt": ["x ".repeat(5000)], "n": 128});
    let (status, error) = worker.ask("/v1/completions", most).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("context_length_exceeded")), "{error}");
    worker.stop().await;
}

#[tokio::test]
async fn the_space_before_a_text_is_part_of_what_continues_one() {
    let sample = SampleModel { tokenizer: SampleTokenizer::SentencePiece, ..sentence_model("one two") };
    let worker = Worker::start(sample, 1, None).await;
    let (_, whole) = worker.ask("/v1/completions", json!({"prompt": "a", "guided_choice": [" yes"]})).await;
    assert_eq!(whole["choices"][0]["text"], " yes", "{whole}");
    let chosen = worker.chat(json!({"guided_choice": [" yes"]})).await;
    assert_eq!(chosen["choices"][0]["message"]["content"], " yes", "{chosen}");
    assert_eq!(worker.chat(json!({})).await["choices"][0]["message"]["content"], "one two");
    worker.stop().await;
}

#[tokio::test]
async fn the_limit_of_a_completion_is_openais() {
    let worker = Worker::start(random_model(), 1, None).await;
    let request = json!({"prompt": [300, 301], "logit_bias": worker.no_end_bias});
    let (_, answer) = worker.ask("/v1/completions", request).await;
    assert_eq!(
        (&answer["usage"]["completion_tokens"], &answer["choices"][0]["finish_reason"]),
        (&json!(16), &json!("length"))
    );
    worker.stop().await;
}

#[tokio::test]
async fn texts_and_conversations_are_told_in_tokens() {
    for tokenizer in [SampleTokenizer::Bpe, SampleTokenizer::SentencePiece] {
        let worker = Worker::start(SampleModel { tokenizer, ..sentence_model("ok") }, 1, None).await;
        let text = "Grüße, 🦀 and the world";
        let (_, plain) = worker.ask("/tokenize", json!({"content": text})).await;
        let (_, marked) = worker.ask("/tokenize", json!({"content": text, "add_special": true})).await;
        let (plain, marked) = (plain["tokens"].as_array().unwrap(), marked["tokens"].as_array().unwrap());
        assert_eq!(marked[1..], plain[..]);
        let (_, back) = worker.ask("/detokenize", json!({"tokens": plain})).await;
        assert_eq!(back, json!({"content": text}));

        // What a conversation costs is known before it is sent.
        let (_, prompt) = worker.ask("/apply-template", chat_request(json!({}))).await;
        let content = prompt["prompt"].as_str().unwrap();
        assert!(content.contains("Hi") && content.contains("<|"), "{content}");
        let (_, counted) = worker
            .ask("/tokenize", json!({"content": content, "add_special": true, "with_pieces": true}))
            .await;
        let counted = counted["tokens"].as_array().unwrap();
        assert_eq!(worker.chat(json!({})).await["usage"]["prompt_tokens"], counted.len());
        assert!(counted.iter().any(|token| token["piece"].as_str().unwrap().starts_with("<|")));
        for (path, body) in [
            ("/tokenize", json!({})),
            ("/detokenize", json!({"tokens": ["a"]})),
            ("/apply-template", json!({})),
        ] {
            let (status, error) = worker.ask(path, body).await;
            assert_eq!((status, &error["error"]["code"]), (400, &json!("invalid_field")), "{error}");
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn an_embedding_model_makes_vectors_of_texts() {
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        let sample = SampleModel { pooling: Some(pooling), ..random_model() };
        let worker = Worker::start(sample, 2, None).await;
        // Longer than what is evaluated in one step.
        let long = "the world and the model ".repeat(40);
        let input = json!(["hello world", long, "hello world"]);
        let (status, answer) = worker.ask("/v1/embeddings", json!({"model": "m", "input": input})).await;
        assert_eq!(status, 200, "{answer}");
        let vector = |index: usize| -> Vec<f64> {
            answer["data"][index]["embedding"]
                .as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap())
                .collect()
        };
        let dot = |left: &[f64], right: &[f64]| left.iter().zip(right).map(|(x, y)| x * y).sum::<f64>();
        assert_eq!(vector(0).len(), 64);
        assert!((dot(&vector(1), &vector(1)) - 1.0).abs() < 1e-4);
        assert!((dot(&vector(0), &vector(2)) - 1.0).abs() < 1e-4, "the same text has the same vector");
        // Of the first token alone, nothing tells the texts apart: all begin with the same one.
        assert!(pooling == Pooling::First || dot(&vector(0), &vector(1)) < 0.999, "{pooling:?}");
        assert_eq!((&answer["data"][2]["index"], &answer["object"]), (&json!(2), &json!("list")));

        let (_, tokens) =
            worker.ask("/tokenize", json!({"content": "hello world", "add_special": true})).await;
        let request = json!({"input": tokens["tokens"], "encoding_format": "base64", "dimensions": 16});
        let (_, coded) = worker.ask("/v1/embeddings", request).await;
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap());
        let bytes = bytes.unwrap();
        let short: Vec<f64> =
            bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect();
        let expected = &vector(0)[..16];
        let scale = dot(expected, expected).sqrt();
        assert!(short.iter().zip(expected).all(|(x, y)| (x - y / scale).abs() < 1e-4), "{short:?}");
        assert_eq!(coded["usage"]["total_tokens"], tokens["tokens"].as_array().unwrap().len());
        let longer = json!({"input": "a", "dimensions": 65});
        let (status, error) = worker.ask("/v1/embeddings", longer).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("dimensions")), "{error}");
        let (status, error) = worker.ask("/v1/embeddings", json!({"input": "x ".repeat(5000)})).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("input")), "{error}");
        worker.stop().await;
    }
    let worker = Worker::start(sentence_model("ok"), 1, None).await;
    let (status, error) = worker.ask("/v1/embeddings", json!({"input": "a"})).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("model")), "{error}");
    worker.stop().await;
}
