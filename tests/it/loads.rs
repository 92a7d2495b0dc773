//! What a load is asked for: a context, slots and a chat template, which the worker has, or which the job
//! says that it has not.

use rbee_hive::config::ModelSettings;
use serde_json::{Value, json};

use crate::support::{TestHive, merged, read_until, soon, until, write_endless_model, write_model};

fn load(extra: Value) -> Value {
    json!({ "ModelLoad": merged(json!({ "id": "tiny" }), extra) })
}

async fn chat(hive: &TestHive, extra: Value) -> (u16, Value) {
    let short =
        json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 1 });
    let answer = hive.post("/v1/chat/completions", &merged(short, extra)).await;
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_with_more_than_a_worker_has_replaces_it() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let first = hive.succeed(&load(json!({ "context_length": 64 }))).await;
    assert_eq!((&first["context_length"], &first["slots"]), (&json!(64), &json!(1)));
    let long = json!({ "messages": [{ "role": "user", "content": "hello world ".repeat(60) }] });
    let (status, refusal) = chat(&hive, long.clone()).await;
    assert_eq!((status, &refusal["error"]["code"]), (400, &json!("context_length_exceeded")), "{refusal}");

    let stream = hive.run(&load(json!({ "context_length": 1024 }))).await;
    assert!(stream.contains("with 1 slot(s) of 64 tokens, less than what is asked for"), "{stream}");
    assert_eq!(chat(&hive, long).await.0, 200);
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    let second = &workers[0];
    assert_eq!((workers.as_array().map(Vec::len), &second["context_length"]), (Some(1), &json!(1024)));
    assert_ne!(second["pid"], first["pid"]);

    // Less, the same and nothing in particular are there already.
    for enough in [json!({ "context_length": 64 }), json!({ "context_length": 1024, "slots": 1 }), json!({})]
    {
        assert_eq!(hive.succeed(&load(enough)).await["pid"], second["pid"]);
    }
    // What it had is not lost with what is added.
    let third = hive.succeed(&load(json!({ "slots": 2 }))).await;
    assert_eq!((&third["context_length"], &third["slots"]), (&json!(1024), &json!(2)));
    // The model was trained for 2048.
    let stream = hive.run(&load(json!({ "context_length": 100_000 }))).await;
    assert!(stream.contains("it gets 2048, not the 100000"), "{stream}");
    let fourth = hive.succeed(&load(json!({ "context_length": 100_000 }))).await;
    assert_eq!((&fourth["context_length"], &fourth["slots"]), (&json!(2048), &json!(2)));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_replaced_only_once_it_is_idle() {
    let hive = TestHive::start().await;
    let bias = write_endless_model(&hive.models_dir(), "tiny");
    let first = hive.succeed(&load(json!({ "context_length": 32_768 }))).await;
    let endless = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }], "stream": true,
                          "logit_bias": bias });
    let mut running = hive.post("/v1/chat/completions", &endless).await;
    soon("a chunk", running.chunk()).await.expect("it runs").expect("it goes on");
    let job = hive.submit(&load(json!({ "context_length": 40_960 }))).await;
    let mut narrations = hive.get(&format!("/v1/jobs/{job}/stream")).await;
    read_until(&mut narrations, &mut String::new(), "it is replaced once it is idle").await;
    for _ in 0..20 {
        soon("a chunk", running.chunk()).await.expect("it runs").expect("it goes on");
    }
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    assert_eq!((&workers[0]["pid"], &workers[1]), (&first["pid"], &Value::Null));
    assert_eq!(hive.job(&job).await["state"], "running");
    drop(running);
    let stream = hive.stream(&job).await;
    assert!(stream.ends_with("[DONE]\n\n"), "{stream}");
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    assert_eq!((&workers[0]["context_length"], &workers[1]), (&json!(40_960), &Value::Null));
    hive.stop().await;
}

