//! Fleets: several hives and real nats-servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rbee_hive::config::{Config, Faults};
use rbee_hive::n;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::support::{
    Daemon, NatsServer, Relay, StallingServer, TestHive, Typed, client, data_lines, folder, read_all,
    read_until, typed, until,
};

/// An act that ends by itself at once, and changes nothing that matters.
pub(crate) fn act(hive: &str) -> Value {
    json!({ "MemoryLease": { "hive_id": hive, "bytes": 1000 } })
}

/// Settings of a hive in the fleet of that server.
pub(crate) fn in_fleet(config: &mut Config, name: &str, nats: &str) {
    config.hive_ids = vec![name.to_owned()];
    config.fleet.nats = Some(nats.to_owned());
    config.fleet.heartbeat = Duration::from_millis(500).into();
    config.fleet.gone_after = Duration::from_secs(3).into();
}

pub(crate) async fn hive(name: &str, nats: &str) -> TestHive {
    TestHive::start_with(|config| in_fleet(config, name, nats)).await
}

/// A hive whose leases narrate as often as the test lets them, and that is never taken for gone.
async fn narrating_hive(name: &str, nats: &str, steps: &Arc<Semaphore>, ends: &Arc<AtomicBool>) -> TestHive {
    TestHive::start_with(|config| {
        in_fleet(config, name, nats);
        config.fleet.gone_after = Duration::from_secs(60).into();
        config.faults = narrating(steps, ends);
    })
    .await
}

/// How a hive stands in its fleet.
pub(crate) async fn status(hive: &TestHive) -> Value {
    hive.succeed(&json!({ "FleetStatus": {} })).await
}

/// Waits until a hive can reach exactly these.
pub(crate) async fn sees(hive: &TestHive, names: &[&str]) {
    until(&format!("{names:?}"), || async {
        let status = status(hive).await;
        let hives = status["hives"].as_array().expect("hives");
        let reachable = hives.iter().filter(|hive| hive["presence"] == "reachable");
        let reachable: Vec<_> = reachable.map(|hive| hive["hive"].as_str().expect("a name")).collect();
        (status["is_in"] == true && reachable == names).then_some(())
    })
    .await;
}

/// Three hives that know each other.
async fn three(nats: &str) -> [TestHive; 3] {
    let hives = [hive("a", nats).await, hive("b", nats).await, hive("c", nats).await];
    for hive in &hives {
        sees(hive, &["a", "b", "c"]).await;
    }
    hives
}

pub(crate) async fn stop(hives: impl IntoIterator<Item = TestHive>) {
    for hive in hives {
        hive.stop().await;
    }
}

pub(crate) async fn typed_at(url: &str, id: &str, after: Option<u64>) -> String {
    let after = after.map_or_else(String::new, |after| format!("&after={after}"));
    let answer = client().get(format!("{url}/v1/jobs/{id}/stream?format=json{after}")).send().await;
    read_all(answer.expect("an answer")).await
}

/// Checks that a stream has every number once, in order, and one end.
pub(crate) fn assert_whole(stream: &str) -> Vec<Typed> {
    let events = typed(stream);
    let numbers: Vec<_> = events.iter().filter_map(|event| event.id).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{stream}");
    let ends = events.iter().filter(|event| matches!(&*event.event, "done" | "failed" | "cancelled"));
    assert_eq!(ends.count(), 1, "{stream}");
    events
}

