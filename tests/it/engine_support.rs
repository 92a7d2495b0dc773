//! Which engines can run a model is known before anything is fetched or loaded.

use serde_json::{Value, json};

use crate::support::hub::FakeHub;
use crate::support::{Scripted, TestHive, write_foreign_model, write_model};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key}: {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_no_engine_here_runs_is_told_with_what_to_install() {
    let hive = TestHive::start_with(|config| {
        config.llama_server.enabled = true;
        // Whatever the machine has.
        config.llama_server.program = Some("/no/such/llama-server".into());
    })
    .await;
    write_model(&hive.models_dir(), "runs");
    write_foreign_model(&hive.models_dir(), "other");
    let models = hive.succeed(&json!({ "ModelList": {} })).await;
    let (other, runs) = (&models[0], &models[1]);
    assert_eq!((&runs["engines"], &runs["engines_detail"]), (&json!(["builtin"]), &Value::Null), "{runs}");
    assert_eq!(other["engines"], json!([]), "{other}");
    assert!(
        text(other, "engines_detail").starts_with("builtin: general.architecture is \"gemma\""),
        "{other}"
    );
    let advice = &other["engine_advice"];
    assert_eq!(text(advice, "detail"), "llama-server runs it");
    assert!(text(advice, "worker_id").starts_with("llama-server-"), "{advice}");

    let plan = hive.succeed(&json!({ "ModelLoad": { "id": "other", "dry_run": true } })).await;
    assert_eq!((&plan["fits"], &plan["engine_advice"]), (&json!(false), advice), "{plan}");
    let refused = hive.fail(&json!({ "ModelLoad": { "id": "other" } })).await;
    assert_eq!((&refused["code"], &refused["stage"]), (&json!("model_unsupported"), &json!("preflight")));
    assert!(text(&refused, "hint").starts_with("llama-server runs it: WorkerInstall {"), "{refused}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_did_not_know_is_learned_and_forgotten_with_the_engine() {
    let scripted = Scripted::new();
    let line = "llama_model_load: error loading model: unknown model architecture: 'gemma'";
    let mut program = None;
    let hive = TestHive::start_with(|config| {
        program = Some(scripted.fail_as_llama_server(config, line));
    })
    .await;
    write_foreign_model(&hive.models_dir(), "other");
    let other = async |hive: &TestHive| hive.succeed(&json!({ "ModelGet": { "id": "other" } })).await;
    assert_eq!(other(&hive).await["engines"], json!(["llama-server"]), "a script tells nothing");
    let failure = hive.fail(&json!({ "ModelLoad": { "id": "other" } })).await;
    assert_eq!(failure["code"], "worker_failed", "{failure}");

    let hive = TestHive::start_in(hive.stop().await, |config| {
        scripted.fail_as_llama_server(config, line);
    })
    .await;
    // The same program, to the byte and the second, is another engine if its file was changed.
    let told = other(&hive).await;
    let failure = hive.fail(&json!({ "ModelLoad": { "id": "other" } })).await;
    assert_eq!((&told["engines"], &failure["code"]), (&json!(["llama-server"]), &json!("worker_failed")));
    let told = other(&hive).await;
    assert_eq!(told["engines"], json!([]), "{told}");
    assert!(text(&told, "engines_detail").contains("did not know the architecture 'gemma'"), "{told}");
    assert!(text(&told["engine_advice"], "detail").starts_with("perhaps a newer llama-server"), "{told}");
    let refused = hive.fail(&json!({ "ModelLoad": { "id": "other" } })).await;
    assert_eq!(refused["code"], "model_unsupported", "nothing is started: {refused}");
    let forced = hive.fail(&json!({ "ModelLoad": { "id": "other", "force": true } })).await;
    assert_eq!(forced["code"], "worker_failed", "{forced}");

    // It is updated while the hive runs.
    let program = program.expect("a program");
    std::fs::write(&program, std::fs::read_to_string(&program).expect("a script") + "# newer\n")
        .expect("a file");
    let plan = hive.succeed(&json!({ "ModelLoad": { "id": "other", "dry_run": true } })).await;
    assert_eq!((&plan["engine"], &plan["obstacle"]), (&json!("llama-server"), &Value::Null), "{plan}");
    assert_eq!(other(&hive).await["engines"], json!(["llama-server"]));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_says_that_no_engine_here_runs_the_model() {
    let hub = FakeHub::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = std::fs::read(write_foreign_model(folder.path(), "other")).expect("a model");
    hub.commit("org/other-GGUF", "main", &[("other-Q8_0.gguf", &*bytes)]);
    hub.push("library/other:latest", &bytes);
    let hive = TestHive::start_with(|config| {
        config.hub.endpoint = Some(hub.url.clone());
        config.hub_cache = Some(folder.path().join("cache"));
        config.ollama.endpoint.clone_from(&hub.url);
        config.llama_server.enabled = true;
        config.llama_server.program = Some("/no/such/llama-server".into());
    })
    .await;
    let dry = json!({ "ModelDownload": { "model": "org/other-GGUF", "dry_run": true } });
    let plan = hive.succeed(&dry).await;
    assert_eq!((&plan["architecture"], &plan["engines"]), (&json!("gemma"), &json!([])), "{plan}");
    assert_eq!(text(&plan["engine_advice"], "detail"), "llama-server runs it");
    assert_eq!(plan["fits"], true, "it may be fetched");

    let warning = "no engine here can run it: builtin: general.architecture";
    // The Hub tells it before the first byte, and it is said once; elsewhere the file's beginning tells it.
    for source in ["org/other-GGUF", "ollama:other"] {
        let stream = hive.run(&json!({ "ModelDownload": { "model": source } })).await;
        assert_eq!(stream.matches(warning).count(), 1, "{stream}");
        assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    }
    let again = hive.succeed(&dry).await;
    assert_eq!((&again["already_present"], &again["engines"]), (&json!(true), &json!([])), "{again}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_llama_server_tells_what_it_runs() {
    let Some(hive) = TestHive::with_llama_server(|_| {}).await else { return };
    let folder = hive.models_dir();
    write_foreign_model(&folder, "gemma");
    let bytes = std::fs::read(folder.join("gemma.gguf")).expect("a model");
    let mut unknown = bytes;
    for at in 0..unknown.len() - 5 {
        if unknown[at..].starts_with(b"gemma") {
            unknown[at..at + 5].copy_from_slice(b"mamb9");
        }
    }
    std::fs::write(folder.join("unknown.gguf"), unknown).expect("a file");
    let models = hive.succeed(&json!({ "ModelList": {} })).await;
    assert_eq!(models[0]["engines"], json!(["llama-server"]), "{models}");
    assert_eq!(models[1]["engines"], json!([]), "{models}");
    let detail = text(&models[1], "engines_detail");
    assert!(detail.contains("llama-server: its program does not know the architecture 'mamb9'"), "{detail}");
    let refused = hive.fail(&json!({ "ModelLoad": { "id": "unknown" } })).await;
    assert_eq!(refused["code"], "model_unsupported", "{refused}");
    hive.stop().await;
}
