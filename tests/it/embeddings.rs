//! Embeddings and rankings, through the hive to engines that make them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{TestHive, merged, write_bert, write_embedding_model, write_model};

/// The width of the model's vectors.
const WIDTH: usize = 256;

/// The embeddings of an answer of OpenAI's form, in order.
fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let rows = answer["data"].as_array().unwrap_or_else(|| panic!("vectors: {answer}"));
    let numbers = |row: &Value| serde_json::from_value(row["embedding"].clone()).expect("numbers");
    for (index, row) in rows.iter().enumerate() {
        assert_eq!((&row["object"], &row["index"]), (&json!("embedding"), &json!(index)), "{answer}");
    }
    rows.iter().map(numbers).collect()
}

/// The first embedding of an answer in Base64.
fn decoded(answer: &Value) -> Vec<f64> {
    let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().expect("text")).expect("Base64");
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("4 bytes")).into()).collect()
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn assert_of_unit_length(vector: &[f64], width: usize) {
    assert_eq!(vector.len(), width);
    assert!((cosine(vector, vector) - 1.0).abs() < 1e-4, "its length is not 1: {vector:?}");
}

async fn ask(hive: &TestHive, route: &str, more: Value) -> (u16, Value) {
    let answer = hive.post(route, &merged(json!({ "model": "embeds" }), more)).await;
    let (status, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// What every engine must do with the model of [`write_embedding_model`].
async fn embeds(hive: &TestHive) {
    let embed = async |more: Value| {
        let (status, answer) = ask(hive, "/v1/embeddings", more.clone()).await;
        assert_eq!(status, 200, "{more}: {answer}");
        answer
    };
    let one = embed(json!({ "input": "hello world" })).await;
    let alone = vectors(&one).remove(0);
    assert_of_unit_length(&alone, WIDTH);
    let tokens = one["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert!(tokens > 1 && one["usage"]["total_tokens"] == tokens, "{one}");

    let several = embed(json!({ "input": ["hello world", "what is in the model?", "hello world"] })).await;
    let together = vectors(&several);
    assert_eq!(together.len(), 3, "{several}");
    together.iter().for_each(|vector| assert_of_unit_length(vector, WIDTH));
    // The same text has the same vector, wherever it stands, and another text has another one.
    assert!(cosine(&alone, &together[0]) > 0.9999 && cosine(&alone, &together[2]) > 0.9999, "{several}");
    assert!(cosine(&alone, &together[1]) < 0.99, "{several}");
    assert!(several["usage"]["prompt_tokens"].as_u64() > Some(2 * tokens), "{several}");

    for (coding, dimensions) in [("base64", None), ("float", Some(16)), ("base64", Some(16))] {
        let more = json!({ "input": "hello world", "encoding_format": coding, "dimensions": dimensions });
        let answer = embed(more).await;
        let vector = if coding == "float" { vectors(&answer).remove(0) } else { decoded(&answer) };
        let width = dimensions.unwrap_or(WIDTH);
        assert_of_unit_length(&vector, width);
        let beginning = cosine(&alone[..width], &alone[..width]).sqrt();
        assert!(
            cosine(&alone[..width], &vector) / beginning > 0.9999,
            "the beginning of the whole: {vector:?}"
        );
    }

    let of_ollama =
        ask(hive, "/api/embed", json!({ "input": ["hello world", "hello"], "dimensions": 16 })).await.1;
    let first: Vec<f64> = serde_json::from_value(of_ollama["embeddings"][0].clone()).expect("numbers");
    assert_of_unit_length(&first, 16);
    assert!(of_ollama["prompt_eval_count"].as_u64() > Some(tokens), "{of_ollama}");
    assert_eq!(of_ollama["embeddings"].as_array().map(Vec::len), Some(2), "{of_ollama}");
    let single = ask(hive, "/api/embeddings", json!({ "prompt": "hello world" })).await.1;
    let single: Vec<f64> = serde_json::from_value(single["embedding"].clone()).expect("numbers");
    assert!(cosine(&alone, &single) > 0.9999);

    let (status, refused) = ask(hive, "/v1/embeddings", json!({ "input": "hello", "dimensions": 257 })).await;
    let error = &refused["error"];
    assert_eq!((status, &error["param"]), (400, &json!("dimensions")), "{refused}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("256")), "{refused}");
    // A text that is longer than the context is refused, never cut.
    let long = "hello world ".repeat(60);
    let (status, refused) = ask(hive, "/v1/embeddings", json!({ "input": ["hello", long] })).await;
    let error = &refused["error"];
    assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")), "{refused}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("tokens")), "{refused}");
    let (status, refused) = ask(hive, "/api/embed", json!({ "input": long })).await;
    assert!(status == 400 && refused["error"].is_string(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_engine_makes_embeddings() {
    let hive = TestHive::start().await;
    write_embedding_model(&hive.models_dir(), "embeds");
    write_model(&hive.models_dir(), "chats");
    embeds(&hive).await;
    for (route, more, message) in [
        ("/v1/embeddings", json!({ "model": "chats", "input": "hello" }), "does not support embeddings"),
        ("/api/embed", json!({ "model": "chats", "input": "hello" }), "does not support embeddings"),
        ("/v1/embeddings", json!({ "input": [] }), "input"),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "hello" }] }),
            "does not support chat",
        ),
        ("/v1/rerank", json!({ "query": "hello", "documents": ["hello"] }), "does not support reranking"),
    ] {
        let (status, refused) = ask(&hive, route, more.clone()).await;
        assert!(status == 400 && refused["error"].to_string().contains(message), "{more}: {refused}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_server_makes_embeddings() {
    let Some(hive) = TestHive::with_llama_server(|_| {}).await else { return };
    write_embedding_model(&hive.models_dir(), "embeds");
    embeds(&hive).await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_server_ranks() {
    let Some(hive) = TestHive::with_llama_server(|_| {}).await else { return };
    write_bert(&hive.models_dir(), "ranks", Some(4), true);
    let rank = async |more: Value| {
        let asked = json!({ "model": "ranks", "query": "hello", "documents": ["small model", "hello", "s"] });
        ask(&hive, "/v1/rerank", merged(asked, more)).await
    };
    let (status, answer) = rank(json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().expect("results");
    let scores: Vec<f64> =
        results.iter().map(|result| result["relevance_score"].as_f64().expect("a score")).collect();
    assert!(scores.len() == 3 && scores.is_sorted_by(|one, next| one >= next), "the best first: {answer}");
    let mut ranked: Vec<_> =
        results.iter().map(|result| result["index"].as_u64().expect("an index")).collect();
    ranked.sort_unstable();
    assert_eq!(ranked, [0, 1, 2], "{answer}");
    assert!(answer["usage"]["prompt_tokens"].as_u64() > Some(5), "{answer}");
    let (_, best) = rank(json!({ "top_n": 1 })).await;
    assert_eq!(best["results"], json!([results[0]]), "{best}");
    let (status, refused) = rank(json!({ "documents": ["hello ".repeat(100)] })).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")), "{refused}");
    hive.stop().await;
}
