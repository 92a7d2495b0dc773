//! Settings of models: aliases, variants, what operations set, and what requests get of it.

use rbee_hive::config::Config;
use serde_json::{Value, json};

use crate::support::{Scripted, TestHive, merged, read_all, soon, until, write_model};

/// Takes the tables of `[models]` from text.
fn with_models(config: &mut Config, text: &str) {
    config.models = toml::from_str::<Config>(text).expect("settings").models;
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "max_tokens": 1, "messages": [{ "role": "user", "content": "Hello" }] })
}

async fn workers(hive: &TestHive) -> Vec<Value> {
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    workers.as_array().expect("workers").clone()
}

async fn settings(hive: &TestHive, id: &str) -> Value {
    hive.succeed(&json!({ "ModelSettingsGet": { "id": id } })).await
}

async fn set(hive: &TestHive, id: &str, settings: Value) -> Value {
    hive.succeed(&json!({ "ModelSettingsSet": { "id": id, "settings": settings } })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_and_a_variant_answer_with_a_context_of_their_own() {
    const MODELS: &str = r#"
        [models.tiny]
        aliases = ["little", "other"]
        context_length = 128
        variants.short = { context_length = 64, aliases = ["brief"] }
    "#;
    let hive = TestHive::start_with(|config| with_models(config, MODELS)).await;
    write_model(&hive.models_dir(), "tiny");
    write_model(&hive.models_dir(), "other");
    for (name, served, context) in
        [("little", "tiny", 128), ("brief", "tiny@short", 64), ("little@short", "tiny@short", 64)]
    {
        let answer = hive.post("/v1/chat/completions", &chat(name)).await;
        assert_eq!(answer.status(), 200, "{name}: {}", read_all(answer).await);
        let workers = workers(&hive).await;
        let worker = workers.iter().find(|worker| worker["model"] == served).expect("its worker");
        assert_eq!(worker["context_length"], context, "{name}");
    }
    assert_eq!(workers(&hive).await.len(), 2, "one for each context");
    let found = hive.succeed(&json!({ "ModelGet": { "id": "other" } })).await;
    assert_eq!(found["id"], "other", "the id of a model counts more than an alias");
    assert_eq!(settings(&hive, "tiny").await["shadowed_aliases"], json!(["other"]));

    let list: Value = hive.get("/v1/models").await.json().await.expect("JSON");
    let listed: Vec<_> =
        list["data"].as_array().expect("models").iter().map(|card| (&card["id"], &card["base"])).collect();
    let expected = [
        ("other", None),
        ("tiny", None),
        ("tiny@short", Some("tiny")),
        ("brief", Some("tiny@short")),
        ("little", Some("tiny")),
    ];
    let expected = expected.map(|(id, base)| (json!(id), base.map_or(Value::Null, |base| json!(base))));
    assert_eq!(listed, expected.each_ref().map(|(id, base)| (id, base)));

    hive.succeed(&json!({ "ModelUnload": { "id": "brief" } })).await;
    assert_eq!(workers(&hive).await.len(), 1, "the variant's alone");
    hive.succeed(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    let failure = hive.fail(&json!({ "ModelLoad": { "id": "tiny@long" } })).await;
    assert_eq!(failure["code"], "model_not_found", "{failure}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operations_set_survives_a_restart_and_counts_more_than_the_file() {
    const MODELS: &str = "[models.tiny]\ncontext_length = 128\nslots = 2\n";
    let hive = TestHive::start_with(|config| with_models(config, MODELS)).await;
    write_model(&hive.models_dir(), "tiny");
    let changed = set(&hive, "tiny", json!({ "context_length": 64, "aliases": ["little"] })).await;
    assert_eq!((&changed["settings"]["context_length"], &changed["reloads"]), (&json!(64), &json!([])));
    let refused =
        json!({ "ModelSettingsSet": { "id": "little", "settings": { "slots": 0, "context_length": 32 } } });
    let failure = hive.fail(&refused).await;
    assert_eq!(failure["code"], "invalid_field", "{failure}");
    set(&hive, "little@brief", json!({ "context_length": 16 })).await;

    let hive = TestHive::start_in(hive.stop().await, |config| with_models(config, MODELS)).await;
    let now = settings(&hive, "little").await;
    assert_eq!((&now["settings"]["context_length"], &now["settings"]["slots"]), (&json!(64), &json!(2)));
    let sources =
        ["context_length", "slots", "sampling.temperature"].map(|name| now["sources"][name].clone());
    assert_eq!(sources, ["operation", "file", "default"]);
    assert_eq!(now["variants"], json!(["tiny@brief"]));
    assert_eq!(hive.load("tiny@brief").await["context_length"], 16);
    let back = json!({ "ModelSettingsSet": { "id": "tiny", "unset": ["context_length"] } });
    assert_eq!(hive.succeed(&back).await["settings"]["context_length"], 128);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_other_settings_is_loaded_again_once_it_is_idle() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "m");
    let first = hive.load("m").await;
    script.set("m.halfway");
    let stream = merged(chat("m"), json!({ "stream": true }));
    let answer = hive.post("/v1/chat/completions", &stream).await;
    let changed = set(&hive, "m", json!({ "slots": 3 })).await;
    assert_eq!(changed["reloads"], json!([{ "pid": first["pid"], "model": "m" }]));
    assert_eq!(set(&hive, "m", json!({ "sampling": { "top_k": 3 } })).await["reloads"], changed["reloads"]);
    assert_eq!(workers(&hive).await[0]["pid"], first["pid"], "an answer is under way");
    script.clear("m.halfway");
    let answer = soon("the answer", read_all(answer)).await;
    assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
    let second = until("another worker", async || {
        workers(&hive)
            .await
            .into_iter()
            .find(|worker| worker["pid"] != first["pid"] && worker["status"] == "ready")
    })
    .await;
    until("the first to be gone", async || (workers(&hive).await.len() == 1).then_some(())).await;
    let set_again = set(&hive, "m", json!({ "slots": 3 })).await;
    assert_eq!((&set_again["reloads"], &second["model"]), (&json!([]), &json!("m")));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_gets_the_sampling_and_the_system_prompt_that_it_does_not_name() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "m");
    hive.load("m").await;
    let asked = async |more: Value| {
        let answer = hive.post("/v1/chat/completions", &merged(chat("m"), more)).await;
        assert_eq!(answer.status(), 200);
        read_all(answer).await;
        script.last_request()
    };
    assert_eq!(asked(json!({})).await, merged(chat("m"), json!({ "temperature": 0.8, "top_p": 0.95 })));
    set(&hive, "m", json!({ "sampling": { "temperature": 0.2, "top_k": 7 }, "system_prompt": "Be kind." }))
        .await;
    let request = asked(json!({ "top_p": 0.5 })).await;
    let sampling = ["temperature", "top_p", "top_k", "min_p"].map(|name| request[name].clone());
    assert_eq!(sampling, [json!(0.2), json!(0.5), json!(7), Value::Null]);
    assert_eq!(request["messages"][0], json!({ "role": "system", "content": "Be kind." }));
    assert_eq!(request["messages"][1], chat("m")["messages"][0]);
    let own = json!({ "messages": [{ "role": "developer", "content": "Be brief." }, { "role": "user", "content": "Hi" }] });
    assert_eq!(asked(own.clone()).await["messages"], own["messages"]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_with_the_alias_for_every_other_name_answers_requests_and_no_operations() {
    const MODELS: &str = r#"
        [models.tiny]
        aliases = ["*"]
        context_length = 64
        [models.other]
        aliases = ["brief"]
        context_length = 64
    "#;
    let hive = TestHive::start_with(|config| with_models(config, MODELS)).await;
    write_model(&hive.models_dir(), "tiny");
    write_model(&hive.models_dir(), "other");
    for (name, serving) in [
        ("claude-opus", "tiny"),
        ("gpt-5:latest", "tiny"),
        ("*", "tiny"),
        ("OTHER", "other"),
        ("brief", "other"),
        ("other", "other"),
    ] {
        let answer = hive.post("/v1/chat/completions", &chat(name)).await;
        assert_eq!(answer.status(), 200, "{name}: {}", read_all(answer).await);
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["model"], serving, "{name}");
    }
    let list: Value = hive.get("/v1/models").await.json().await.expect("JSON");
    let ids: Vec<_> = list["data"].as_array().expect("models").iter().map(|card| &card["id"]).collect();
    assert_eq!(ids, ["other", "tiny", "brief"], "it is no model");
    let card: Value = hive.get("/v1/models/claude-opus").await.json().await.expect("JSON");
    assert_eq!(card["id"], "tiny");
    for operation in ["ModelUnload", "ModelLoad", "ModelGet"] {
        let failure = hive.fail(&json!({ operation: { "id": "claude-opus" } })).await;
        assert_eq!(failure["code"], "model_not_found", "{operation}: {failure}");
    }
    assert_eq!(workers(&hive).await.len(), 2);

    let taken = json!({ "ModelSettingsSet": { "id": "other", "settings": { "aliases": ["*"] } } });
    let failure = hive.fail(&taken).await;
    assert!(failure["message"].as_str().is_some_and(|text| text.contains("'*'")), "{failure}");
    set(&hive, "tiny", json!({ "aliases": [] })).await;
    set(&hive, "other", json!({ "aliases": ["*"] })).await;
    let answer: Value =
        hive.post("/v1/chat/completions", &chat("claude-opus")).await.json().await.expect("JSON");
    assert_eq!(answer["model"], "other", "{answer}");
    hive.stop().await;
}
