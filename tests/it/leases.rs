//! Memory for other programs: who goes for it, that no answer is cut for it, and that what went comes back.

use std::time::Duration;

use bytesize::ByteSize;
use rbee_hive::config::{Config, Device};
use serde_json::{Value, json};

use crate::support::{Scripted, TestHive, data_lines, merged, read_all, read_until, until, write_model};

/// What a worker holds besides its program, what all may take together, and a lease beside which none fits.
const HELD: u64 = 150 << 20;
const LIMIT: ByteSize = ByteSize::mib(300);
const LEASE: ByteSize = ByteSize::mib(250);

async fn hive(script: &Scripted, change: impl FnOnce(&mut Config)) -> TestHive {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("models")).expect("a folder");
    write_model(&dir.path().join("models"), "a");
    TestHive::start_in(dir, |config| {
        script.serve_for(config, 4);
        Scripted::hold(config, HELD);
        config.memory.limit = [(Device::CPU, LIMIT)].into();
        config.residency.min_stay = Duration::ZERO.into();
        config.residency.linger = Duration::ZERO.into();
        change(config);
    })
    .await
}

fn lease(more: Value) -> Value {
    json!({ "MemoryLease": merged(json!({ "bytes": LEASE.as_u64(), "device": "cpu", "holder": "a game" }), more) })
}

/// Waits until a worker of the model is there and ready.
async fn comes_back(hive: &TestHive) -> Value {
    until("the model to come back", async || {
        let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
        let mut workers = workers.as_array().expect("workers").iter();
        workers.find(|worker| worker["status"] == "ready").cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_leased_kept_and_given_back() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.retry = Duration::from_millis(1).into()).await;
    let worker = hive.succeed(&json!({ "ModelLoad": { "id": "a", "slots": 2 } })).await;
    let given = hive.succeed(&lease(json!({}))).await;
    assert_eq!(given["evicted"], json!([{ "model": "a", "pid": worker["pid"] }]), "{given}");
    assert_eq!((&given["device"], &given["bytes"]), (&json!("cpu"), &json!(LEASE.as_u64())), "{given}");
    assert!(given["free_bytes"].as_u64() >= Some(LEASE.as_u64()), "{given}");
    let view = hive.residency().await;
    let held = &view["leases"][0];
    assert_eq!((&held["lease_id"], &held["state"]), (&given["lease_id"], &json!("held")), "{view}");
    assert_eq!((&held["holder"], &held["restores"]), (&json!("a game"), &json!(["a"])), "{view}");
    assert_eq!(view["memory"][0]["leased_bytes"], LEASE.as_u64(), "{view}");

    // Its memory is not there for others, who are told so.
    let failure = hive.fail(&json!({ "ModelLoad": { "id": "a" } })).await;
    assert_eq!(failure["code"], "out_of_memory", "{failure}");
    let failure = hive.fail(&lease(json!({}))).await;
    assert_eq!(failure["code"], "out_of_memory", "{failure}");

    let release = json!({ "MemoryRelease": { "lease_id": given["lease_id"] } });
    assert_eq!(hive.succeed(&release).await["restores"], json!(["a"]));
    let back = comes_back(&hive).await;
    assert_eq!((&back["model"], &back["slots"]), (&worker["model"], &worker["slots"]), "as it was");
    assert_eq!(hive.residency().await["leases"], json!([]));
    assert_eq!(hive.fail(&release).await["code"], "lease_not_found");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_waits_for_answers_and_expires() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    hive.succeed(&json!({ "ModelLoad": { "id": "a" } })).await;
    let (answer, mut seen) = script.half_an_answer(&hive, "a").await;
    let job = hive.submit(&lease(json!({ "seconds": 1 }))).await;
    let mut stream = hive.get(&format!("/v1/jobs/{job}/stream")).await;
    read_until(&mut stream, &mut String::new(), "to finish answering").await;
    assert_eq!(hive.residency().await["leases"][0]["state"], "waiting");

    script.clear("a.halfway");
    seen += &read_all(answer).await;
    assert!(seen.ends_with("data: [DONE]\n\n"), "the answer is whole: {seen}");
    let stream = hive.stream(&job).await;
    assert_eq!(data_lines(&stream).last().map(String::as_str), Some("[DONE]"), "{stream}");
    comes_back(&hive).await;
    assert_eq!(hive.residency().await["leases"], json!([]), "it has expired");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_given_up_while_it_waits_takes_nothing() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.drain = Duration::from_millis(100).into()).await;
    let worker = hive.succeed(&json!({ "ModelLoad": { "id": "a" } })).await;
    let (answer, mut seen) = script.half_an_answer(&hive, "a").await;
    let failure = hive.fail(&lease(json!({}))).await;
    assert_eq!(failure["code"], "out_of_memory", "{failure}");
    until("the lease to be gone and the worker to be open again", async || {
        let view = hive.residency().await;
        (view["leases"] == json!([]) && view["residents"][0]["draining"].is_null()).then_some(())
    })
    .await;
    script.clear("a.halfway");
    seen += &read_all(answer).await;
    assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    assert_eq!(comes_back(&hive).await["pid"], worker["pid"], "it stayed");
    for wrong in [json!({ "bytes": 0 }), json!({ "seconds": 0 }), json!({ "bytes": "much" })] {
        let answer = hive.post("/v1/jobs", &lease(wrong)).await;
        assert_eq!(answer.status(), 400);
    }
    hive.stop().await;
}
