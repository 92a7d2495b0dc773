//! Each verb, and what it prints.

use std::time::Duration;

use serde_json::{Value, json};

use super::{assert_stable, run, succeed, verb, verb_at};
use crate::support::{NatsServer, TestHive, data_lines, program, soon, until, write_model};

#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go() {
    let hive = TestHive::start().await;
    assert_stable("list-none", &succeed(&hive, &["list"]).await);
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let file = write_model(elsewhere.path(), "tiny");
    let path = file.to_str().expect("text");

    let plan = succeed(&hive, &["import", path, "--dry-run"]).await;
    assert!(plan.contains("already present  no") && plan.contains("NAME"), "{plan}");
    let imported = verb(&hive, &["import", path]).await;
    assert!(imported.status == 0 && imported.out.starts_with("id "), "{}{}", imported.out, imported.err);
    assert!(
        imported.err.contains("Downloading 'file:"),
        "narrations are on standard error: {}",
        imported.err
    );
    // The same by the source.
    let again = verb(&hive, &["pull", &format!("file:{path}"), "--force", "--quiet"]).await;
    assert_eq!((again.status, again.err.as_str()), (0, ""), "{}", again.out);

    assert_stable("list", &succeed(&hive, &["ls"]).await);
    let shown = succeed(&hive, &["show", "tiny"]).await;
    assert!(shown.lines().any(|line| line.starts_with("quantization  ")), "{shown}");
    let deleted = succeed(&hive, &["delete", "tiny"]).await;
    assert_eq!(deleted, "tiny: 0 bytes freed\n");
    assert_eq!(verb(&hive, &["rm", "tiny"]).await.status, 4);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_and_go() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    assert_stable("ps-none", &succeed(&hive, &["ps"]).await);
    let plan = succeed(&hive, &["load", "tiny", "--dry-run", "--context-length", "64"]).await;
    assert!(plan.contains("fits") && plan.contains("parts:"), "{plan}");
    let loaded =
        verb(&hive, &["load", "tiny", "--device", "cpu", "--keep-alive", "-1", "--reason", "a test"]).await;
    assert!(loaded.status == 0 && loaded.err.contains(": a test"), "{}{}", loaded.out, loaded.err);
    assert_stable("ps", &succeed(&hive, &["ps"]).await);

    let workers: Value =
        serde_json::from_str(&succeed(&hive, &["ps", "--json"]).await).expect("one document");
    let pid = workers[0]["pid"].to_string();
    assert!(succeed(&hive, &["ps", &pid]).await.contains("worker id"));
    assert_stable("memory", &succeed(&hive, &["memory"]).await);
    assert_stable("list-loaded", &succeed(&hive, &["list"]).await);

    let spawned: Value =
        serde_json::from_str(&succeed(&hive, &["spawn", "tiny", "--worker", "cpu", "--json"]).await)
            .expect("one document");
    let stopped =
        succeed(&hive, &["stop", &spawned["pid"].to_string(), "--grace", "5", "--reason", "a test"]).await;
    assert!(stopped.starts_with(&format!("worker {}: ended with exit code 0", spawned["pid"])), "{stopped}");
    let stopped = succeed(&hive, &["stop", "tiny"]).await;
    assert!(stopped.starts_with(&format!("tiny: worker {pid} ended")), "{stopped}");
    assert_eq!(verb(&hive, &["unload", "tiny"]).await.status, 5);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_shown_and_changed() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let set = ["settings", "tiny", "context_length=64", "sampling.top_k=7", "aliases=[\"little\"]"];
    let changed = succeed(&hive, &set).await;
    for (setting, value) in [("context_length", "64"), ("sampling.top_k", "7"), ("aliases", "little")] {
        let line = changed.lines().find(|line| line.starts_with(&format!("{setting} "))).expect("a line");
        assert!(line.contains(value) && line.ends_with("this hive's records"), "{changed}");
    }
    let unset = succeed(&hive, &["settings", "little", "--unset", "sampling"]).await;
    assert!(
        unset.lines().any(|line| line.starts_with("sampling.top_k") && line.ends_with("default")),
        "{unset}"
    );
    assert_stable("settings", &succeed(&hive, &["settings", "tiny"]).await);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_leased_and_given_back() {
    let hive = TestHive::start().await;
    let lease: Value = serde_json::from_str(
        &succeed(
            &hive,
            &["lease", "1MiB", "--device", "cpu", "--seconds", "60", "--holder", "a test", "--json"],
        )
        .await,
    )
    .expect("one document");
    let shown = succeed(&hive, &["memory"]).await;
    let id = lease["lease_id"].as_str().expect("an id");
    assert!(shown.contains(id) && shown.contains("a test"), "{shown}");
    assert_eq!(succeed(&hive, &["lease", "release", id]).await, "released; no models come back\n");
    assert_eq!(verb(&hive, &["lease", "release", id]).await.status, 4);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_watched_and_cancelled() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let job = hive.submit(&json!({ "ModelDelete": { "id": "tiny" } })).await;
    hive.stream(&job).await;
    assert_stable("jobs", &succeed(&hive, &["jobs"]).await);
    assert_eq!(succeed(&hive, &["jobs", "--state", "queued"]).await.lines().count(), 1);
    let listed: Value = serde_json::from_str(
        &succeed(&hive, &["jobs", "--operation", "model_delete", "--limit", "1", "--json"]).await,
    )
    .expect("one document");
    assert_eq!(listed[0]["job_id"], job.as_str());
    // It tells the same as the job's own stream, and ends as the job did.
    let watched = verb(&hive, &["watch", &job]).await;
    assert_eq!(watched.status, 5, "{}", watched.err);
    let stream = hive.stream(&job).await;
    let narrated = data_lines(&stream);
    for line in &narrated[..narrated.len() - 1] {
        assert!(watched.err.contains(line.as_str()), "'{line}' is not in:\n{}", watched.err);
    }
    let events = verb(&hive, &["watch", &job, "--json"]).await;
    let events: Vec<Value> =
        events.out.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
    assert_eq!(events.last().map(|event| &event["event"]), Some(&json!("failed")));
    assert_eq!(events[0]["data"]["seq"], 1);
    assert_eq!(verb(&hive, &["cancel", &job]).await.status, 5);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_are_listed() {
    let hive = TestHive::start().await;
    let offered = succeed(&hive, &["engines"]).await;
    assert!(offered.starts_with("ENGINE ") && offered.contains("llama-server-cpu"), "{offered}");
    assert_eq!(
        succeed(&hive, &["engines", "list", "--refresh"]).await.lines().count(),
        offered.lines().count()
    );
    assert_stable("engines-installed", &succeed(&hive, &["engines", "installed"]).await);
    let shown = succeed(&hive, &["engines", "show", "llama-server-cpu"]).await;
    assert!(shown.starts_with("offered:\nid "), "{shown}");
    assert_eq!(verb(&hive, &["engines", "show", "unknown"]).await.status, 4);
    assert_eq!(verb(&hive, &["engines", "rm", "llama-server-cpu", "--version", "b1"]).await.status, 4);
    // Nothing answers where its releases would be.
    let install = ["engines", "install", "llama-server-cpu", "--from", "release", "--dry-run"];
    assert_eq!(verb(&hive, &install).await.status, 1);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_diagnosed() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let found = succeed(&hive, &["diagnose", "tiny"]).await;
    assert!(found.starts_with("OF THE TIME  FOUND\n"), "{found}");
    // A finding, and what to do about it.
    assert!(found.contains("No worker serves the model") && found.contains("→ ModelLoad"), "{found}");
    assert_eq!(verb(&hive, &["diagnose", "--request", "req-unknown"]).await.status, 4);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_is_one_line_of_json_where_that_is_asked_for() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    for arguments in [
        &["list"][..],
        &["show", "tiny"],
        &["ps"],
        &["memory"],
        &["jobs"],
        &["check"],
        &["diagnose"],
        &["settings", "tiny"],
        &["engines"],
        &["engines", "installed"],
        &["engines", "show", "llama-server-cpu"],
        &["load", "tiny", "--dry-run"],
    ] {
        let ran = verb(&hive, &[arguments, &["--json", "--quiet"]].concat()).await;
        let document = serde_json::from_str::<Value>(&ran.out);
        assert!(
            document.is_ok_and(|value| !value.is_null()) && ran.err.is_empty(),
            "{arguments:?}: {}",
            ran.out
        );
        assert_eq!(ran.out.lines().count(), 1, "{arguments:?}: {}", ran.out);
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_is_reached_through_its_unix_socket() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket = dir.path().join("hive.sock");
    let hive = TestHive::start_with(|config| config.unix_socket = Some(socket.clone())).await;
    let path = socket.to_str().expect("text").to_owned();
    for address in [format!("unix:{path}"), path] {
        let ran = run(verb_at(&address, &["list"])).await;
        assert_eq!(ran.status, 0, "{}", ran.err);
    }
    hive.stop().await;
}

#[tokio::test]
async fn completions_name_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = program();
        let ran = soon(
            "completions",
            run({
                command.args(["completions", shell]);
                command
            }),
        )
        .await;
        assert!(ran.status == 0 && ran.out.contains("unload"), "{shell}: {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_revoked() {
    let hive = TestHive::start().await;
    // The first one is for who manages the hive, and comes to its end although the hive asks for it from then on.
    let refused = verb(&hive, &["token", "create", "alice"]).await;
    assert_eq!(refused.status, 5, "{}", refused.err);
    let made = succeed(&hive, &["token", "create", "boss", "--role", "manage", "--json"]).await;
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let secret = made["secret"].as_str().expect("a secret");
    assert_eq!((&made["name"], &made["role"], secret.len()), (&json!("boss"), &json!("manage"), 64));
    let with = async |token: &str, arguments: &[&str]| {
        let mut command = verb_at(&hive.url, arguments);
        command.env("RBEE_HIVE_TOKEN", token);
        run(command).await
    };
    assert_eq!(verb(&hive, &["list"]).await.status, 5);
    let limits =
        ["--expires", "30d", "--requests-per-minute", "60", "--concurrent", "2", "--model", "small-*"];
    let made = with(secret, &[&["token", "create", "alice"][..], &limits].concat()).await;
    assert!(made.status == 0 && made.out.contains("the only time that the secret is shown"), "{}", made.out);
    let alice = made.out.lines().find_map(|line| line.strip_prefix("secret")).expect("its secret").trim();
    assert!(!made.err.contains(alice), "{}", made.err);
    assert_eq!(with(alice, &["list", "--quiet"]).await.status, 0);
    let forbidden = with(alice, &["token", "list"]).await;
    assert!(forbidden.status == 5 && forbidden.err.contains("`manage`"), "{}", forbidden.err);
    let listed = with(secret, &["token", "--quiet"]).await.out;
    let alices = listed.lines().find(|line| line.starts_with("alice")).expect("a row");
    for part in ["use", "60/min, 2 at once", "small-*", "in 4 weeks"] {
        assert!(alices.contains(part), "{listed}");
    }
    let used = with(secret, &["usage", "--since", "7d", "--caller", "alice"]).await;
    assert!(used.status == 0 && used.out.contains("total"), "{}{}", used.out, used.err);
    assert_eq!(with(secret, &["token", "revoke", "alice"]).await.out, "revoked alice\n");
    assert_eq!(with(secret, &["token", "revoke", "alice"]).await.status, 4);
    assert_eq!(with(alice, &["list"]).await.status, 5);
    hive.stop().await;
}

/// Each line as words with one space between them.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_all_hives_says_where_each_thing_is() {
    let Some(nats) = NatsServer::start().await else { return };
    let hive = async |name: &str| {
        TestHive::start_with(|config| {
            config.hive_ids = vec![name.to_owned()];
            config.fleet.nats = Some(nats.url());
            config.fleet.heartbeat = Duration::from_millis(200).into();
        })
        .await
    };
    let (a, b) = (hive("a").await, hive("b").await);
    until("both in the fleet", async || {
        let status = a.succeed(&json!({ "FleetStatus": {} })).await;
        (status["hives"].as_array()?.len() == 2 && status["is_in"] == true).then_some(())
    })
    .await;
    for (hive, models) in [(&a, &["one", "two"][..]), (&b, &["two", "three"][..])] {
        models.iter().for_each(|model| drop(write_model(&hive.models_dir(), model)));
    }
    b.load("two").await;
    let listed = lines(&succeed(&a, &["list", "--hive", "all"]).await);
    assert!(listed[0].starts_with("MODEL HIVE SIZE"), "{listed:?}");
    let starts: Vec<_> =
        listed[1..].iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(starts, ["one a", "three b", "two a", "two b"], "by model, then by hive");
    assert!(listed[3].contains("available") && listed[4].contains("loaded"), "{listed:?}");
    let workers = lines(&succeed(&a, &["ps", "--hive", "all"]).await);
    assert!(workers[0].starts_with("PID HIVE MODEL") && workers[1].contains(" b two ready "), "{workers:?}");
    assert_eq!(workers.len(), 2);
    let json: Value =
        serde_json::from_str(&succeed(&a, &["list", "--hive", "all", "--json"]).await).expect("one document");
    assert_eq!(json["hives"]["b"]["result"].as_array().map(Vec::len), Some(2));
    // One hive's list has no such column, nor have jobs of a hive that are asked for at itself.
    assert!(lines(&succeed(&a, &["list", "--hive", "b"]).await)[0].starts_with("MODEL SIZE"));
    let jobs = lines(&succeed(&a, &["jobs", "--hive", "all"]).await);
    assert!(
        jobs[0].starts_with("JOB HIVE OPERATION")
            && jobs.iter().any(|job| job.contains(" b model_load two "))
    );
    assert!(lines(&succeed(&a, &["jobs", "--hive", "a"]).await)[0].starts_with("JOB OPERATION"));
    let status = lines(&succeed(&a, &["fleet"]).await);
    assert!(
        status.iter().any(|line| line.starts_with("b reachable ") && line.contains("iB of ")),
        "{status:?}"
    );
    a.stop().await;
    b.stop().await;
}
