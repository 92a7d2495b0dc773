//! Which models are in memory: who goes for whom, and that no answer is cut for it. The workers are real
//! processes that really hold memory, of which the settings leave too little for two.

use std::time::Duration;

use bytesize::ByteSize;
use rbee_hive::config::{Config, Device, KeepAlive, ModelSettings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    Scripted, TestHive, data_lines, merged, process_runs, read_all, read_until, soon, until, write_model,
};

/// What each worker holds besides its program.
const HELD: u64 = 70 << 20;
/// What all workers together may take: enough for one of them and too little for two, whether what each needs was
/// measured or is estimated.
const LIMIT: ByteSize = ByteSize::mib(120);

/// A hive with the models `a` and `b`, of which only one fits into memory.
async fn hive(script: &Scripted, change: impl FnOnce(&mut Config)) -> TestHive {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("models")).expect("a folder");
    for model in ["a", "b"] {
        write_model(&dir.path().join("models"), model);
    }
    TestHive::start_in(dir, |config| {
        script.serve_for(config, 4);
        Scripted::hold(config, HELD);
        config.memory.limit = [(Device::CPU, LIMIT)].into();
        config.residency.min_stay = Duration::ZERO.into();
        change(config);
    })
    .await
}

fn load(model: &str, more: Value) -> Value {
    json!({ "ModelLoad": merged(json!({ "id": model }), more) })
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": model }] })
}

async fn workers(hive: &TestHive) -> Vec<Value> {
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    workers.as_array().expect("workers").clone()
}

/// Submits a load and reads its narration until the text is there.
async fn load_until(hive: &TestHive, model: &str, text: &str) -> String {
    let job = hive.submit(&load(model, json!({}))).await;
    let mut stream = hive.get(&format!("/v1/jobs/{job}/stream")).await;
    read_until(&mut stream, &mut String::new(), text).await;
    job
}