/// A template that does too much for its process costs that process, and the worker answers on.
#[tokio::test(flavor = "multi_thread")]
async fn a_chat_template_can_be_chosen_for_a_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let (own, hostile) = (dir.path().join("own.jinja"), dir.path().join("hostile.jinja"));
    std::fs::write(&own, "{{ raise_exception('the chosen one: ' ~ messages[0].content) }}").expect("a file");
    let hostile_text = "{% if messages[0].content | length < 5 %}{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}{% endif %}x";
    std::fs::write(&hostile, hostile_text).expect("a file");
    let templates = [("tiny", own), ("hostile", hostile)];
    let hive = TestHive::start_in(dir, |config| {
        for (id, template) in templates {
            let settings = ModelSettings { chat_template: Some(template), ..ModelSettings::default() };
            config.models.insert(id.to_owned(), settings);
        }
    })
    .await;
    write_model(&hive.models_dir(), "tiny");
    write_model(&hive.models_dir(), "hostile");
    let stream = hive.run(&load(json!({}))).await;
    assert!(stream.contains("Using the chat template") && stream.contains("own.jinja"), "{stream}");
    let (status, refusal) = chat(&hive, json!({})).await;
    let message = refusal["error"]["message"].as_str().expect("a message");
    assert!(status == 400 && message.contains("the chosen one: "), "{refusal}");

    let worker = hive.load("hostile").await;
    let (status, refusal) = chat(&hive, json!({ "model": "hostile" })).await;
    let message = refusal["error"]["message"].as_str().expect("a message");
    assert!(status == 422 && message.contains("nests too deeply"), "{refusal}");
    let harmless = json!({ "model": "hostile", "messages": [{ "role": "user", "content": "long enough" }] });
    assert_eq!(chat(&hive, harmless).await.0, 200);
    let get = json!({ "WorkerProcessGet": { "pid": worker["pid"] } });
    // It may still be told as busy with the last chat.
    until("the same worker serves on", async || {
        (hive.succeed(&get).await["status"] == "ready").then_some(())
    })
    .await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_plan_uses_what_a_worker_really_took() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let plan =
        |context: u64| json!({ "ModelLoad": { "id": "tiny", "context_length": context, "dry_run": true } });
    let before = hive.succeed(&plan(512)).await;
    assert_eq!(
        (&before["source_of_estimate"], &before["formula_error_bytes"]),
        (&json!("formula"), &Value::Null)
    );
    assert_eq!(before["formula_bytes"], before["required_bytes"], "{before}");

    hive.succeed(&json!({ "ModelLoad": { "id": "tiny", "context_length": 512 } })).await;
    hive.succeed(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    let after = hive.succeed(&plan(512)).await;
    assert_eq!(after["source_of_estimate"], "measured", "{after}");
    assert_eq!(after["formula_bytes"], before["formula_bytes"], "{after}");
    let number = |name: &str| after[name].as_i64().expect("a number");
    assert_eq!(number("required_bytes") - number("formula_bytes"), number("formula_error_bytes"), "{after}");
    let parts = after["parts"].as_array().expect("parts").iter().map(|part| part["bytes"].as_i64());
    assert_eq!(parts.sum::<Option<i64>>(), Some(number("required_bytes")), "{after}");
    // The cache grows as it fills, so a worker that was asked nothing has not shown all that it can take.
    let cache = after["parts"][1]["bytes"].as_u64().expect("a number");
    assert!(cache > 0 && after["required_bytes"].as_u64() > Some(cache), "{after}");
    let kept = std::fs::read_to_string(hive.app.config.memory_file()).expect("a file");
    assert!(kept.contains("\"version\":1") && kept.contains("idle_bytes"), "{kept}");

    let other = hive.succeed(&plan(1024)).await;
    assert_eq!(other["source_of_estimate"], "formula", "nothing is known of another context: {other}");
    write_model(&hive.models_dir(), "tiny");
    let changed = hive.succeed(&plan(512)).await;
    assert_eq!(changed["source_of_estimate"], "formula", "it is another file: {changed}");
    hive.stop().await;
}
