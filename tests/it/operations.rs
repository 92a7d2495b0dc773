//! What every operation must do, checked for every row of the table and in both spellings: a non-empty
//! stream with exactly one terminal event, however the job ends. The rows come from the table, never from a
//! list here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use rbee_hive::config::{Config, Faults};
use rbee_hive::error::{Code, Failure};
use rbee_hive::jobs::JobClass;
use rbee_hive::ops::{Deadline, REFUSED, Row, TABLE};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{TestHive, Typed, data_lines, read_all, rows, typed, until, write_model};

const TERMINALS: [&str; 2] = ["[DONE]", "[CANCELLED]"];

#[derive(Clone, Copy, Debug)]
enum Spelling {
    Camel,
    Snake,
}

const SPELLINGS: [Spelling; 2] = [Spelling::Camel, Spelling::Snake];

impl Spelling {
    fn of(self, row: &Row, fields: &Value) -> Value {
        match self {
            Self::Camel => json!({ row.name: fields }),
            Self::Snake => {
                let mut object = fields.clone();
                object["operation"] = row.wire_name.into();
                object
            }
        }
    }
}

/// Every row in both spellings, with a request whose names no hive has.
fn every_row() -> impl Iterator<Item = (&'static Row, Value)> {
    rows::rows().flat_map(|row| SPELLINGS.map(|spelling| (row, spelling.of(row, &rows::sample_fields(row)))))
}

/// Checks that both streams of a job have a narration and exactly one end, which is `end`. Gives the plain
/// stream.
async fn assert_streams(hive: &TestHive, id: &str, end: &str, what: &Value) -> String {
    let plain = hive.stream(id).await;
    assert_plain_stream(&plain, end, what);
    let events = typed(&hive.typed_stream(id).await);
    let is_terminal = |event: &Typed| ["done", "failed", "cancelled"].contains(&&*event.event);
    assert_eq!(events[0].event, "narration", "{what} narrates nothing: {events:?}");
    assert_eq!(events.iter().filter(|event| is_terminal(event)).count(), 1, "{what}: {events:?}");
    assert!(is_terminal(&events[events.len() - 1]), "{what}: {events:?}");
    plain
}

/// Checks that a plain stream ends once, with `end`, and has a result directly before `[DONE]` only.
fn assert_plain_stream(stream: &str, end: &str, what: &Value) {
    let lines = data_lines(stream);
    let is_terminal = |line: &String| TERMINALS.contains(&&**line) || line.starts_with("[ERROR] ");
    let last = lines.last().unwrap_or_else(|| panic!("{what}: an empty stream"));
    assert_eq!(lines.iter().filter(|line| is_terminal(line)).count(), 1, "{what}:\n{stream}");
    assert!(last.starts_with(end), "{what} has another end:\n{stream}");
    let results: Vec<_> = (0..lines.len() - 1).filter(|i| lines[*i].starts_with(['{', '['])).collect();
    let expected = if end == "[DONE]" { vec![lines.len() - 2] } else { vec![] };
    assert_eq!(results, expected, "{what}: the result stands right before the end:\n{stream}");
}

/// A hook that never returns, and the count of its calls.
fn blocking_hook() -> (Faults, Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let faults = Faults::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending().boxed()
    });
    (faults, reached)
}

