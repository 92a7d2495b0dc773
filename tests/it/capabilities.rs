//! What models can do: told of each, and refused by name where it is missing.

use std::path::Path;

use rbee_hive::config::{Capability, Config};
use rbee_hive::models::gguf::{TensorType, Value as Field, Writer};
use serde_json::{Value, json};

use crate::support::{Scripted, TestHive, merged, problem, read_all, write_model};

const PLAIN: &str = "{% for message in messages %}{{ message.content }}{% endfor %}";
const KNOWS_TOOLS: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages }}";
const THINKS: &str = "{% if enable_thinking %}<think>{% endif %}{{ tools }}{{ messages }}";

/// Writes a model of which only the header matters.
fn write(folder: &Path, name: &str, architecture: &str, pooling: Option<u32>, template: Option<&str>) {
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Field::String(architecture.to_owned()));
    writer.metadata(format!("{architecture}.context_length"), Field::U32(512));
    if let Some(pooling) = pooling {
        writer.metadata(format!("{architecture}.pooling_type"), Field::U32(pooling));
    }
    if let Some(template) = template {
        writer.metadata("tokenizer.chat_template", Field::String(template.to_owned()));
    }
    writer.tensor("token_embd.weight", &[32], TensorType::F32, vec![0; 128]);
    let mut file = std::fs::File::create(folder.join(format!("{name}.gguf"))).expect("a file");
    writer.write(&mut file).expect("it is written");
}

fn write_all(folder: &Path) {
    for (name, architecture, pooling, template) in [
        ("plain", "llama", None, Some(PLAIN)),
        ("bare", "llama", None, None),
        ("tools", "qwen2", None, Some(KNOWS_TOOLS)),
        ("thinks", "qwen3", None, Some(THINKS)),
        ("embeds", "bert", Some(1), None),
        ("embeds-too", "qwen3", Some(3), Some(THINKS)),
        ("ranks", "qwen3", Some(4), None),
    ] {
        write(folder, name, architecture, pooling, template);
    }
    std::fs::write(folder.join("broken.gguf"), "nonsense").expect("a file");
}

/// The capabilities of each of a list of models.
fn told(list: &Value) -> Vec<String> {
    let told = |model: &Value| {
        let can = model["capabilities"]
            .as_array()
            .map(|can| can.iter().map(|can| can.as_str().expect("a name")).collect::<Vec<_>>().join(" "));
        format!("{}: {}", model["id"].as_str().expect("an id"), can.as_deref().unwrap_or("unknown"))
    };
    list.as_array().expect("models").iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_is_told_with_what_it_can_on_its_engine() {
    const OF_TEXT: &str = "chat completions tools json_output";
    let hive = TestHive::start().await;
    write_all(&hive.models_dir());
    let expected = [
        format!("bare: {OF_TEXT}"),
        "broken: unknown".to_owned(),
        "embeds: embeddings".to_owned(),
        "embeds-too: embeddings".to_owned(),
        format!("plain: {OF_TEXT}"),
        "ranks: ".to_owned(),
        "thinks: chat completions tools json_output reasoning".to_owned(),
        "tools: chat completions tools json_output".to_owned(),
    ];
    let cards: Value = hive.get("/v1/models").await.json().await.expect("JSON");
    assert_eq!(told(&cards["data"]), expected);
    assert_eq!(told(&hive.succeed(&json!({ "ModelList": {} })).await), expected);
    let one = hive.succeed(&json!({ "ModelGet": { "id": "tools" } })).await;
    assert_eq!(told(&json!([one])), expected[7..]);
    let foreign = hive.succeed(&json!({ "ModelGet": { "id": "embeds" } })).await;
    assert_eq!(foreign["engines"], json!([]), "the built-in engine does not run its architecture: {foreign}");
    write_model(&hive.models_dir(), "runs");
    let runs = hive.succeed(&json!({ "ModelGet": { "id": "runs" } })).await;
    assert_eq!(runs["engines"], json!(["builtin"]), "{runs}");
    let file = hive.models_dir().join("runs.gguf");
    let source = json!({ "model": format!("file:{}", file.display()) });
    let imported = hive.succeed(&json!({ "ModelDownload": source })).await;
    assert_eq!(
        (&imported["engines"], told(&json!([imported]))[0].ends_with(OF_TEXT)),
        (&json!(["builtin"]), true)
    );
    let engines: Value = hive.get("/v1/capabilities").await.json().await.expect("JSON");
    assert_eq!(
        engines["engines"][0]["capabilities"],
        json!(["chat", "completions", "embeddings", "tools", "json_output", "reasoning"])
    );
    let operations = engines["operations"].as_array().expect("names");
    assert!(operations.contains(&json!("ModelLoad")) && !operations.contains(&json!("Infer")), "{engines}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_cannot_is_refused_before_anything_is_loaded() {
    let hive = TestHive::start().await;
    write_all(&hive.models_dir());
    let image =
        json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "data:," } }] }]);
    for (body, message) in [
        (json!({ "model": "thinks", "messages": image }), "does not support images: it has no projector"),
        (json!({ "model": "ranks" }), "does not support chat: it is a model for reranking"),
    ] {
        let hello = json!({ "messages": [{ "role": "user", "content": "Hello" }] });
        let refused =
            problem(hive.post("/v1/chat/completions", &merged(hello, body)).await, 400, "capability_missing");
        let detail = refused.await["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.ends_with(message), "{detail}");
    }
    let input = json!({ "model": "plain", "input": "Hello" });
    let refused = problem(hive.post("/v1/embeddings", &input).await, 400, "capability_missing").await;
    assert_eq!(refused["detail"], "the model 'plain' does not support embeddings: it is a model for text");
    let chat = json!({ "model": "embeds", "messages": [{ "role": "user", "content": "Hello" }] });
    let refused = problem(hive.post("/v1/chat/completions", &chat).await, 400, "capability_missing").await;
    assert_eq!(refused["detail"], "the model 'embeds' does not support chat: it is a model for embeddings");
    assert_eq!(refused["error"]["code"], "capability_missing");
    assert_eq!(hive.succeed(&json!({ "WorkerProcessList": {} })).await, json!([]));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_the_settings_can_what_these_say() {
    let engine = Scripted::new();
    let hive = TestHive::start_with(|config: &mut Config| {
        engine.serve_for(config, 1);
        let settings = config.engines.get_mut("scripted").expect("the engine");
        settings.capabilities = Some([Capability::Completions, Capability::Images].into());
    })
    .await;
    write_model(&hive.models_dir(), "tiny");
    let cards: Value = hive.get("/v1/models").await.json().await.expect("JSON");
    assert_eq!(told(&cards["data"]), ["tiny: completions images"]);
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hello" }] });
    let refused = problem(hive.post("/v1/chat/completions", &chat).await, 400, "capability_missing").await;
    assert_eq!(refused["detail"], "the engine 'scripted' does not support chat, and it serves 'tiny'");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thoughts_that_a_model_cannot_have_are_told_and_not_refused() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let ask = json!({
        "model": "tiny", "max_tokens": 4, "messages": [{ "role": "user", "content": "Hello" }],
        "response_format": { "type": "json_object" }, "chat_template_kwargs": { "enable_thinking": true },
    });
    let answer = hive.post("/v1/chat/completions", &ask).await;
    let ignored = answer.headers().get("x-rbee-ignored-fields").cloned();
    assert_eq!(answer.status(), 200, "{}", read_all(answer).await);
    assert_eq!(ignored.expect("the header"), "reasoning");
    hive.stop().await;
}
