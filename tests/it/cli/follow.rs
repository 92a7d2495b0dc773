//! `logs`, `events` and `embed`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::{assert_stable, succeed, verb, verb_at};
use crate::support::{Daemon, Scripted, TestHive, folder, program, soon, write_embedding_model, write_model};

/// A verb that goes on, and the lines of its standard output.
fn follow(url: &str, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = verb_at(url, arguments).kill_on_drop(true).spawn().expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    (child, lines)
}

/// The next line that has that text.
async fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> String {
    soon(text, async {
        loop {
            let line = lines.next_line().await.expect("text").expect("a line");
            if line.contains(text) {
                return line;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_that_of_a_process_a_model_or_the_only_worker() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let none = verb(&hive, &["logs"]).await;
    assert!(none.status == 4 && none.err.contains("`rbee-hive load MODEL`"), "{}", none.err);
    assert_eq!(verb(&hive, &["logs", "tiny"]).await.status, 4);
    assert_eq!(verb(&hive, &["logs", "unknown"]).await.status, 4);
    assert_eq!(verb(&hive, &["logs", "1"]).await.status, 4);

    let pid = hive.load("tiny").await["pid"].to_string();
    let log = succeed(&hive, &["logs"]).await;
    assert!(!log.is_empty());
    for name in [&pid, "tiny", "TINY"] {
        assert_eq!(succeed(&hive, &["logs", name]).await, log, "{name}");
    }
    let line: Value =
        serde_json::from_str(succeed(&hive, &["logs", "--json"]).await.lines().next().expect("a line"))
            .expect("a document a line");
    assert_eq!((line["pid"].to_string(), line["line"].as_str()), (pid.clone(), log.lines().next()));

    // It follows to the end of the worker.
    let (mut child, mut lines) = follow(&hive.url, &["logs", &pid, "-f"]);
    line_with(&mut lines, log.lines().next().expect("a line")).await;
    hive.succeed(&json!({ "WorkerSpawn": { "hive_id": "localhost", "model": "tiny", "worker": "cpu" } }))
        .await;
    let listed = succeed(&hive, &["logs"]).await;
    assert!(listed.starts_with(" ") || listed.starts_with("PID"), "{listed}");
    assert_eq!(listed.lines().count(), 3, "{listed}");
    hive.succeed(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    let status = soon("its end", child.wait()).await.expect("an end");
    assert!(status.success(), "{status}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_worker_has_its_log_still() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "m");
    let pid =
        hive.load("m").await["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok()).expect("a process id");
    let process = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it runs");
    crate::support::until("the crash", async || {
        (succeed(&hive, &["ps"]).await.contains("crashed")).then_some(())
    })
    .await;
    let by_pid = verb(&hive, &["logs", &pid.to_string()]).await;
    assert_eq!(by_pid.status, 0, "{}", by_pid.err);
    assert_eq!(succeed(&hive, &["logs", "m"]).await, by_pid.out);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_lines_which_topics_choose() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let (all, mut every) = follow(&hive.url, &["events", "--requests"]);
    let (workers, mut of_workers) = follow(&hive.url, &["events", "--topic", "worker", "--json"]);
    assert_stable("events-snapshot", &line_with(&mut every, "snapshot ").await);
    line_with(&mut of_workers, "snapshot").await;

    let pid = hive.load("tiny").await["pid"].to_string();
    line_with(&mut every, "model_load 'tiny': starts").await;
    line_with(&mut every, &format!("{pid} of 'tiny' ready")).await;
    succeed(&hive, &["run", "tiny", "Hi"]).await;
    let ended = line_with(&mut every, ": completed, ").await;
    assert!(ended.starts_with("request    req-") && ended.contains(" to 'tiny': "), "{ended}");
    let (mut statuses, first) = (Vec::new(), pid);
    while statuses.last().is_none_or(|status| status != "ready") {
        let line = soon("an event", of_workers.next_line()).await.expect("text").expect("a line");
        let event: Value = serde_json::from_str(&line).expect("a document a line");
        assert_eq!(
            (&event["event"], event["data"]["worker"]["pid"].to_string()),
            (&json!("worker"), first.clone())
        );
        statuses.push(event["data"]["worker"]["status"].as_str().expect("a status").to_owned());
    }
    drop((all, workers));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_after_a_lost_connection_and_say_so() {
    let dir = folder();
    let first = Daemon::start(dir.path(), &[]).await;
    let port = first.url.rsplit(':').next().expect("a port").to_owned();
    let mut child = verb_at(&first.url, &["events"]).kill_on_drop(true).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    line_with(&mut lines, "snapshot ").await;
    first.kill().await;
    let lost = soon("a loss", said.next_line()).await.expect("text").expect("a line");
    assert!(lost.contains("connecting again"), "{lost}");
    let mut again = program();
    again.args(["serve", "--port", &port, "--data-dir"]).arg(dir.path().join("data"));
    let second = Daemon::run(again).await;
    line_with(&mut lines, "snapshot ").await;
    let again = soon("its return", said.next_line()).await.expect("text").expect("a line");
    assert_eq!(again, "Connected again");
    drop(child);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_become_lines_of_numbers() {
    let hive = TestHive::start().await;
    write_embedding_model(&hive.models_dir(), "embeds");
    let two = verb(&hive, &["embed", "embeds", "hello world", "what is this?"]).await;
    assert_eq!((two.status, &*two.err), (0, "2 vectors of 256 numbers\n"), "{}", two.err);
    let numbers = |text: &str| -> Vec<Vec<f64>> {
        let line = |line: &str| line.split(' ').map(|number| number.parse().expect("a number")).collect();
        text.lines().map(line).collect()
    };
    let vectors = numbers(&two.out);
    assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [256, 256]);

    // Lines of standard input are texts, but for empty ones.
    let arguments = ["embed", "embeds", "--quiet"];
    let mut child = verb_at(&hive.url, &arguments).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"hello world\n\nwhat is this?\n").await.expect("it reads");
    drop(stdin);
    let output = soon("its end", child.wait_with_output()).await.expect("an end");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(numbers(&String::from_utf8(output.stdout).expect("text")), vectors);

    let arguments = ["embed", "embeds", "hello world", "--dimensions", "8", "--json"];
    let document: Value = serde_json::from_str(&succeed(&hive, &arguments).await).expect("one document");
    assert_eq!(document["data"][0]["embedding"].as_array().map(Vec::len), Some(8));
    assert_eq!(verb(&hive, &["embed", "embeds"]).await.status, 2, "there is no text");
    hive.stop().await;
}