/// Asks for an answer and gives its status and body.
async fn ask(hive: &TestHive, model: &str) -> (u16, Value) {
    let answer = hive.post("/v1/chat/completions", &chat(model)).await;
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn assert_answers(hive: &TestHive, worker: &Value) {
    let (_, answer) = ask(hive, worker["model"].as_str().expect("a model")).await;
    assert_eq!(answer["choices"][0]["message"]["content"], worker["pid"].to_string(), "{answer}");
}

fn pid(worker: &Value) -> u32 {
    worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_whole_before_its_worker_makes_room() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    let a = hive.load("a").await;
    let (answer, mut seen) = script.half_an_answer(&hive, "a").await;
    let job = load_until(&hive, "b", "to finish answering").await;
    let view = hive.residency().await;
    assert_eq!(view["residents"][0]["pid"], a["pid"], "{view}");
    assert!(
        view["residents"][0]["draining"].as_str().expect("a reason").contains("'b' needs its room"),
        "{view}"
    );
    let waiting = &view["loads"][0];
    assert_eq!((&waiting["job_id"], &waiting["state"]), (&json!(job), &json!("waiting")), "{view}");
    assert!(waiting["waits_for"].as_str().expect("a reason").contains("to finish answering"), "{view}");
    assert_eq!(hive.job(&job).await["state"], "running");
    assert!(process_runs(pid(&a)));

    script.clear("a.halfway");
    seen += &read_all(answer).await;
    assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    let stream = hive.stream(&job).await;
    assert_eq!(data_lines(&stream).last().map(String::as_str), Some("[DONE]"), "{stream}");
    assert!(stream.contains(&format!("worker {} of 'a' goes: ", a["pid"])), "{stream}");
    let left = workers(&hive).await;
    assert_eq!((&left[0]["model"], left.len()), (&json!("b"), 1), "{left:?}");
    let ends: Value = hive.get("/v1/jobs?operation=worker_process_delete").await.json().await.expect("JSON");
    let reason = ends["jobs"][0]["request"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("'b' needs its room"), "{ends}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_waits_too_long_fails_and_the_answer_goes_on() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.drain = Duration::from_millis(100).into()).await;
    let a = hive.load("a").await;
    let (answer, mut seen) = script.half_an_answer(&hive, "a").await;
    let failure = hive.fail(&load("b", json!({}))).await;
    assert_eq!(failure["code"], "timeout", "{failure}");
    assert!(
        failure["message"].as_str().expect("text").contains(&format!("worker {}", a["pid"])),
        "{failure}"
    );
    script.clear("a.halfway");
    seen += &read_all(answer).await;
    assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    until("the worker to be open again", async || {
        hive.residency().await["residents"][0]["draining"].is_null().then_some(())
    })
    .await;
    assert_answers(&hive, &a).await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_cancelled_while_it_waits_leaves_the_worker_as_it_was() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    let a = hive.load("a").await;
    let (answer, _) = script.half_an_answer(&hive, "a").await;
    let job = load_until(&hive, "b", "to finish answering").await;
    assert_eq!(hive.delete(&format!("/v1/jobs/{job}")).await.status(), 200);
    until("the worker to be open again", async || {
        let view = hive.residency().await;
        (view["residents"][0]["draining"].is_null() && view["loads"] == json!([])).then_some(())
    })
    .await;
    script.clear("a.halfway");
    assert!(read_all(answer).await.ends_with("data: [DONE]\n\n"));
    assert_answers(&hive, &a).await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_when_the_worker_that_it_waits_for_is_killed() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    let a = hive.load("a").await;
    let (answer, _) = script.half_an_answer(&hive, "a").await;
    let job = load_until(&hive, "b", "to finish answering").await;
    kill_process(Pid::from_raw(pid(&a).cast_signed()).expect("a process id"), Signal::KILL)
        .expect("it lives");
    let stream = hive.stream(&job).await;
    assert_eq!(data_lines(&stream).last().map(String::as_str), Some("[DONE]"), "{stream}");
    assert!(!read_all(answer).await.contains("data: [DONE]"), "an answer that was cut does not look whole");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_who_would_go_and_idle_workers_go_for_a_load() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    let a = hive.load("a").await;
    let plan = hive.succeed(&load("b", json!({ "dry_run": true }))).await;
    let eviction = &plan["evictions"][0];
    assert_eq!(
        (&plan["fits"], &eviction["pid"], &eviction["model"]),
        (&json!(true), &a["pid"], &json!("a")),
        "{plan}"
    );
    assert!(eviction["held_bytes"].as_u64() > Some(HELD) && eviction["idle_seconds"].is_u64(), "{plan}");
    assert_eq!(workers(&hive).await[0]["pid"], a["pid"], "nobody went");

    let stream = hive.run(&load("b", json!({}))).await;
    assert!(stream.contains(&format!("worker {} of 'a' goes: idle for ", a["pid"])), "{stream}");
    assert!(stream.ends_with("[DONE]\n\n"), "{stream}");
    let left = workers(&hive).await;
    assert_eq!((&left[0]["model"], left.len()), (&json!("b"), 1), "{left:?}");
    // By force there is room for both.
    hive.succeed(&load("a", json!({ "force": true }))).await;
    assert_eq!(workers(&hive).await.len(), 2);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_model_never_goes() {
    let script = Scripted::new();
    let pinned = ModelSettings {
        pinned: Some(true),
        idle: Some(KeepAlive::For(Duration::ZERO)),
        ..ModelSettings::default()
    };
    let hive = hive(&script, |config| drop(config.models.insert("a".to_owned(), pinned))).await;
    let a = hive.succeed(&load("a", json!({ "keep_alive": 0 }))).await;
    let plan = hive.succeed(&load("b", json!({ "dry_run": true }))).await;
    assert_eq!((&plan["fits"], &plan["evictions"]), (&json!(false), &json!([])), "{plan}");
    let failure = hive.fail(&load("b", json!({}))).await;
    assert_eq!(
        (&failure["code"], &failure["stage"]),
        (&json!("out_of_memory"), &json!("preflight")),
        "{failure}"
    );
    let causes = failure["causes"].to_string();
    assert!(causes.contains("even if every worker goes that may go"), "{failure}");
    assert!(causes.contains(&format!("worker {} of 'a'", a["pid"])), "{failure}");
    let view = hive.residency().await;
    assert_eq!(
        (&view["residents"][0]["keep"], &view["residents"][0]["unload_at"]),
        (&json!("pinned"), &Value::Null)
    );
    assert_answers(&hive, &a).await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_once_it_was_idle_for_as_long_as_it_may() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    // It stays while it answers.
    let a = hive.load("a").await;
    let view = hive.residency().await;
    let (keep, unload_at) = (&view["residents"][0]["keep"], &view["residents"][0]["unload_at"]);
    assert_eq!((keep, unload_at), (&json!("until_needed"), &Value::Null), "{view}");
    let (answer, _) = script.half_an_answer(&hive, "a").await;
    let again = hive.succeed(&load("a", json!({ "keep_alive": "50ms" }))).await;
    assert_eq!(again["pid"], a["pid"]);
    let view = hive.residency().await;
    let (keep, unload_at) = (&view["residents"][0]["keep"], &view["residents"][0]["unload_at"]);
    assert_eq!((keep, unload_at), (&json!("idle"), &Value::Null), "{view}");
    assert!(process_runs(pid(&a)));
    script.clear("a.halfway");
    assert!(read_all(answer).await.ends_with("data: [DONE]\n\n"));
    until("the worker to go", async || workers(&hive).await.is_empty().then_some(())).await;
    let ends: Value = hive.get("/v1/jobs?operation=worker_process_delete").await.json().await.expect("JSON");
    let reason = ends["jobs"][0]["request"]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("idle for "), "{ends}");
    assert!(!process_runs(pid(&a)));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_can_be_loaded_at_the_start() {
    let script = Scripted::new();
    let preload = ModelSettings { preload: Some(true), ..ModelSettings::default() };
    let hive = hive(&script, |config| drop(config.models.insert("b".to_owned(), preload))).await;
    let b = until("the model to be loaded", async || {
        workers(&hive).await.into_iter().find(|worker| worker["status"] == "ready")
    })
    .await;
    assert_eq!(b["model"], "b");
    let loads: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    assert_eq!(loads["jobs"][0]["request"]["reason"], "it is preloaded", "{loads}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_memory_is_shown_and_published() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    let mut events = hive.get("/v1/events").await;
    let mut seen = String::new();
    read_until(&mut events, &mut seen, "event: snapshot").await;
    let a = hive.load("a").await;
    read_until(&mut events, &mut seen, &format!("\"residents\":[{{\"pid\":{}", a["pid"])).await;
    assert!(seen.contains("event: residency\n"), "{seen}");
    let view = hive.residency().await;
    let shown = &view["residents"][0];
    assert_eq!(
        (&shown["model"], &shown["device"], &shown["slots"]),
        (&json!("a"), &json!("cpu"), &json!(4)),
        "{view}"
    );
    assert!(shown["held_bytes"].as_u64() > Some(HELD) && shown["ready_at"].is_string(), "{view}");
    assert!(shown["why"].is_string() && shown["outdated"] == false, "{view}");
    assert_eq!(view["memory"][0]["device"], "cpu");
    assert!(
        view["memory"][0]["free_bytes"].is_u64() && view["memory"][0]["capacity_bytes"].is_u64(),
        "{view}"
    );
    assert_eq!(
        (&view["queue"], &view["loads"], &view["leases"]),
        (&json!([]), &json!([]), &json!([])),
        "{view}"
    );
    drop(events);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_stops_while_a_load_waits_for_room_ends_both() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.timers.stop_grace = Duration::from_millis(100).into()).await;
    hive.load("a").await;
    let (_answer, _) = script.half_an_answer(&hive, "a").await;
    let job = load_until(&hive, "b", "to finish answering").await;
    let dir = hive.stop().await;
    let journal = dir.path().join(format!("data/jobs/{job}.jsonl"));
    let told = std::fs::read_to_string(journal).expect("its journal");
    assert!(told.contains("\"interrupted\""), "{told}");
}

/// How many times each client asks.
const ASKED: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn two_models_that_do_not_fit_together_take_turns_and_no_answer_is_cut() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.min_stay = Duration::from_secs(1).into()).await;
    let clients = ["a", "b"].into_iter().cycle().take(8).map(|model| {
        let hive = &hive;
        async move {
            for _ in 0..ASKED {
                let (status, answer) = ask(hive, model).await;
                assert_eq!(status, 200, "{answer}");
                assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
            }
        }
    });
    soon("every answer", futures::future::join_all(clients)).await;
    let starts = script.log().iter().filter(|line| line.starts_with("start")).count();
    assert!((2..=8 * ASKED / 5).contains(&starts), "{starts} loads for {} requests", 8 * ASKED);
    assert!(!script.log().iter().any(|line| line.starts_with("left")), "no client went");
    assert_eq!(workers(&hive).await.len(), 1, "they do not fit together");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_a_request_loaded_goes_with_its_last_answer_if_it_is_not_kept() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.idle = KeepAlive::For(Duration::ZERO)).await;
    let (status, answer) = ask(&hive, "a").await;
    assert_eq!(status, 200, "{answer}");
    until("the worker to go", async || workers(&hive).await.is_empty().then_some(())).await;
    let loads: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    let request = &loads["jobs"][0]["request"];
    assert_eq!(request["reason"], "a request waits for it", "{loads}");
    assert_eq!(loads["jobs"].as_array().map(Vec::len), Some(1), "{loads}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_fails_those_who_wait_and_the_answer_under_way_ends_whole() {
    let script = Scripted::new();
    let hive = hive(&script, |config| {
        script.serve_for(config, 1);
        config.timers.stop_grace = crate::support::PATIENCE.into();
    })
    .await;
    hive.load("a").await;
    let (answer, mut seen) = script.half_an_answer(&hive, "a").await;
    let (waiting, unloaded) = futures::join!(ask(&hive, "a"), async {
        until("the request to wait", async || {
            (hive.residency().await["queue"][0]["waiting"] == 1).then_some(())
        })
        .await;
        hive.submit(&json!({ "ModelUnload": { "id": "a" } })).await
    });
    let (status, refusal) = waiting;
    assert_eq!((status, &refusal["error"]["code"]), (503, &json!("model_not_loaded")), "{refusal}");
    assert_eq!(hive.job(&unloaded).await["state"], "running", "it waits for the answer");
    script.clear("a.halfway");
    seen += &read_all(answer).await;
    assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    assert!(hive.stream(&unloaded).await.ends_with("[DONE]\n\n"));
    // Whoever asks now loads it again.
    let (status, answer) = ask(&hive, "a").await;
    assert_eq!(status, 200, "{answer}");
    hive.stop().await;
}