async fn reached(count: &AtomicUsize, times: usize) {
    until("the operation to start", async || (count.load(Ordering::SeqCst) >= times).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_succeed_in_both_spellings() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let row = |name: &str| TABLE.iter().find(|row| row.wire_name == name).expect("a row");
    for spelling in SPELLINGS {
        let import = write_model(elsewhere.path(), "guest");
        let go = async |name: &'static str, fields: Value| {
            let operation = spelling.of(row(name), &fields);
            let id = hive.submit(&operation).await;
            let lines = data_lines(&assert_streams(&hive, &id, "[DONE]", &operation).await);
            assert!(lines.len() > 2, "{operation} narrates nothing");
            serde_json::from_str::<Value>(&lines[lines.len() - 2]).expect("a result")
        };
        let report = go("hive_check", json!({ "alias": "localhost" })).await;
        assert_eq!(report["checks"][0]["ok"], true, "{report}");
        assert_eq!(report["checks"][1]["ok"], true, "{report}");
        let model = go("model_download", json!({ "model": format!("file:{}", import.display()) })).await;
        assert_eq!(model["id"], "guest");
        let models = go("model_list", json!({ "hive_id": "localhost" })).await;
        assert_eq!(models.as_array().map(Vec::len), Some(2), "{models}");
        assert_eq!(go("model_get", json!({ "id": "guest" })).await["loaded"], false);
        let worker = go("model_load", json!({ "id": "guest" })).await;
        assert_eq!(worker["status"], "ready", "{worker}");
        let again = go("model_load", json!({ "id": "guest", "device": "cpu" })).await;
        assert_eq!(again["pid"], worker["pid"], "a loaded model is not loaded again");
        let other = go("worker_spawn", json!({ "model": "guest", "worker": "cpu" })).await;
        assert_ne!(other["pid"], worker["pid"], "a spawn always starts another");
        assert_eq!(go("worker_process_list", json!({})).await.as_array().map(Vec::len), Some(2));
        assert_eq!(go("worker_process_get", json!({ "pid": other["pid"] })).await["model"], "guest");
        assert_eq!(go("model_diagnose", json!({ "id": "guest" })).await["model"], "guest");
        let stopped = go("worker_process_delete", json!({ "pid": other["pid"], "grace_seconds": 5 })).await;
        assert_eq!(stopped["pid"], other["pid"]);
        assert!(stopped["freed_bytes"].as_u64() > Some(0), "{stopped}");
        let unloaded = go("model_unload", json!({ "id": "guest" })).await;
        assert_eq!(unloaded["workers"], json!([worker["pid"]]));
        assert_eq!(go("model_delete", json!({ "id": "guest" })).await["id"], "guest");
        assert!(import.exists(), "an imported file is not the hive's to delete");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_that_ends_by_itself_ends_its_stream() {
    let hive = TestHive::start().await;
    let mut succeeded = 0;
    for (row, operation) in every_row() {
        let id = rows::submit(&hive, row, &operation).await;
        let last = data_lines(&hive.stream(&id).await).pop().unwrap_or_default();
        let end = if last == "[DONE]" { "[DONE]" } else { "[ERROR] " };
        assert_streams(&hive, &id, end, &operation).await;
        succeeded += usize::from(end == "[DONE]");
        let failure = &hive.job(&id).await["failure"];
        if rows::required_fields(row).iter().any(|(_, kind)| *kind == "model id") {
            // Those that are for a fleet alone look for the model there.
            let is_of_fleet = matches!(row.wire_name, "model_copy" | "model_place");
            let code = if is_of_fleet { "not_in_fleet" } else { "model_not_found" };
            assert_eq!(failure["code"], code, "{operation}");
        }
        assert_ne!(failure["code"], "internal", "{operation}: {failure}");
    }
    assert!(succeeded > 0, "operations without required fields succeed on an empty hive");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ends_the_stream_of_every_operation() {
    let faults =
        Faults::new(|_| async { Err(Failure::new(Code::Io, "made to fail").hint("nothing")) }.boxed());
    let hive = TestHive::start_with(|config| config.faults = faults).await;
    for (row, operation) in every_row() {
        let id = rows::submit(&hive, row, &operation).await;
        assert_streams(&hive, &id, "[ERROR] ", &operation).await;
        let job = hive.job(&id).await;
        assert_eq!((&job["state"], &job["operation"]), (&json!("failed"), &json!(row.wire_name)));
        assert_eq!((&job["failure"]["code"], &job["failure"]["hint"]), (&json!("io"), &json!("nothing")));
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_stream_of_every_operation() {
    let faults = Faults::new(|name| async move { panic!("made to panic in {name}") }.boxed());
    let hive = TestHive::start_with(|config| config.faults = faults).await;
    for (row, operation) in every_row() {
        let id = rows::submit(&hive, row, &operation).await;
        assert_streams(&hive, &id, "[ERROR] ", &operation).await;
        let failure = &hive.job(&id).await["failure"];
        assert_eq!(failure["code"], "internal");
        assert_eq!(failure["causes"], json!([format!("made to panic in {}", row.wire_name)]));
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_stream_of_every_operation_that_has_one() {
    let hive = TestHive::start_with(|config| {
        config.faults = blocking_hook().0;
        config.timers.read_deadline = Duration::from_millis(50).into();
        config.timers.act_deadline = Duration::from_millis(50).into();
        config.timers.cancel_grace = Duration::from_millis(20).into();
    })
    .await;
    for (row, operation) in every_row() {
        if row.deadline == Deadline::None {
            // A transfer may take as long as it makes progress; `timers.readiness` limits a load.
            assert!(matches!(row.class, JobClass::Downloads | JobClass::Loads), "{operation}");
            continue;
        }
        let id = rows::submit(&hive, row, &operation).await;
        assert_streams(&hive, &id, "[ERROR] ", &operation).await;
        assert_eq!(hive.job(&id).await["failure"]["code"], "timeout", "{operation}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_running_operation_can_be_cancelled() {
    let (faults, count) = blocking_hook();
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.timers.cancel_grace = Duration::from_millis(20).into();
    })
    .await;
    for (times, (row, operation)) in every_row().enumerate() {
        let id = rows::submit(&hive, row, &operation).await;
        reached(&count, times + 1).await;
        let answer = hive.delete(&format!("/v1/jobs/{id}")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            answer.json::<Value>().await.expect("JSON"),
            json!({ "job_id": id, "status": "cancelled" })
        );
        assert_streams(&hive, &id, "[CANCELLED]", &operation).await;
        assert_eq!(hive.delete(&format!("/v1/jobs/{id}")).await.status(), 409);
    }
    hive.stop().await;
}

fn one_at_a_time(config: &mut Config) {
    config.jobs.concurrent_acts = 1;
    config.jobs.concurrent_downloads = 1;
    config.jobs.concurrent_loads = 1;
    config.jobs.concurrent_reads = 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_that_is_cancelled_in_its_queue_never_starts() {
    let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, opened) = (Arc::clone(&count), Arc::clone(&gate));
    let faults = Faults::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.expect("the gate stays").forget();
            Ok(())
        }
        .boxed()
    });
    let hive = TestHive::start_with(|config| {
        one_at_a_time(config);
        config.faults = faults;
    })
    .await;
    for (times, (row, operation)) in every_row().enumerate() {
        let first = rows::submit(&hive, row, &operation).await;
        reached(&count, times + 1).await;
        let second = rows::submit(&hive, row, &operation).await;
        assert_eq!(hive.job(&second).await["state"], "queued");
        assert_eq!(hive.delete(&format!("/v1/jobs/{second}")).await.status(), 200);
        gate.add_permits(1);
        hive.stream(&first).await;
        let stream = assert_streams(&hive, &second, "[CANCELLED]", &operation).await;
        assert!(stream.contains("Waiting for a free place"), "{stream}");
        assert_eq!(count.load(Ordering::SeqCst), times + 1, "{operation} started");
        assert_eq!(hive.job(&second).await["started_at"], Value::Null);
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_the_stream_of_every_operation() {
    let (faults, count) = blocking_hook();
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.jobs.concurrent_acts = 64;
        config.jobs.concurrent_downloads = 64;
        config.jobs.concurrent_loads = 64;
        config.timers.cancel_grace = Duration::from_millis(20).into();
    })
    .await;
    let mut streams = Vec::new();
    for (times, (row, operation)) in every_row().enumerate() {
        let id = rows::submit(&hive, row, &operation).await;
        reached(&count, times + 1).await;
        streams.push((operation, hive.get(&format!("/v1/jobs/{id}/stream")).await));
    }
    // Read while the hive shuts down: each open stream must get its terminal event.
    let readers = streams.into_iter().map(|(operation, response)| async move {
        let stream = read_all(response).await;
        assert_plain_stream(&stream, "[ERROR] ", &operation);
        assert!(stream.contains("the hive was stopped"), "{stream}");
    });
    tokio::join!(hive.stop(), futures::future::join_all(readers));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_operation_is_answered_with_what_to_do_instead() {
    let hive = TestHive::start().await;
    for refused in REFUSED {
        for operation in [json!({ refused.name: {} }), json!({ "operation": refused.wire_name })] {
            let answer = hive.post("/v1/jobs", &operation).await;
            assert_eq!(answer.status(), 400);
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            let text = answer.text().await.expect("a body");
            assert!(!text.contains("job_id"), "{text}");
            let problem: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(problem["code"], refused.reason.code().name());
            assert_eq!(problem["hint"], refused.instead);
        }
    }
    hive.stop().await;
}
