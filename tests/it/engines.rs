//! Engines that the hive installs, from a stand-in of GitHub: installed, used, updated, gone back to, removed.

use serde_json::{Value, json};

use crate::support::github::{FakeGitHub, archive_name, engine_archive};
use crate::support::{TestHive, write_model};

const CPU: &str = "llama-server-cpu";

/// A program that runs the real llama-server that the environment names; `None` where it names none.
fn real_program() -> Option<Vec<u8>> {
    let named = std::env::var("RBEE_TEST_LLAMA_SERVER").ok().filter(|program| !program.is_empty());
    if named.is_none() {
        crate::support::skipped("RBEE_TEST_LLAMA_SERVER names no llama-server; .ci/llama-server builds one");
    }
    named.map(|program| format!("#!/bin/sh\nexec '{program}' \"$@\"\n").into_bytes())
}

async fn hive_of(github: &FakeGitHub) -> TestHive {
    let releases = github.releases.clone();
    TestHive::start_with(|config| config.engine_builds.releases = releases).await
}

fn publish(github: &FakeGitHub, tag: &str, program: &[u8]) {
    github.publish(tag, &[(&archive_name(tag), &engine_archive(tag, program, 4096))]);
}

fn install(version: &str) -> Value {
    json!({ "WorkerInstall": { "worker_id": CPU, "version": version } })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_installed_used_updated_gone_back_to_and_removed() {
    let Some(program) = real_program() else { return };
    let github = FakeGitHub::start().await;
    publish(&github, "b1001", &program);
    let hive = hive_of(&github).await;
    write_model(&hive.models_dir(), "m");
    let offers = hive.succeed(&json!({ "WorkerCatalogList": {} })).await;
    let cpu = offers["workers"].as_array().unwrap().iter().find(|offer| offer["id"] == CPU).unwrap();
    assert_eq!(
        (&cpu["version"], &cpu["installed"], &cpu["problem"]),
        (&json!("b1001"), &Value::Null, &Value::Null)
    );

    let stream = hive.run(&install("latest")).await;
    for failing in ["❌", "✗", "failed:", "error details:", "error:"] {
        assert!(!stream.contains(failing), "clients take {failing} for a failure: {stream}");
    }
    let listed = hive.succeed(&json!({ "WorkerListInstalled": {} })).await;
    assert_eq!(
        (&listed["workers"][0]["version"], &listed["failed"]),
        (&json!("b1001"), &json!([])),
        "{listed}"
    );
    let worker = hive.load("m").await;
    assert_eq!(worker["engine"], CPU, "{worker}");
    let remove = json!({ "WorkerRemove": { "worker_id": CPU } });
    assert_eq!(hive.fail(&remove).await["code"], "engine_in_use");

    publish(&github, "b1002", &program);
    let updated = hive.succeed(&install("latest")).await;
    assert_eq!(
        (&updated["version"], &updated["previous"]["version"]),
        (&json!("b1002"), &json!("b1001")),
        "{updated}"
    );
    assert_eq!(hive.succeed(&json!({ "WorkerProcessList": {} })).await[0]["pid"], worker["pid"]);
    let back = hive.succeed(&install("b1001")).await;
    assert_eq!(
        (&back["version"], &back["previous"]["version"]),
        (&json!("b1001"), &json!("b1002")),
        "{back}"
    );

    publish(&github, "b1003", b"#!/bin/sh\necho broken >&2\nexit 3\n");
    assert_eq!(hive.fail(&install("b1003")).await["code"], "engine_unproven");
    let listed = hive.succeed(&json!({ "WorkerListInstalled": {} })).await;
    assert_eq!(listed["workers"][0]["version"], "b1001", "{listed}");
    assert_eq!(listed["failed"][0]["version"], "b1003", "{listed}");

    hive.succeed(&json!({ "ModelUnload": { "id": "m" } })).await;
    assert!(hive.succeed(&remove).await["freed_bytes"].as_u64() > Some(0));
    assert_eq!(
        hive.fail(&json!({ "WorkerInstalledGet": { "worker_id": CPU } })).await["code"],
        "engine_not_found"
    );
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_an_install_tells_the_plan_and_fetches_nothing() {
    let github = FakeGitHub::start().await;
    publish(&github, "b1001", b"#!/bin/sh\n");
    let hive = hive_of(&github).await;
    let plan = json!({ "WorkerInstall": { "worker_id": CPU, "dry_run": true } });
    let plan = hive.succeed(&plan).await;
    assert_eq!(
        (&plan["version"], &plan["from"], &plan["fits"]),
        (&json!("b1001"), &json!("release"), &json!(true))
    );
    assert_eq!(github.count("storage"), 0, "{plan}");
    let unknown = json!({ "WorkerInstall": { "worker_id": "vllm" } });
    assert_eq!(hive.fail(&unknown).await["code"], "engine_not_found");
    hive.stop().await;
}
