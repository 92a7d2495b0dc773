//! How verbs end: their exit status, and what they say on standard error.

use std::process::Stdio;

use rbee_hive::config::Faults;
use rbee_hive::error::{Code, Failure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{run, verb, verb_at};
use crate::support::{StallingServer, TestHive, nowhere, program, soon, until, write_model};

/// The two lines of an error.
fn assert_error(err: &str, what: &str, hint: &str) {
    let lines: Vec<_> = err.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    let [error, next, ..] = lines[..] else { panic!("no error in two lines:\n{err}") };
    assert!(error.contains(what), "'{what}' is not in:\n{err}");
    assert!(next.starts_with("hint: ") && next.contains(hint), "'{hint}' is not in:\n{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_status_tells_what_came_of_it() {
    let hive = TestHive::start_with(|config| {
        config.faults = Faults::new(|operation| {
            Box::pin(async move {
                match operation {
                    "model_list" => Err(Failure::new(Code::Io, "the disk is gone").hint("bring it back")),
                    _ => Ok(()),
                }
            })
        });
    })
    .await;
    write_model(&hive.models_dir(), "tiny");
    for (arguments, status, what, hint) in [
        (&["list"][..], 1, "the disk is gone", "bring it back"),
        (&["show", "unknown"], 4, "unknown", "ModelList"),
        (&["watch", "job-1"], 4, "job-1", ""),
        (&["rm", "tiny"], 5, "tiny", ""),
        (&["show", "a b"], 5, "`id`", "grammar"),
    ] {
        let ran = verb(&hive, arguments).await;
        assert_eq!(ran.status, status, "{arguments:?}:\n{}", ran.err);
        assert!(
            ran.err.lines().any(|line| line.starts_with("error: ") && line.contains(what)),
            "{}",
            ran.err
        );
        if !hint.is_empty() && status != 5 {
            assert_error(&ran.err, what, hint);
        }
        assert_eq!(ran.out, "", "{arguments:?}");
    }
    // Of several names, each is done.
    let ran = verb(&hive, &["unload", "unknown", "tiny"]).await;
    assert_eq!((ran.status, ran.err.matches("error: ").count()), (4, 2), "{}", ran.err);
    hive.stop().await;
}

#[tokio::test]
async fn a_wrong_command_line_is_2() {
    for arguments in [
        &["list", "--nonsense"][..],
        &["pull"],
        &["nonsense"],
        &["settings", "tiny", "slots"],
        &["jobs", "--state", "gone"],
        &["list", "--host", "ftp://a"],
        &["list", "--token-file", "/nonexistent/token"],
        &["list", "--start", "--host", "localhost"],
    ] {
        let mut command = program();
        command.args(arguments);
        let ran = run(command).await;
        assert_eq!(ran.status, 2, "{arguments:?}:\n{}", ran.err);
        assert!(ran.err.starts_with("error: "), "{arguments:?}:\n{}", ran.err);
    }
}

#[tokio::test]
async fn without_a_hive_it_is_3_and_says_where_it_looked_and_how_to_start_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let address = nowhere();
    let ran = run(verb_at(&address, &["ps"])).await;
    assert_eq!(ran.status, 3, "{}", ran.err);
    assert_error(&ran.err, &address, "--host");

    // The data folder names one that runs, as this process does, and does not answer.
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let file = json!({
        "pid": std::process::id(), "url": address, "port": 1, "hive_id": "localhost", "version": "0.1.0",
        "started_at": "2026-01-01T00:00:00.000Z",
    });
    std::fs::write(data.join("hive.json"), file.to_string()).expect("a file");
    let mut silent = program();
    silent.arg("ps").env("RBEE_HIVE_DATA_DIR", &data);
    let ran = run(silent).await;
    assert_eq!(ran.status, 3, "{}", ran.err);
    assert_error(&ran.err, &address, "--start");

    let ran = run(verb_at(&format!("unix:{}", dir.path().join("no.sock").display()), &["ps"])).await;
    assert_eq!(ran.status, 3, "{}", ran.err);
    assert_error(&ran.err, "no.sock", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_with_a_token_refuses_who_has_none() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let token = dir.path().join("token");
    std::fs::write(&token, "a-token-of-a-test").expect("a file");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a file");
    let file = token.clone();
    let hive = TestHive::start_with(|config| config.token_file = Some(file)).await;
    let ran = verb(&hive, &["ps"]).await;
    assert_eq!(ran.status, 5, "{}", ran.err);
    assert_error(&ran.err, "token", "--token-file");
    let named = verb(&hive, &["ps", "--token-file", token.to_str().expect("text")]).await;
    assert_eq!(named.status, 0, "{}", named.err);
    let mut command = verb_at(&hive.url, &["ps"]);
    command.env("RBEE_HIVE_TOKEN", "a-token-of-a-test");
    assert_eq!(run(command).await.status, 0);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_fails_is_1() {
    let hive = TestHive::start().await;
    let sound = verb(&hive, &["check", "--json"]).await;
    let report: Value = serde_json::from_str(&sound.out).expect("one document");
    assert_eq!(sound.status == 0, report["ok"] == true, "{}", sound.out);
    std::fs::write(hive.models_dir().join("damaged.gguf"), "no model").expect("a file");
    let ran = verb(&hive, &["check"]).await;
    assert_eq!(ran.status, 1, "{}", ran.out);
    let line = ran.out.lines().find(|line| line.starts_with("catalog ")).expect("the catalog");
    assert!(line.contains("FAILED") && ran.out.contains("→ "), "{}", ran.out);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_ends_it_quietly() {
    let hive = TestHive::start().await;
    let mut command = verb_at(&hive.url, &["list"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let mut err = String::new();
    let read = child.stderr.take().expect("a pipe").read_to_string(&mut err).await;
    read.expect("text");
    let status = soon("its end", child.wait()).await.expect("an end");
    assert!(status.success() && !err.contains("error"), "{status}: {err}");
    hive.stop().await;
}

fn signal(child: &tokio::process::Child, signal: Signal) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("it runs");
    kill_process(pid, signal).expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_leaves_an_act_as_it_is() {
    let (hive, server) = (TestHive::start().await, StallingServer::start().await);
    let mut child = verb_at(&hive.url, &["pull", &server.model("half")]).spawn().expect("it starts");
    let mut err = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    // It listens for signals once it follows the job.
    let first = soon("a narration", err.next_line()).await.expect("text");
    assert!(first.is_some_and(|line| line.contains("Downloading")));
    signal(&child, Signal::TERM);
    let mut said = String::new();
    while let Some(line) = soon("the rest", err.next_line()).await.expect("text") {
        said += &format!("{line}\n");
    }
    let status = soon("its end", child.wait()).await.expect("an end");
    assert_eq!(status.code(), Some(130), "{said}");
    let job = said.split('`').find_map(|part| part.strip_prefix("rbee-hive watch ")).expect("the job");
    assert_eq!(hive.job(job).await["state"], "running");
    assert_eq!(verb(&hive, &["cancel", job]).await.status, 0);
    // Whoever watches learns that it was cancelled.
    let watched = verb(&hive, &["watch", job]).await;
    assert_eq!(watched.status, 130, "{}", watched.err);
    assert!(watched.err.contains("Downloading") && watched.err.ends_with("Cancelled\n"), "{}", watched.err);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_a_read_at_once() {
    let hive = TestHive::start_with(|config| {
        config.faults = Faults::new(|operation| {
            Box::pin(
                async move { if operation == "model_list" { std::future::pending().await } else { Ok(()) } },
            )
        });
        config.timers.silence = std::time::Duration::from_millis(20).into();
    })
    .await;
    let mut child = verb_at(&hive.url, &["list"]).spawn().expect("it starts");
    let mut err = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    // The silence of the job is narrated: it is followed.
    soon("a narration", err.next_line()).await.expect("text");
    signal(&child, Signal::INT);
    let status = soon("its end", child.wait()).await.expect("an end");
    assert_eq!(status.code(), Some(130));
    until("the job's end", async || {
        let jobs: Value = hive.get("/v1/jobs?operation=model_list").await.json().await.expect("JSON");
        (jobs["jobs"][0]["state"] == "cancelled").then_some(())
    })
    .await;
    hive.stop().await;
}
