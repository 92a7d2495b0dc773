//! Models of other hives at a hive's gateway: real hives, real workers, a real nats-server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rbee_hive::config::Config;
use reqwest::Response;
use serde_json::{Value, json};

use crate::fleet;
use crate::support::{
    Daemon, NatsServer, Scripted, TestHive, folder, merged, read_all, read_until, soon, until,
    write_endless_model, write_model,
};

const SENTENCE: &str = "Hello from a small model.";

/// Settings of a hive in the fleet of that server, which is never taken for gone.
fn in_fleet(config: &mut Config, name: &str, nats: &str) {
    fleet::in_fleet(config, name, nats);
    config.fleet.gone_after = Duration::from_secs(60).into();
}

async fn hive(name: &str, nats: &NatsServer) -> TestHive {
    TestHive::start_with(|config| in_fleet(config, name, &nats.url())).await
}

/// A hive with the model `m`, whose workers do what the script says, with so many slots.
async fn scripted(name: &str, nats: &NatsServer, script: &Scripted, slots: u32) -> TestHive {
    let hive = TestHive::start_with(|config| {
        in_fleet(config, name, &nats.url());
        script.serve_for(config, slots);
    })
    .await;
    write_model(&hive.models_dir(), "m");
    hive.succeed(&json!({ "ModelList": {} })).await;
    hive
}

fn chat(model: &str, text: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": text }], "temperature": 0 })
}

fn streamed(model: &str, text: &str) -> Value {
    merged(chat(model, text), json!({ "stream": true }))
}