/// A hook that makes every lease narrate, as often as the test lets it.
fn narrating(steps: &Arc<Semaphore>, ends: &Arc<AtomicBool>) -> Faults {
    let (steps, ends) = (Arc::clone(steps), Arc::clone(ends));
    Faults::new(move |operation| {
        let (steps, ends) = (Arc::clone(&steps), Arc::clone(&ends));
        Box::pin(async move {
            let mut step = 0;
            while operation == "memory_lease" && !ends.load(Ordering::Acquire) {
                let Ok(Ok(permit)) = tokio::time::timeout(Duration::from_millis(20), steps.acquire()).await
                else {
                    continue;
                };
                permit.forget();
                step += 1;
                n!("step", "Step {step}");
            }
            Ok(())
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn any_hive_takes_an_operation_for_any_other_and_has_the_same_stream() {
    let Some(nats) = NatsServer::start().await else { return };
    let hives = three(&nats.url()).await;
    let [a, b, c] = &hives;
    let id = a.submit(&act("c")).await;
    let there = typed_at(&c.url, &id, None).await;
    assert_whole(&there);
    for hive in [a, b] {
        assert_eq!(typed_at(&hive.url, &id, None).await, there, "the same bytes");
        assert_eq!(typed_at(&hive.url, &id, Some(2)).await, typed_at(&c.url, &id, Some(2)).await);
        assert_eq!(hive.stream(&id).await, c.stream(&id).await);
        let (mut here, mut home) = (hive.job(&id).await, c.job(&id).await);
        assert_eq!((here["hive"].take(), home["hive"].take()), (json!("c"), json!("c")));
        assert_eq!(here, home);
    }
    // A read is not in the stream of acts: its hive tells it to whoever asks.
    let id = a.submit(&json!({ "ModelList": { "hive_id": "C" } })).await;
    let there = typed_at(&c.url, &id, None).await;
    assert_whole(&there);
    assert!(there.contains("on hive 'c'"), "{there}");
    assert_eq!(typed_at(&a.url, &id, None).await, there);
    assert_eq!(typed_at(&b.url, &id, None).await, there);
    // What the other hive refuses, and what no hive is called.
    let refused = a.post("/v1/jobs", &json!({ "ModelGet": { "hive_id": "c", "id": "-" } })).await;
    assert_eq!(refused.status(), 400);
    let unknown: Value =
        a.post("/v1/jobs", &json!({ "ModelList": { "hive_id": "cc" } })).await.json().await.expect("JSON");
    assert_eq!((&unknown["code"], &unknown["hint"]), (&json!("unknown_hive"), &json!("did you mean c?")));
    let nowhere = a.get("/v1/jobs/job-01a20948-3250-768d-ae65-db21c6f1dad8/stream").await;
    assert_eq!(nowhere.status(), 404);
    stop(hives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_all_hives_has_their_results_by_hive() {
    let Some(nats) = NatsServer::start().await else { return };
    let hives = three(&nats.url()).await;
    let result = hives[1].succeed(&json!({ "WorkerProcessList": { "hive_id": "all" } })).await;
    assert_eq!(
        result,
        json!({ "hives": { "a": { "result": [] }, "b": { "result": [] }, "c": { "result": [] } } })
    );
    let result = hives[0].succeed(&json!({ "ModelGet": { "hive_id": "all", "id": "nothing" } })).await;
    for hive in ["a", "b", "c"] {
        assert_eq!(result["hives"][hive]["failure"]["code"], "model_not_found", "{result}");
    }
    let refused = hives[0].post("/v1/jobs", &act("all")).await;
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.expect("text").contains("only read"));
    stop(hives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_other_hives_are_listed_cancelled_and_repeated_like_ones_own() {
    let Some(nats) = NatsServer::start().await else { return };
    let (steps, ends) = (Arc::new(Semaphore::new(3)), Arc::default());
    let a = hive("a", &nats.url()).await;
    let b = narrating_hive("b", &nats.url(), &steps, &ends).await;
    sees(&a, &["a", "b"]).await;
    let submit = async |key: &str| {
        let request =
            a.client.post(format!("{}/v1/jobs", a.url)).header("idempotency-key", key).json(&act("b"));
        let answer = request.send().await.expect("an answer");
        let repeated = answer.headers().contains_key("idempotency-replayed");
        let answer: Value = answer.json().await.expect("JSON");
        (answer["job_id"].as_str().expect("an id").to_owned(), repeated)
    };
    let (id, repeated) = submit("key").await;
    assert!(!repeated);
    assert_eq!(submit("key").await, (id.clone(), true));
    // Followed live.
    let mut stream = a.get(&format!("/v1/jobs/{id}/stream")).await;
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "Step 3").await;
    let cancelled = a.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!(cancelled.status(), 200);
    read_until(&mut stream, &mut seen, "[CANCELLED]\n\n").await;
    assert_eq!(seen, b.stream(&id).await);
    let again = a.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!(again.status(), 409);
    // One list of all.
    let own = a.submit(&act("a")).await;
    a.stream(&own).await;
    let page: Value = a.get("/v1/jobs?hive=all&operation=memory_lease").await.json().await.expect("JSON");
    let jobs = page["jobs"].as_array().expect("jobs");
    let listed: Vec<_> = jobs.iter().map(|job| (job["hive"].as_str(), job["job_id"].as_str())).collect();
    assert_eq!(listed, [(Some("a"), Some(&*own)), (Some("b"), Some(&*id))]);
    let first: Value =
        a.get("/v1/jobs?hive=all&operation=memory_lease&limit=1").await.json().await.expect("JSON");
    let cursor = first["next_cursor"].as_str().expect("there are more");
    let rest = a.get(&format!("/v1/jobs?hive=all&operation=memory_lease&limit=1&cursor={cursor}")).await;
    let rest: Value = rest.json().await.expect("JSON");
    assert_eq!((&rest["jobs"][0]["job_id"], &rest["next_cursor"]), (&json!(id), &Value::Null));
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_one_hive_and_to_its_data_folder() {
    let Some(nats) = NatsServer::start().await else { return };
    let first = hive("twin", &nats.url()).await;
    sees(&first, &["twin"]).await;
    let second = hive("TWIN", &nats.url()).await;
    let told = until("the refusal", || async {
        let status = status(&second).await;
        (status["trouble"]["hint"].as_str()?.contains("--hive-id")).then_some(status)
    })
    .await;
    let message = told["trouble"]["message"].as_str().expect("text");
    assert!(message.contains("'twin' belongs to the hive on") && message.contains(&first.url), "{message}");
    // It works alone.
    second.succeed(&json!({ "ModelList": {} })).await;
    // The other one leaves, and says so: the name is free at once.
    let third = hive("third", &nats.url()).await;
    sees(&third, &["third", "twin"]).await;
    let mut events = third.get("/v1/events").await;
    let dir = first.stop().await;
    read_until(&mut events, &mut String::new(), "\"change\":\"left\"").await;
    third.stop().await;
    sees(&second, &["twin"]).await;
    second.stop().await;
    // A hive that was killed holds its name for a while, but not against its own folder.
    let killed = daemon(&dir, "twin", &nats.url()).await;
    in_fleet_of(&killed).await;
    killed.kill().await;
    let back = daemon(&dir, "twin", &nats.url()).await;
    in_fleet_of(&back).await;
    back.stop().await;
}

/// A hive as a process, which can be killed.
async fn daemon(dir: &TempDir, name: &str, nats: &str) -> Daemon {
    let config = dir.path().join("hive.toml");
    let text = format!("[fleet]\nnats = \"{nats}\"\nheartbeat = \"500ms\"\ngone_after = \"3s\"\n");
    std::fs::write(&config, text).expect("a file");
    let config = config.to_str().expect("UTF-8").to_owned();
    Daemon::start(dir.path(), &["--config", &config, "--hive-id", name]).await
}

pub(crate) async fn in_fleet_of(daemon: &Daemon) {
    until("the daemon in its fleet", || async {
        let status = daemon.succeed(&json!({ "FleetStatus": {} })).await;
        (status["is_in"] == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nats_server_loses_and_doubles_nothing() {
    let Some(mut nats) = NatsServer::start().await else { return };
    let (steps, ends) = (Arc::new(Semaphore::new(5)), Arc::new(AtomicBool::new(false)));
    let a = hive("a", &nats.url()).await;
    let b = narrating_hive("b", &nats.url(), &steps, &ends).await;
    sees(&a, &["a", "b"]).await;
    let id = a.submit(&act("b")).await;
    let mut stream = a.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "Step 5\"").await;
    for round in 1..=3 {
        nats.kill().await;
        // Its own hive tells on, live, while the fleet is away.
        steps.add_permits(5);
        let mut home = b.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
        let mut at_home = String::new();
        read_until(&mut home, &mut at_home, &format!("Step {}\"", 5 + 5 * round)).await;
        nats.start_again().await;
        read_until(&mut stream, &mut seen, &format!("Step {}\"", 5 + 5 * round)).await;
    }
    ends.store(true, Ordering::Release);
    read_until(&mut stream, &mut seen, "event: done").await;
    seen += &read_all(stream).await;
    assert_whole(&seen);
    assert_eq!(seen, typed_at(&b.url, &id, None).await);
    sees(&a, &["a", "b"]).await;
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_alone_waits_for_nobody() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let vacant = crate::support::nowhere().replace("http", "nats");
    let hive = TestHive::start_in(dir, |config| in_fleet(config, "a", &vacant)).await;
    hive.succeed(&act("a")).await;
    hive.succeed(&json!({ "ModelList": {} })).await;
    let status = status(&hive).await;
    assert_eq!((&status["fleet"], &status["is_in"]), (&json!("home"), &json!(false)));
    assert_eq!(status["trouble"]["code"], "fleet_unreachable");
    let refused = hive.post("/v1/jobs", &act("b")).await;
    assert_eq!(refused.status(), 503);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_dies_is_told_its_job_is_ended_and_it_adopts_that_end() {
    let Some(nats) = NatsServer::start().await else { return };
    let slow = StallingServer::start().await;
    let a = hive("a", &nats.url()).await;
    let b = hive("b", &nats.url()).await;
    let dir = folder();
    let dying = daemon(&dir, "c", &nats.url()).await;
    sees(&a, &["a", "b", "c"]).await;
    let mut events = a.get("/v1/events").await;
    let download = json!({ "ModelDownload": { "hive_id": "c", "model": slow.model("half") } });
    let id = a.submit(&download).await;
    let mut stream = b.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "model_download_progress").await;
    dying.kill().await;
    // It is ended within a bound, and everybody is told.
    read_until(&mut stream, &mut seen, "event: failed").await;
    seen += &read_all(stream).await;
    let all = assert_whole(&seen);
    let end = &all.last().expect("an end").data;
    assert_eq!(end["code"], "interrupted");
    assert!(end["message"].as_str().expect("text").contains("hive 'c' has been silent"), "{end}");
    let mut told = String::new();
    read_until(&mut events, &mut told, "\"change\":\"gone\"").await;
    assert!(told.contains("\"change\":\"unreachable\""), "{told}");
    // Its streams are there without it.
    assert_eq!(typed_at(&a.url, &id, None).await, seen);
    assert_eq!(a.job(&id).await["state"], "failed");
    // It comes back: it has the end that was recorded, and no other.
    let back = daemon(&dir, "c", &nats.url()).await;
    sees(&a, &["a", "b", "c"]).await;
    until("the end that the fleet recorded", || async {
        let here = typed_at(&back.url, &id, None).await;
        (here == seen).then_some(())
    })
    .await;
    back.stop().await;
    let again = daemon(&dir, "c", &nats.url()).await;
    assert_eq!(typed_at(&again.url, &id, None).await, seen, "also after a restart");
    again.stop().await;
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_is_cut_off_is_told_as_unreachable_and_comes_back() {
    let Some(nats) = NatsServer::start().await else { return };
    let relay = Relay::to(&nats.url().replace("nats", "http")).await;
    let (steps, ends) = (Arc::new(Semaphore::new(2)), Arc::new(AtomicBool::new(false)));
    let a = TestHive::start_with(|config| {
        in_fleet(config, "a", &nats.url());
        config.fleet.gone_after = Duration::from_secs(60).into();
    })
    .await;
    let b = narrating_hive("b", &relay.url.replace("http", "nats"), &steps, &ends).await;
    sees(&a, &["a", "b"]).await;
    let id = a.submit(&act("b")).await;
    let mut stream = a.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "Step 2\"").await;
    relay.cut();
    sees(&a, &["a"]).await;
    let refused = a.post("/v1/jobs", &json!({ "ModelList": { "hive_id": "b" } })).await;
    assert_eq!(refused.status(), 503);
    let all = a.succeed(&json!({ "ModelList": { "hive_id": "all" } })).await;
    assert_eq!(all["hives"]["b"]["failure"]["code"], "hive_unreachable", "{all}");
    // What it does meanwhile is done.
    steps.add_permits(100);
    ends.store(true, Ordering::Release);
    b.stream(&id).await;
    let listed: Value = a.get("/v1/jobs?hive=b").await.json().await.expect("JSON");
    assert_eq!(listed["jobs"][0]["job_id"], json!(id), "as the stream has it: {listed}");
    relay.mend();
    sees(&a, &["a", "b"]).await;
    read_until(&mut stream, &mut seen, "event: done").await;
    seen += &read_all(stream).await;
    assert_whole(&seen);
    assert_eq!(seen, typed_at(&b.url, &id, None).await);
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_goes_on_without_one() {
    let Some(mut cluster) = NatsServer::cluster().await else { return };
    let all = cluster.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    let (a, b) = (hive("a", &all).await, hive("b", &all).await);
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;
    for node in &mut cluster {
        node.kill().await;
        // An act that is asked for through one hive and done by the other, and followed at both.
        let id = until("an act", || async { try_submit(&a.client, &a.url, &act("b")).await }).await;
        let seen = typed_at(&a.url, &id, None).await;
        assert_whole(&seen);
        assert_eq!(seen, typed_at(&b.url, &id, None).await);
        node.start_again().await;
        until("the cluster to be whole", || async {
            let status = status(&a).await;
            (status["is_in"] == true && status["unpublished"] == 0).then_some(())
        })
        .await;
    }
    stop([a, b]).await;
}

/// The id of the job, if the fleet can be asked just now.
async fn try_submit(client: &Client, url: &str, operation: &Value) -> Option<String> {
    let answer = client.post(format!("{url}/v1/jobs")).json(operation).send().await.ok()?;
    let answer: Value = answer.json().await.ok()?;
    answer["job_id"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_end_is_told_at_every_hive() {
    let Some(nats) = NatsServer::start().await else { return };
    let a = hive("a", &nats.url()).await;
    let b = TestHive::start_with(|config| {
        in_fleet(config, "b", &nats.url());
        config.timers.act_deadline = Duration::from_millis(50).into();
        config.faults = Faults::new(|operation| {
            Box::pin(async move {
                match operation {
                    "memory_lease" => panic!("as the test wants it"),
                    "memory_release" => std::future::pending().await,
                    _ => Ok(()),
                }
            })
        });
    })
    .await;
    sees(&a, &["a", "b"]).await;
    for (operation, end) in [
        (act("b"), "panicked"),
        (json!({ "MemoryRelease": { "hive_id": "b", "lease_id": "lease-1" } }), "deadline"),
        (json!({ "TokenRevoke": { "hive_id": "b", "name": "nobody" } }), "nobody"),
        (json!({ "ModelGet": { "hive_id": "b", "id": "nothing" } }), "nothing"),
    ] {
        let id = a.submit(&operation).await;
        let lines = data_lines(&a.stream(&id).await);
        let last = lines.last().expect("a line");
        assert!(last.starts_with("[ERROR] ") && last.contains(end), "{operation}: {lines:?}");
        assert_eq!(
            assert_whole(&typed_at(&a.url, &id, None).await),
            assert_whole(&typed_at(&b.url, &id, None).await)
        );
    }
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_for_any_hive_goes_where_it_is_best_done_and_says_why() {
    let Some(nats) = NatsServer::start().await else { return };
    let hives = three(&nats.url()).await;
    let [a, b, c] = &hives;
    crate::support::write_model(&b.models_dir(), "only-here");
    let load = json!({ "ModelLoad": { "hive_id": "any", "id": "only-here" } });
    let id = a.submit(&load).await;
    let lines = data_lines(&a.stream(&id).await);
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{lines:?}");
    assert!(lines[0].starts_with("🧭 hive 'b' does it: 'only-here' fits on cpu"), "{lines:?}");
    assert!(lines[0].contains("'c': model 'only-here' not found"), "{lines:?}");
    assert_eq!(a.job(&id).await["hive"], "b");
    // It is loaded there now, which is best, and unloaded there.
    let lines = data_lines(&c.run(&load).await);
    assert!(lines[0].starts_with("🧭 hive 'b' does it: worker "), "{lines:?}");
    let unload = json!({ "ModelUnload": { "hive_id": "any", "id": "only-here" } });
    c.succeed(&unload).await;
    assert!(b.app.workers.list().is_empty());
    // Nobody can.
    let refused = a.post("/v1/jobs", &json!({ "ModelLoad": { "hive_id": "any", "id": "nowhere" } })).await;
    let refused: Value = refused.json().await.expect("JSON");
    assert_eq!(refused["code"], "model_not_found", "all hives say the same");
    let refused = a.post("/v1/jobs", &act("any")).await;
    assert_eq!(refused.status(), 400, "it is for a hive that is named");
    // A read for any is done here.
    let id = a.submit(&json!({ "ModelList": { "hive_id": "any" } })).await;
    assert_eq!(a.job(&id).await["hive"], "a");
    stop(hives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_means_one_job_of_the_fleet_whichever_hive_is_asked() {
    let Some(nats) = NatsServer::start().await else { return };
    let hives = three(&nats.url()).await;
    crate::support::write_model(&hives[1].models_dir(), "model");
    let load = json!({ "ModelLoad": { "hive_id": "any", "id": "model", "dry_run": true } });
    let submit = async |hive: &TestHive| {
        let request =
            hive.client.post(format!("{}/v1/jobs", hive.url)).header("idempotency-key", "once").json(&load);
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let id = submit(&hives[0]).await;
    // Another one would be as good now.
    crate::support::write_model(&hives[0].models_dir(), "model");
    for hive in &hives {
        assert_eq!(submit(hive).await, id);
    }
    stop(hives).await;
}
