//! A disk that fails, or a hive that is killed, at every single change of the disk in turn.
//!
//! Each round takes a hive through a whole day: it starts, downloads, loads, unloads and deletes, with the
//! fault at its n-th change. Then a hive without faults starts on what is left, and must find everything in
//! order: see [`check`]. Each walk takes a sample of the n ([`step`]), and begins at another one.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Daemon, FaultServer, Served, files_beneath, folder, no_process_mentions, read_all, rounds, serve, typed,
    until, write_model,
};

/// What happens at the n-th change, and whether to all that follow.
struct Fault {
    name: &'static str,
    reach: &'static str,
    /// Which walk this is, from 0: it decides where the sample begins.
    walk: usize,
}

/// What a client saw of one job.
#[derive(Debug)]
struct Seen {
    operation: &'static str,
    id: String,
    /// Its terminal event, unless the hive died before it.
    end: Option<String>,
    /// Whether its stream warned that the hive may forget it.
    may_be_forgotten: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_change_of_the_disk_leaves_everything_in_order() {
    walk(&Fault { name: "kill", reach: "once", walk: 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_any_change_of_the_disk_leaves_everything_in_order() {
    walk(&Fault { name: "eio", reach: "once", walk: 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_for_good_leaves_everything_in_order() {
    walk(&Fault { name: "eio", reach: "on", walk: 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_from_any_change_on_leaves_everything_in_order() {
    walk(&Fault { name: "enospc", reach: "on", walk: 3 }).await;
}

/// One change in how many is tried: few by `cargo test`; by `.ci/run` so many that the four walks together
/// try each change; all of them where `RBEE_HIVE_TEST_ROUNDS` is 200 or more.
fn step() -> usize {
    match rounds(0) {
        ..20 => 43,
        20..200 => 4,
        200.. => 1,
    }
}

async fn walk(fault: &Fault) {
    let Fault { name, reach, walk } = fault;
    let server = FaultServer::start().await;
    let model = tempfile::tempdir().expect("a temporary folder");
    let model = std::fs::read(write_model(model.path(), "fetched")).expect("a model");
    let url = server.serve("fetched.gguf", Served::correct(model));
    for n in (1 + walk % step()..).step_by(step()) {
        let dir = folder();
        write_model(&dir.path().join("models"), "mine");
        let fired = dir.path().join("fired");
        let mut command = serve(dir.path(), &[]);
        command.env("RBEE_HIVE_TEST_DISK", format!("{n} {name} {reach} {}", fired.display()));
        let mut seen = Vec::new();
        if let Some(daemon) = Daemon::try_run(command).await {
            live(&daemon, &url, &mut seen).await;
            daemon.end().await;
        }
        let round = format!("change {n}, {name} {reach}, {seen:?}");
        check(&dir, &url, &seen, fault, &round).await;
        if !fired.exists() {
            assert!(n > 40, "{n}: the faults reach the changes");
            assert!(seen.iter().all(|seen| seen.end.as_deref() == Some("done")), "{round}");
            return;
        }
    }
}

fn day(url: &str) -> [(&'static str, Value); 5] {
    [
        ("download", json!({ "ModelDownload": { "model": url } })),
        ("load", json!({ "ModelLoad": { "id": "mine" } })),
        ("unload", json!({ "ModelUnload": { "id": "mine" } })),
        ("delete", json!({ "ModelDelete": { "id": "fetched" } })),
        ("download again", json!({ "ModelDownload": { "model": url } })),
    ]
}

/// Runs each operation of a day, as far as the hive lives. What it refuses is no job.
async fn live(daemon: &Daemon, url: &str, seen: &mut Vec<Seen>) {
    for (operation, request) in day(url) {
        let Ok(answer) = daemon.try_post("/v1/jobs", &request).await else { return };
        let Ok(answer) = answer.json::<Value>().await else { return };
        let Some(id) = answer["job_id"].as_str().map(str::to_owned) else {
            assert!(answer["detail"].is_string() && answer["hint"].is_string(), "{answer}");
            continue;
        };
        seen.push(Seen { operation, id: id.clone(), end: None, may_be_forgotten: false });
        let Some(seen) = seen.last_mut() else { return };
        let Ok(stream) = daemon.try_get(&format!("/v1/jobs/{id}/stream?format=json")).await else { return };
        let mut stream = stream;
        let mut text = String::new();
        while let Ok(Some(chunk)) = stream.chunk().await {
            text += &String::from_utf8_lossy(&chunk);
        }
        seen.may_be_forgotten = text.contains("job_not_journalled");
        seen.end = end_of(&text);
    }
}

/// The name of the one terminal event of a typed stream.
fn end_of(stream: &str) -> Option<String> {
    let mut ends = typed(stream)
        .into_iter()
        .map(|event| event.event)
        .filter(|event| matches!(event.as_str(), "done" | "failed" | "cancelled"));
    let end = ends.next();
    assert_eq!(ends.next(), None, "more than one end:\n{stream}");
    end
}

/// What must hold for the next hive on the folder.
async fn check(dir: &TempDir, url: &str, seen: &[Seen], fault: &Fault, round: &str) {
    let daemon = Daemon::start(dir.path(), &[]).await;

    // Every job that a client knows is there, and ended as the client saw it.
    for Seen { id, end, may_be_forgotten, .. } in seen {
        let job = daemon.json(&format!("/v1/jobs/{id}")).await;
        let state = job["state"].as_str().unwrap_or("forgotten");
        let is_as_seen = match end.as_deref() {
            Some("done") => state == "succeeded",
            Some(end) => state == end,
            None => matches!(state, "succeeded" | "failed" | "cancelled"),
        };
        // A disk that fails for good lets nobody remove a journal without an end.
        let is_stuck = fault.name == "eio" && fault.reach == "on" && job["failure"]["code"] == "interrupted";
        let is_told = *may_be_forgotten && (state == "forgotten" || is_stuck);
        assert!(is_as_seen || is_told, "{round}: {id} is {job}");
    }
    let jobs = daemon.json("/v1/jobs?limit=1000").await;
    for job in jobs["jobs"].as_array().expect("jobs") {
        let stream =
            read_all(daemon.get(&format!("{}?format=json", job["sse_url"].as_str().expect("a path"))).await);
        assert!(end_of(&stream.await).is_some(), "{round}: {job} has not ended");
    }

    // No model is lost, ids are as they were, and what is listed can be used or resumed.
    let models = daemon.succeed(&json!({ "ModelList": {} })).await;
    let status = |id: &str| {
        let models = models.as_array().expect("models");
        models.iter().find(|model| model["id"] == id).map(|model| model["status"].as_str().expect("a status"))
    };
    assert_eq!(status("mine"), Some("available"), "{round}: {models}");
    let fetched = status("fetched");
    assert!(matches!(fetched, None | Some("available" | "incomplete")), "{round}: {models}");
    let succeeded =
        |name: &str| seen.iter().any(|seen| seen.operation == name && seen.end.as_deref() == Some("done"));
    let was_deleted = seen.iter().any(|seen| seen.operation == "delete");
    if succeeded("download again") || (succeeded("download") && !was_deleted) {
        assert_eq!(fetched, Some("available"), "{round}: {models}");
    }

    // Nothing half-done is left, and nothing is damaged.
    for path in files_beneath(&dir.path().join("data")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_half_done = [".tmp", ".draft", ".damaged"].iter().any(|end| name.ends_with(end))
            || [".probe-", ".rbee-hive-"].iter().any(|begin| name.starts_with(begin))
            || (name.contains(".partial") && fetched != Some("incomplete"));
        assert!(!is_half_done, "{round}: {} is left", path.display());
    }
    let report = daemon.succeed(&json!({ "HiveCheck": {} })).await;
    for check in report["checks"].as_array().expect("checks") {
        let concerns_disk =
            ["catalog", "history", "workers", "store"].iter().any(|name| check["name"] == *name);
        assert!(!concerns_disk || check["ok"] == true, "{round}: {check}");
    }

    // The day can be lived again.
    for (_, request) in day(url) {
        daemon.succeed(&request).await;
    }
    daemon.stop().await;
    assert!(!dir.path().join("data/hive.json").exists(), "{round}");
    let data = dir.path().to_str().expect("UTF-8").to_owned();
    until("every process to end", async || no_process_mentions(&data).then_some(())).await;
}