async fn json_of(answer: Response) -> Value {
    let status = answer.status();
    let body = answer.text().await.expect("a body");
    assert!(status.is_success(), "{status}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The models that a hive lists, each with the hives that have it.
async fn listed(hive: &TestHive) -> Vec<(String, Value)> {
    let list = json_of(hive.get("/v1/models").await).await;
    let cards = list["data"].as_array().expect("cards").clone();
    cards
        .into_iter()
        .map(|card| (card["id"].as_str().expect("an id").to_owned(), card["hives"].clone()))
        .collect()
}

/// Waits until a hive lists exactly these.
async fn lists(hive: &TestHive, expected: &[(&str, &[&str])]) {
    let expected: Vec<_> = expected.iter().map(|(id, hives)| ((*id).to_owned(), json!(hives))).collect();
    until(&format!("{expected:?}"), async || (listed(hive).await == expected).then_some(())).await;
}

/// Waits until a hive has heard that a worker of another one serves the model.
async fn hears_of_a_worker(hive: &TestHive, model: &str) {
    until("a worker elsewhere", async || {
        let card: Value = hive.get(&format!("/v1/models/{model}")).await.json().await.expect("JSON");
        (card["loaded"] == true).then_some(())
    })
    .await;
}

/// The last request that a hive's gateway answered.
async fn last_request(hive: &TestHive) -> Value {
    let diagnosis = hive.succeed(&json!({ "ModelDiagnose": {} })).await;
    diagnosis["last_requests"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_model_of_the_fleet_answers_at_any_hive_in_every_dialect() {
    let Some(nats) = NatsServer::start().await else { return };
    let (a, b) = (hive("a", &nats).await, hive("b", &nats).await);
    lists(&a, &[]).await;
    write_model(&b.models_dir(), "tiny");
    b.succeed(&json!({ "ModelList": {} })).await;
    b.succeed(&json!({ "ModelSettingsSet": { "id": "tiny", "settings": { "aliases": ["small"] } } })).await;
    lists(&a, &[("small", &["b"]), ("tiny", &["b"])]).await;
    let tags = json_of(a.get("/api/tags").await).await;
    let names: Vec<_> =
        tags["models"].as_array().expect("models").iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["small", "tiny"]);

    // It is loaded there because a request wants it.
    let whole = json_of(a.post("/v1/chat/completions", &chat("tiny", "Hi")).await).await;
    assert_eq!(whole["choices"][0]["message"]["content"], SENTENCE);
    let stream = read_all(a.post("/v1/chat/completions", &streamed("small", "Hi")).await).await;
    assert!(stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    let completion = json!({ "model": "tiny", "prompt": "Hi", "temperature": 0 });
    let completion = json_of(a.post("/v1/completions", &completion).await).await;
    assert!(completion["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()), "{completion}");
    let message = merged(chat("tiny", "Hi"), json!({ "max_tokens": 100 }));
    let message = json_of(a.post("/v1/messages", &message).await).await;
    assert_eq!(message["content"][0]["text"], SENTENCE);
    let message = merged(chat("tiny:latest", "Hi"), json!({ "stream": false }));
    let message = json_of(a.post("/api/chat", &message).await).await;
    assert_eq!(message["message"]["content"], SENTENCE);
    let lines = read_all(a.post("/api/chat", &chat("tiny", "Hi")).await).await;
    assert!(lines.contains("\"done\":true") && lines.lines().count() > 2, "{lines}");
    let response = json!({ "model": "tiny", "input": "Hi" });
    let response = json_of(a.post("/v1/responses", &response).await).await;
    assert_eq!(response["output"][0]["content"][0]["text"], SENTENCE);
    let shown = json_of(a.post("/api/show", &json!({ "model": "tiny" })).await).await;
    assert_eq!(shown, json_of(b.post("/api/show", &json!({ "model": "tiny" })).await).await);

    // Both hives know of it: the one that was asked by whom, the other by which hive.
    let (here, there) = (last_request(&a).await, last_request(&b).await);
    assert_eq!((&here["hive"], &here["worker"], &there["hive"]), (&json!("b"), &Value::Null, &Value::Null));
    let caller = there["caller"].as_str().expect("a caller");
    assert_eq!(caller, format!("{} by hive a", here["caller"].as_str().expect("a caller")));
    assert_eq!((&here["outcome"], &there["outcome"]), (&json!("completed"), &json!("completed")));
    assert!(here["completion_tokens"].as_u64() > Some(0), "{here}");

    // What nobody has is not found, as on a hive that stands alone; what the other refuses is refused in its words.
    let unknown = a.post("/v1/chat/completions", &chat("nothing", "Hi")).await;
    assert_eq!(unknown.status(), 404);
    let refused = a.post("/v1/embeddings", &json!({ "model": "tiny", "input": "Hi" })).await;
    let (status, refused) = (refused.status(), refused.text().await.expect("a body"));
    let at_home = b.post("/v1/embeddings", &json!({ "model": "tiny", "input": "Hi" })).await;
    assert_eq!((status, &refused), (at_home.status(), &at_home.text().await.expect("a body")));
    assert!(status.is_client_error() && refused.contains("capability_missing"), "{status}: {refused}");

    // A hive that has stopped has nothing any more.
    b.stop().await;
    lists(&a, &[]).await;
    assert_eq!(a.post("/v1/chat/completions", &chat("tiny", "Hi")).await.status(), 404);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_a_hive_that_is_ready_without_a_look_at_the_own_disk() {
    let Some(nats) = NatsServer::start().await else { return };
    let a = TestHive::start_with(|config| {
        in_fleet(config, "a", &nats.url());
        // So that the hive does not look at its disk meanwhile, to tell the others.
        config.fleet.heartbeat = Duration::from_secs(10).into();
    })
    .await;
    let b = hive("b", &nats).await;
    write_model(&b.models_dir(), "tiny");
    b.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    hears_of_a_worker(&a, "tiny").await;
    // Another model of that name, which the hive does not know of before it looks.
    write_endless_model(&a.models_dir(), "tiny");
    let ask = merged(chat("tiny", "Hi"), json!({ "max_tokens": 100 }));
    let answer = json_of(a.post("/v1/chat/completions", &ask).await).await;
    assert_eq!(answer["choices"][0]["message"]["content"], SENTENCE);
    assert_eq!(last_request(&a).await["hive"], "b");
    // Its own model counts more as soon as it is known.
    a.succeed(&json!({ "ModelList": {} })).await;
    let ask = merged(chat("tiny", "Hi"), json!({ "max_tokens": 3 }));
    json_of(a.post("/v1/chat/completions", &ask).await).await;
    assert_eq!(last_request(&a).await["hive"], Value::Null);

    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hive_with_the_fewest_requests_answers_and_conversations_stay_where_they_are() {
    let Some(nats) = NatsServer::start().await else { return };
    let (of_a, of_b) = (Scripted::new(), Scripted::new());
    let (a, b) = (scripted("a", &nats, &of_a, 4).await, scripted("b", &nats, &of_b, 4).await);
    lists(&a, &[("m", &["a", "b"])]).await;
    b.load("m").await;
    hears_of_a_worker(&a, "m").await;
    a.load("m").await;
    // Both are idle: the hive that was asked answers.
    soon("an answer", a.post("/v1/chat/completions", &chat("m", "first"))).await;
    assert_eq!((of_a.asked().len(), of_b.asked().len()), (1, 0));
    // One is under way here, so the next goes there, and the one after that here again.
    let (first, _) = of_a.half_an_answer(&a, "m").await;
    of_b.set("m.halfway");
    let mut second = a.post("/v1/chat/completions", &streamed("m", "second")).await;
    let mut seen = String::new();
    read_until(&mut second, &mut seen, "assistant").await;
    assert_eq!(of_b.asked(), ["second"]);
    of_a.clear("m.halfway");
    of_b.clear("m.halfway");
    drop((read_all(first).await, read_all(second).await));
    // The conversation that the other hive has begun goes on there, although this one is idle too.
    // It is known here only after a moment that nothing is under way there any more.
    let tries = AtomicUsize::new(0);
    until("the conversation to go on there", async || {
        let text = format!("third, {}", tries.fetch_add(1, Ordering::Relaxed));
        let going_on = json!({ "model": "m", "messages": [
            { "role": "user", "content": "second" }, { "role": "assistant", "content": "yes" },
            { "role": "user", "content": text },
        ] });
        soon("an answer", a.post("/v1/chat/completions", &going_on)).await;
        of_b.asked().contains(&text).then_some(())
    })
    .await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_loaded_nowhere_is_loaded_where_requests_load_it() {
    let Some(nats) = NatsServer::start().await else { return };
    let a = TestHive::start_with(|config| {
        in_fleet(config, "a", &nats.url());
        config.residency.on_demand = false;
    })
    .await;
    let b = hive("b", &nats).await;
    for hive in [&a, &b] {
        write_model(&hive.models_dir(), "tiny");
        hive.succeed(&json!({ "ModelList": {} })).await;
    }
    lists(&a, &[("tiny", &["a", "b"])]).await;
    let answer = json_of(a.post("/v1/chat/completions", &chat("tiny", "Hi")).await).await;
    assert_eq!(answer["choices"][0]["message"]["content"], SENTENCE);
    assert_eq!(last_request(&a).await["hive"], "b");
    assert_eq!(a.succeed(&json!({ "WorkerProcessList": {} })).await, json!([]));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_hives_that_are_asked_at_once_one_loads_the_model() {
    let Some(nats) = NatsServer::start().await else { return };
    let (names, scripts) = (["a", "b", "c"], [Scripted::new(), Scripted::new(), Scripted::new()]);
    let mut hives = Vec::new();
    for (name, script) in names.into_iter().zip(&scripts) {
        let hive = TestHive::start_with(|config| {
            in_fleet(config, name, &nats.url());
            script.serve_for(config, 4);
            // However busy this machine is, none is taken for silent.
            config.fleet.heartbeat = Duration::from_secs(2).into();
        });
        let hive = hive.await;
        write_model(&hive.models_dir(), "m");
        hive.succeed(&json!({ "ModelList": {} })).await;
        hives.push(hive);
    }
    for (hive, order) in hives.iter().zip([["a", "b", "c"], ["b", "a", "c"], ["c", "a", "b"]]) {
        lists(hive, &[("m", &order)]).await;
    }
    let (request, load) = (chat("m", "Hi"), json!({ "ModelLoad": { "id": "m", "hive_id": "any" } }));
    let unload = json!({ "ModelUnload": { "id": "m", "hive_id": "any" } });
    for round in 1..=10 {
        let requests = hives.iter().flat_map(|hive| {
            (0..2).map(|_| async { drop(json_of(hive.post("/v1/chat/completions", &request).await).await) })
        });
        let loads = hives.iter().map(|hive| async { drop(hive.succeed(&load).await) });
        tokio::join!(join_all(requests), join_all(loads));
        let loads =
            scripts.each_ref().map(|script| script.log().iter().filter(|line| *line == "start m").count());
        assert_eq!(loads.iter().sum::<usize>(), round, "{loads:?}");
        hives[round % 3].succeed(&unload).await;
        for hive in &hives {
            until("the end of the worker", async || {
                let card: Value = hive.get("/v1/models/m").await.json().await.expect("JSON");
                (card["loaded"] == false).then_some(())
            })
            .await;
        }
    }
    fleet::stop(hives).await;
}

/// A hive as a process, with the model `m` and an engine of the script.
async fn daemon(dir: &tempfile::TempDir, name: &str, nats: &NatsServer, script: &Scripted) -> Daemon {
    let mut scripted = Config::default();
    script.serve_for(&mut scripted, 1);
    let engines = toml::to_string(&BTreeMap::from([("engines", &scripted.engines)])).expect("TOML");
    let fleet = format!("[fleet]\nnats = \"{}\"\nheartbeat = \"500ms\"\ngone_after = \"60s\"\n", nats.url());
    let config = dir.path().join("hive.toml");
    std::fs::write(&config, format!("{fleet}{engines}")).expect("a file");
    let models = dir.path().join("models");
    std::fs::create_dir_all(&models).expect("a folder");
    write_model(&models, "m");
    let (config, models) = (config.to_str().expect("UTF-8"), models.to_str().expect("UTF-8"));
    Daemon::start(dir.path(), &["--config", config, "--hive-id", name, "--models-dir", models]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_dies_before_the_first_byte_is_replaced_by_another() {
    let Some(nats) = NatsServer::start().await else { return };
    let (of_b, of_c) = (Scripted::new(), Scripted::new());
    let a = hive("a", &nats).await;
    let dir = folder();
    let b = daemon(&dir, "b", &nats, &of_b).await;
    b.succeed(&json!({ "ModelLoad": { "id": "m" } })).await;
    hears_of_a_worker(&a, "m").await;
    let c = scripted("c", &nats, &of_c, 1).await;
    lists(&a, &[("m", &["b", "c"])]).await;
    of_b.set("m.held");
    let request = streamed("m", "once");
    let asking = a.post("/v1/chat/completions", &request);
    let killing = async {
        until("the engine of b to be asked", async || (of_b.asked() == ["once"]).then_some(())).await;
        b.kill().await;
    };
    let (answer, ()) = tokio::join!(asking, killing);
    let stream = read_all(answer).await;
    assert!(stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    assert_eq!(of_c.asked(), ["once"]);
    let request = last_request(&a).await;
    assert_eq!((&request["hive"], &request["retries"]), (&json!("c"), &json!(1)));
    a.stop().await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_that_dies_in_the_middle_of_an_answer_ends_it_with_an_error() {
    let Some(nats) = NatsServer::start().await else { return };
    let script = Scripted::new();
    let a = hive("a", &nats).await;
    let dir = folder();
    let b = daemon(&dir, "b", &nats, &script).await;
    hears_of(&a, "m").await;
    let (answer, mut seen) = script.half_an_answer(&a, "m").await;
    b.kill().await;
    seen += &read_all(answer).await;
    assert!(seen.contains("hive 'b' disconnected") && !seen.contains("[DONE]"), "{seen}");
    a.stop().await;
}

/// Waits until a hive lists the model.
async fn hears_of(hive: &TestHive, model: &str) {
    until(model, async || listed(hive).await.iter().any(|(id, _)| id == model).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_generation_on_the_other_hive() {
    let Some(nats) = NatsServer::start().await else { return };
    let (a, b) = (hive("a", &nats).await, hive("b", &nats).await);
    let bias = write_endless_model(&b.models_dir(), "endless");
    let load = json!({ "ModelLoad": { "id": "endless", "context_length": 1 << 20 } });
    let worker = b.succeed(&load).await;
    hears_of_a_worker(&a, "endless").await;
    let endless = merged(streamed("endless", "Hi"), json!({ "logit_bias": bias, "max_tokens": 1 << 20 }));
    let mut answer = a.post("/v1/chat/completions", &endless).await;
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "content").await;
    let status = async |expected: &str| {
        until(expected, async || {
            let worker = b.succeed(&json!({ "WorkerProcessGet": { "pid": worker["pid"] } })).await;
            (worker["status"] == expected).then_some(())
        })
        .await;
    };
    status("busy").await;
    drop(answer);
    status("ready").await;
    until("the record of the other hive", async || {
        (last_request(&b).await["outcome"] == "client_gone").then_some(())
    })
    .await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_other_hives_serves_while_the_servers_are_away() {
    let Some(mut nats) = NatsServer::start().await else { return };
    let (a, b) = (hive("a", &nats).await, hive("b", &nats).await);
    write_model(&b.models_dir(), "tiny");
    b.load("tiny").await;
    hears_of_a_worker(&a, "tiny").await;
    nats.kill().await;
    until("the loss of the connection", async || {
        let status = a.succeed(&json!({ "FleetStatus": {} })).await;
        (status["is_in"] == false).then_some(())
    })
    .await;
    let answer = json_of(a.post("/v1/chat/completions", &chat("tiny", "Hi")).await).await;
    assert_eq!(answer["choices"][0]["message"]["content"], SENTENCE);
    nats.start_again().await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_hives_of_the_fleet_are_let_in_at_the_address_between_hives() {
    let Some(nats) = NatsServer::start().await else { return };
    let a = hive("a", &nats).await;
    let direct = until("an address", async || {
        let status = a.succeed(&json!({ "FleetStatus": {} })).await;
        let own = status["hives"].as_array()?.iter().find(|hive| hive["hive"] == "a")?;
        assert!(!status.to_string().contains("secret"), "{status}");
        own["direct"].as_str().map(str::to_owned)
    })
    .await;
    assert!(direct.starts_with("http://127.0.0.1:"), "{direct}");
    let asked = a.client.post(format!("{direct}/ask")).body("{}");
    for stranger in [
        asked.try_clone().expect("a request"),
        asked.try_clone().expect("a request").header("rbee-hive", "a"),
        asked.try_clone().expect("a request").header("rbee-hive", "a").bearer_auth("guess"),
    ] {
        let refused = soon("a refusal", stranger.send()).await.expect("an answer");
        assert_eq!(refused.status(), 401);
        assert!(refused.text().await.expect("a body").contains("for the hives of a fleet"));
    }
    a.stop().await;
}
