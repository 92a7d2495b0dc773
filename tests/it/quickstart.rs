//! `rbee-hive quickstart`, run as on a new machine.

use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::support::github::{archive_name, engine_archive};
use crate::support::{client, llama_server_script, nowhere, process_runs, program, soon, until};

const SENTENCE: &str = "Hello from your hive! I am a tiny model, made on this machine a moment ago";

fn quickstart(dir: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command
        .current_dir(dir)
        .args(["quickstart", "--offline", "--port", "0", "--data-dir", "data"])
        .args(more);
    command
}

/// Asserts that the output has every step, in this order.
fn assert_shown(output: &str) {
    let mut rest = output;
    for piece in [
        "generated it in",
        "Downloading 'file:",
        "📋 Listing models on hive 'localhost'",
        "Found 1 model(s)",
        "🚀 Loading model 'rbee-quickstart' on hive 'localhost'",
        "'rbee-quickstart' is ready: worker ",
        "POST /v1/chat/completions",
        SENTENCE,
        "🛑 Unloading model 'rbee-quickstart' on hive 'localhost'",
        "Unloaded 'rbee-quickstart': 1 worker(s) gone",
        "[DONE]",
    ] {
        let at = rest.find(piece).unwrap_or_else(|| panic!("'{piece}' is not where it should be:\n{output}"));
        rest = &rest[at + piece.len()..];
    }
    assert_eq!(output.matches("[DONE]").count(), 4, "{output}");
    assert!(!output.contains("[ERROR]"), "{output}");
}

/// Runs a quickstart to its end, for which the settings name an archive with this program as the engine.
async fn quickstart_with_archive(dir: &Path, engine: &[u8], mut command: Command) -> String {
    let archive = dir.join(archive_name("b1001"));
    std::fs::write(&archive, engine_archive("b1001", engine, 0)).expect("a file");
    std::fs::write(dir.join("hive.toml"), format!("[engine_builds]\narchive = {archive:?}\n"))
        .expect("a file");
    let output = soon("the quickstart", command.args(["--exit", "--config", "hive.toml"]).output()).await;
    let output = output.expect("an end");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{shown}", output.status);
    shown
}

/// A program that does not prove itself.
const BROKEN: &[u8] = b"#!/bin/sh\necho broken >&2\nexit 3\n";

fn worker_of(output: &str) -> u32 {
    let (_, after) = output.split_once("is ready: worker ").expect("a worker");
    after.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a process id")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_every_step_and_leaves_no_process_when_run_twice() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for _ in 0..2 {
        let mut command = quickstart(dir.path(), &["--exit"]);
        let output = soon("the quickstart", command.stderr(Stdio::piped()).output()).await.expect("an end");
        let (shown, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
        assert_shown(&shown);
        assert_eq!(errors, "", "a successful run prints nothing to standard error");
        assert!(!process_runs(worker_of(&shown)), "its worker is gone");
        assert!(!dir.path().join("data/hive.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_exit_the_hive_runs_until_it_is_interrupted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut child = quickstart(dir.path(), &[]).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut shown = String::new();
    soon("the tour to end", async {
        while !shown.contains("The hive keeps running on ") {
            assert_ne!(output.read_line(&mut shown).await.expect("text"), 0, "it ended early:\n{shown}");
        }
    })
    .await;
    assert_shown(&shown);
    let url = shown
        .split("The hive keeps running on ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("a URL");
    let client = client();
    let health = soon("health", client.get(format!("{url}/health")).send()).await.expect("an answer");
    assert_eq!(health.text().await.expect("a body"), "ok");
    // The suggested next step works: the model can still be loaded.
    let request =
        client.post(format!("{url}/v1/jobs")).json(&json!({ "ModelLoad": { "id": "rbee-quickstart" } }));
    let job: serde_json::Value =
        soon("an answer", request.send()).await.expect("an answer").json().await.expect("JSON");
    let stream = format!("{url}{}", job["sse_url"].as_str().expect("a stream"));
    let stream = soon("the stream", client.get(stream).send()).await.expect("an answer");
    let loaded = soon("the end", stream.text()).await.expect("a whole stream");
    let worker = worker_of(&loaded);
    assert!(process_runs(worker));
    // Ctrl-C.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("it runs"), Signal::INT).expect("it runs");
    soon("the rest of its output", output.read_to_string(&mut shown)).await.expect("text");
    let status = soon("its end", child.wait()).await.expect("an end");
    assert!(status.success(), "it ended with {status}");
    until("the worker to be gone", async || (!process_runs(worker)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_be_installed_is_told_and_the_tour_goes_on_without_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let shown = quickstart_with_archive(dir.path(), BROKEN, quickstart(dir.path(), &["--engine"])).await;
    for piece in
        ["▶ Install the engine llama-server-", "The installation failed: ", "built-in engine", SENTENCE]
    {
        assert!(shown.contains(piece), "no '{piece}':\n{shown}");
    }
    assert!(!shown.contains("quickstart --engine`"), "it is not offered again:\n{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_that_was_asked_for_is_installed_first_and_runs_the_model() {
    let Some(engine) = llama_server_script() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let command = quickstart(dir.path(), &["--engine", "llama-server-cpu"]);
    let shown = quickstart_with_archive(dir.path(), &engine, command).await;
    let (installed, tour) = shown.split_once("[DONE]").expect("an end");
    assert!(
        installed.contains("▶ Install the engine llama-server-cpu") && !shown.contains("[ERROR]"),
        "{shown}"
    );
    assert_shown(tour);
    assert!(shown.contains("\"engine\":\"llama-server-cpu\""), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_the_tour_offers_the_engine_that_is_recommended() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut command = program();
    command.current_dir(dir.path()).args(["quickstart", "--port", "0", "--data-dir", "data"]);
    // It makes a model.
    command.env("HF_ENDPOINT", nowhere());
    let shown = quickstart_with_archive(dir.path(), BROKEN, command).await;
    let (_, offered) = shown.split_once("💡 llama-server-").unwrap_or_else(|| panic!("no offer:\n{shown}"));
    assert!(offered.contains("quickstart --engine`"), "{shown}");
}
