//! OpenAI's routes that pass to the engine untouched: completions, embeddings and rankings.

use serde_json::{Value, json};

use crate::support::{Scripted, TestHive, problem, soon, until, write_model};

#[tokio::test(flavor = "multi_thread")]
async fn completions_embeddings_and_rankings_reach_the_engine_untouched_and_are_counted() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "tiny");
    let settings = json!({ "sampling": { "max_tokens": 9 } });
    hive.succeed(&json!({ "ModelSettingsSet": { "id": "tiny", "settings": settings } })).await;
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9 });
    let for_input = json!({ "prompt_tokens": 7, "total_tokens": 7 });
    for (route, fields, answer, completion_tokens) in [
        (
            "completions",
            json!({ "prompt": ["a", "b"], "n": 2, "logprobs": 3, "echo": true, "temperature": 0.5 }),
            json!({ "object": "text_completion", "usage": usage,
                    "choices": [{ "index": 0, "text": "x" }, { "index": 1, "text": "y" }] }),
            json!(2),
        ),
        (
            "embeddings",
            json!({ "input": ["a", "b"], "encoding_format": "base64", "dimensions": 2 }),
            json!({ "object": "list", "usage": for_input,
                    "data": [{ "object": "embedding", "index": 0, "embedding": "AAAAAAAAAAA=" }] }),
            Value::Null,
        ),
        (
            "rerank",
            json!({ "query": "a", "documents": ["b", "c"], "top_n": 1 }),
            json!({ "results": [{ "index": 1, "relevance_score": 0.5 }], "usage": for_input }),
            Value::Null,
        ),
    ] {
        script.answer_with("tiny", &answer);
        let mut request = json!({ "model": "tiny" });
        request.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        let response = hive.post(&format!("/v1/{route}"), &request).await;
        assert_eq!(response.status(), 200, "{route}");
        let id = response.headers()["x-rbee-request-id"].to_str().expect("text").to_owned();
        assert_eq!(response.json::<Value>().await.expect("JSON"), answer, "{route}");
        let asked = script.last_request();
        for (name, value) in fields.as_object().expect("fields") {
            assert_eq!(&asked[name], value, "{route}");
        }
        // What a model's settings say is for what is sampled.
        let (is_sampled, limit) = (route == "completions", json!(9));
        assert_eq!(asked.get("max_tokens"), is_sampled.then_some(&limit), "{asked}");
        assert!(is_sampled || asked.get("temperature").is_none(), "{asked}");
        assert_eq!(script.asked().last().map(String::as_str), Some(&*format!("/v1/{route}")));
        let diagnosis = until("the count", async || {
            let diagnosis = hive.succeed(&json!({ "ModelDiagnose": { "request_id": id } })).await;
            (diagnosis["last_requests"][0]["outcome"] == "completed").then_some(diagnosis)
        })
        .await;
        let counted = &diagnosis["last_requests"][0];
        assert_eq!(
            (&counted["prompt_tokens"], &counted["completion_tokens"]),
            (&json!(7), &completion_tokens),
            "{route}: {counted}"
        );
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_completion_passes_and_one_that_breaks_off_is_told() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "tiny");
    let request = json!({ "model": "tiny", "prompt": "Once", "stream": true });
    let piece = json!({ "object": "text_completion", "choices": [{ "index": 0, "text": " upon" }] });
    for (chunks, is_whole) in [(json!([piece, "[DONE]"]), true), (json!([piece]), false)] {
        script.answer_with("tiny", &chunks);
        let stream = hive.post("/v1/completions", &request).await;
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        let stream = soon("the end of the stream", stream.text()).await.expect("a stream");
        assert!(stream.starts_with(&format!("data: {piece}\n\n")), "{stream}");
        assert_eq!(
            (stream.contains("[DONE]"), stream.contains("\"error\"")),
            (is_whole, !is_whole),
            "{stream}"
        );
    }
    let wrong = json!({ "model": "tiny", "prompt": "Once", "max_tokens": -5 });
    let refused = problem(hive.post("/v1/completions", &wrong).await, 400, "invalid_field").await;
    assert_eq!(refused["error"]["param"], "max_tokens");
    let refused =
        problem(hive.post("/v1/embeddings", &json!({ "input": "a" })).await, 400, "invalid_field").await;
    assert_eq!(refused["error"]["param"], "model");
    hive.stop().await;
}
