//! The gateway over real workers: OpenAI's API as its client libraries use it.

use reqwest::Response;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{TestHive, check_of, problem, soon, until, write_endless_model, write_model};

const SENTENCE: &str = "Hello from a small model.";

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }], "temperature": 0 })
}

fn with(mut request: Value, field: &str, value: impl Into<Value>) -> Value {
    request[field] = value.into();
    request
}

async fn complete(hive: &TestHive, request: &Value) -> Response {
    hive.post("/v1/chat/completions", request).await
}

/// The `data:` of each event of a stream of chunks.
fn chunks(stream: &str) -> Vec<&str> {
    stream.split("\n\n").filter_map(|event| event.trim_start().strip_prefix("data: ")).collect()
}

/// Loads a model that generates without end, and gives the request for it and its worker.
async fn load_endless_model(hive: &TestHive) -> (Value, Value) {
    let bias = write_endless_model(&hive.models_dir(), "endless");
    let request = with(with(chat("endless"), "logit_bias", bias), "max_tokens", 1 << 20);
    let load = json!({ "ModelLoad": { "id": "endless", "context_length": 1 << 20 } });
    (request, hive.succeed(&load).await)
}

async fn worker(hive: &TestHive, pid: &Value) -> Value {
    hive.succeed(&json!({ "WorkerProcessGet": { "pid": pid } })).await
}

/// The answer of the worker's own health check, which needs no secret.
async fn health(hive: &TestHive, worker: &Value) -> Value {
    let url = format!("{}/health", worker["url"].as_str().expect("a URL"));
    soon("its health", hive.client.get(url).send()).await.expect("an answer").json().await.expect("JSON")
}

/// Reads until the first text arrives. Before it comes a chunk with the role and no text.
async fn read_first_text(answer: &mut Response, seen: &mut String) {
    let has_text = |event: &&str| {
        serde_json::from_str::<Value>(event).is_ok_and(|chunk| {
            chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty())
        })
    };
    while !chunks(seen).iter().any(has_text) {
        let chunk = soon("text", answer.chunk()).await.expect("a chunk").expect("the stream goes on");
        *seen += &String::from_utf8_lossy(&chunk);
    }
}

fn kill(worker: &Value) {
    signal(worker, Signal::KILL);
}

fn signal(worker: &Value, signal: Signal) {
    let pid = worker["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    kill_process(pid, signal).expect("it lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_in_openais_form() {
    let dir = tempfile::tempdir().expect("a folder");
    let hub = dir.path().join("hub");
    let snapshot = hub.join("models--acme--tiny-GGUF/snapshots/0123abc");
    std::fs::create_dir_all(&snapshot).expect("a folder");
    write_model(&snapshot, "tiny-Q8_0");
    let hive = TestHive::start_with(|config| {
        config.hub_cache = Some(hub);
        // A folder that does not exist is left out of the listing.
        config.models_dirs.push(dir.path().join("not-there"));
    })
    .await;
    write_model(&hive.models_dir(), "plain");
    hive.load("acme/tiny-GGUF:Q8_0").await;

    let list: Value = hive.get("/v1/models").await.json().await.expect("JSON");
    assert_eq!(list["object"], "list");
    let cards = list["data"].as_array().expect("cards");
    let ids: Vec<_> = cards.iter().map(|card| card["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, ["acme/tiny-GGUF:Q8_0", "plain"]);
    assert_eq!((&cards[0]["loaded"], &cards[1]["loaded"]), (&json!(true), &json!(false)));
    for card in cards {
        assert_eq!((&card["object"], &card["owned_by"]), (&json!("model"), &json!("rbee-hive")));
        assert!(card["created"].as_i64() > Some(1_600_000_000) && card["size_bytes"].as_u64() > Some(0));
        let id = card["id"].as_str().expect("an id");
        // Client libraries send the slash and the colon as they are, or encoded.
        for spelled in [id.to_owned(), id.replace('/', "%2F"), id.replace(':', "%3A")] {
            let one: Value = hive.get(&format!("/v1/models/{spelled}")).await.json().await.expect("JSON");
            assert_eq!(&one, card, "{spelled}");
        }
    }
    let by_name: Value = hive.get("/v1/models/tiny-Q8_0").await.json().await.expect("JSON");
    assert_eq!(by_name["id"], ids[0]);
    let missing = problem(hive.get("/v1/models/acme/tiny-GGUF:Q4_0").await, 404, "model_not_found").await;
    assert!(missing["detail"].as_str().is_some_and(|text| text.contains(ids[0])), "{missing}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_the_text_of_the_whole_answer() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    hive.load("tiny").await;
    let answer = complete(&hive, &chat("tiny")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    let whole: Value = answer.json().await.expect("JSON");
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("tiny")));
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["message"]["role"], &choice["message"]["content"]),
        (&json!("assistant"), &json!(SENTENCE))
    );
    assert_eq!(choice["finish_reason"], "stop");
    assert!(whole["usage"]["completion_tokens"].as_u64() > Some(1), "{whole}");

    let options = json!({ "include_usage": true });
    let request = with(with(chat("tiny"), "stream", true), "stream_options", options);
    let answer = complete(&hive, &request).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-cache");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let stream = answer.text().await.expect("a whole stream");
    let mut events = chunks(&stream);
    assert_eq!(events.pop(), Some("[DONE]"), "{stream}");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    assert!(
        events
            .iter()
            .all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"])
    );
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, SENTENCE);
    assert!(events.len() > 4, "it has several chunks: {stream}");
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(events[events.len() - 1]["usage"][count], whole["usage"][count], "{stream}");
    }
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "stop");

    let short: Value =
        complete(&hive, &with(chat("tiny"), "max_tokens", 1)).await.json().await.expect("JSON");
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refusal_of_an_unloaded_model_says_how_to_load_it() {
    let hive = TestHive::start_with(|config| config.residency.on_demand = false).await;
    write_model(&hive.models_dir(), "granite-small");
    write_model(&hive.models_dir(), "llama-tiny");
    let unknown = problem(complete(&hive, &chat("llama-tny")).await, 404, "model_not_found").await;
    assert!(unknown["detail"].as_str().is_some_and(|text| text.contains("llama-tiny")), "{unknown}");
    assert_eq!(unknown["error"]["code"], "model_not_found");
    assert_eq!(unknown["error"]["type"], "invalid_request_error");
    let asleep = problem(complete(&hive, &chat("llama-tiny")).await, 404, "model_not_loaded").await;
    let hint = asleep["hint"].as_str().expect("a hint");
    assert!(hint.contains(r#"POST /v1/jobs {"ModelLoad":{"id":"llama-tiny"}}"#), "{hint}");
    // The operation in the hint works unchanged.
    let start = hint.find('{').expect("an operation");
    let operation = &hint[start..=hint.rfind('}').expect("its end")];
    hive.succeed(&serde_json::from_str(operation).expect("JSON")).await;
    assert_eq!(complete(&hive, &chat("llama-tiny")).await.status(), 200);
    let other = problem(complete(&hive, &chat("granite-small")).await, 404, "model_not_loaded").await;
    assert!(other["hint"].as_str().is_some_and(|text| text.contains("loaded are: llama-tiny")), "{other}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_name_their_field_in_openais_form() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    hive.load("tiny").await;
    let base = chat("tiny");
    for (field, value) in [
        ("max_tokens", json!(-2)),
        ("max_tokens", json!(1.5)),
        ("max_tokens", json!("10")),
        ("max_tokens", json!(1e30)),
        ("max_completion_tokens", json!(-5)),
        ("n_discard", json!(-1)),
        ("n", json!(0)),
        ("n", json!(100_000)),
        ("top_k", json!(-2)),
        ("temperature", json!(-0.1)),
        ("top_p", json!(1.1)),
        ("frequency_penalty", json!(3)),
        ("seed", json!(0.5)),
        // Checked by the engine.
        ("messages", json!([])),
        ("messages", json!("Hi")),
        ("messages", Value::Null),
        ("stop", json!(7)),
        ("stream", json!("yes")),
        ("logit_bias", json!([1])),
        ("tools", json!([{ "type": "function" }])),
    ] {
        let answer = complete(&hive, &with(base.clone(), field, value.clone())).await;
        let status = answer.status();
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!(status, 400, "{field}={value}: {body}");
        let error = &body["error"];
        assert_eq!(error["code"], "invalid_field", "{body}");
        assert!(error["param"].as_str().is_some_and(|param| param.starts_with(field)), "{body}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(field)), "{body}");
    }
    let post = async |body: &str| {
        let request = hive.client.post(format!("{}/v1/chat/completions", hive.url));
        let request = request.header("content-type", "application/json").body(body.to_owned());
        soon("an answer", request.send()).await.expect("an answer")
    };
    for (body, code) in [
        ("{", "invalid_json"),
        ("[]", "invalid_field"),
        ("{}", "invalid_field"),
        (r#"{"model":7}"#, "invalid_field"),
        (r#"{"model":""}"#, "invalid_field"),
        (r#"{"model":"tiny","model":"other","messages":[]}"#, "invalid_field"),
    ] {
        let refused = problem(post(body).await, 400, code).await;
        assert_eq!(refused["error"]["code"], code, "{refused}");
    }
    let huge = format!(r#"{{"model":"{}"}}"#, "x".repeat(65 << 20));
    problem(post(&huge).await, 413, "body_too_large").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_as_it_is_generated_and_ends_when_the_client_disconnects() {
    let hive = TestHive::start().await;
    let (request, loaded) = load_endless_model(&hive).await;
    assert_eq!(health(&hive, &loaded).await["busy_slots"], 0);
    for streaming in [true, false] {
        let request = with(request.clone(), "stream", streaming);
        if streaming {
            let mut answer = complete(&hive, &request).await;
            assert_eq!(answer.status(), 200);
            let mut seen = String::new();
            // Text arrives while the worker still generates.
            read_first_text(&mut answer, &mut seen).await;
            assert!(!seen.contains("[DONE]"));
            assert_eq!(health(&hive, &loaded).await["busy_slots"], 1);
            assert_eq!(worker(&hive, &loaded["pid"]).await["status"], "busy");
            drop(answer);
        } else {
            let url = format!("{}/v1/chat/completions", hive.url);
            let asking = hive.client.post(url).json(&request).send();
            let busy = until("the worker to be busy", async || {
                (health(&hive, &loaded).await["busy_slots"] == 1).then_some(())
            });
            tokio::select! {
                answer = asking => panic!("the generation has no end: {answer:?}"),
                () = busy => {}
            }
        }
        until("the worker to be idle", async || {
            (health(&hive, &loaded).await["busy_slots"] == 0).then_some(())
        })
        .await;
        until("the hive to know", async || {
            (worker(&hive, &loaded["pid"]).await["status"] == "ready").then_some(())
        })
        .await;
    }
    let after = worker(&hive, &loaded["pid"]).await;
    assert_eq!((&after["requests"], &after["pid"]), (&json!(2), &loaded["pid"]));
    assert!(after["tokens_generated"].as_u64() < Some(1 << 20), "it ended early: {after}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_ends_its_answers_with_an_error() {
    let hive = TestHive::start_with(|config| config.residency.on_demand = false).await;
    let (request, loaded) = load_endless_model(&hive).await;
    let mut answer = complete(&hive, &with(request.clone(), "stream", true)).await;
    let mut seen = String::new();
    read_first_text(&mut answer, &mut seen).await;
    kill(&loaded);
    seen += &soon("the stream's end", answer.text()).await.expect("a clean end");
    let last: Value = serde_json::from_str(chunks(&seen).last().expect("an event")).expect("JSON");
    assert_eq!(last["error"]["code"], "worker_unreachable", "{seen}");
    assert!(!seen.contains("[DONE]"), "clients do not take it for complete");

    // Without a stream nothing was sent yet, so the status reports it.
    until("the crash to be known", async || {
        (worker(&hive, &loaded["pid"]).await["status"] == "crashed").then_some(())
    })
    .await;
    problem(complete(&hive, &request).await, 404, "model_not_loaded").await;
    let again = hive.load("endless").await;
    let asking = complete(&hive, &request);
    let killing = async {
        until("the worker to be busy", async || {
            (health(&hive, &again).await["busy_slots"] == 1).then_some(())
        })
        .await;
        kill(&again);
    };
    let (answer, ()) = tokio::join!(asking, killing);
    let broken = problem(answer, 502, "worker_unreachable").await;
    assert_eq!(broken["error"]["type"], "server_error");
    hive.stop().await;
}

async fn until_status(hive: &TestHive, loaded: &Value, status: &str) {
    until(status, async || (worker(hive, &loaded["pid"]).await["status"] == status).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_fails_its_requests_until_it_goes_on_or_is_replaced() {
    let hive = TestHive::start_with(|config| {
        config.timers.probe = std::time::Duration::from_millis(100).into();
        config.timers.unresponsive = std::time::Duration::from_secs(1).into();
    })
    .await;
    let (request, loaded) = load_endless_model(&hive).await;
    let mut answer = complete(&hive, &with(request.clone(), "stream", true)).await;
    let mut seen = String::new();
    read_first_text(&mut answer, &mut seen).await;
    signal(&loaded, Signal::STOP);
    seen += &soon("the stream's end", answer.text()).await.expect("a clean end");
    let last: Value = serde_json::from_str(chunks(&seen).last().expect("an event")).expect("JSON");
    assert_eq!(last["error"]["code"], "worker_unresponsive", "{seen}");
    assert!(!seen.contains("[DONE]"), "clients do not take it for complete");

    // Everything that describes the worker tells.
    let refused = problem(complete(&hive, &request).await, 503, "worker_unresponsive").await;
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("ModelLoad")), "{refused}");
    assert_eq!(worker(&hive, &loaded["pid"]).await["status"], "unresponsive");
    let check = hive.succeed(&json!({ "HiveCheck": {} })).await;
    let workers = check_of(&check, "workers");
    assert_eq!((&check["ok"], &workers["ok"]), (&json!(false), &json!(false)), "{workers}");
    let mut heartbeats = hive.get("/v1/heartbeats/stream").await;
    let beat = soon("a heartbeat", heartbeats.chunk()).await.expect("a chunk").expect("the stream goes on");
    assert!(String::from_utf8_lossy(&beat).contains("1 worker(s) not responding"), "{beat:?}");

    signal(&loaded, Signal::CONT);
    until_status(&hive, &loaded, "ready").await;
    let short = with(request.clone(), "max_tokens", 2);
    assert_eq!(complete(&hive, &short).await.status(), 200);

    // A request without a stream, which the worker takes in and never answers.
    let answer = async {
        tokio::join!(complete(&hive, &request), async {
            until("the worker to be busy", async || {
                (health(&hive, &loaded).await["busy_slots"] == 1).then_some(())
            })
            .await;
            signal(&loaded, Signal::STOP);
        })
    };
    problem(answer.await.0, 503, "worker_unresponsive").await;
    let stream = hive.run(&json!({ "ModelLoad": { "id": "endless" } })).await;
    assert!(stream.contains("does not respond: it is replaced"), "{stream}");
    assert_eq!(complete(&hive, &short).await.status(), 200);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_waits_for_an_answer_no_longer_than_the_grace_period() {
    let hive = TestHive::start_with(|config| {
        config.timers.stop_grace = std::time::Duration::from_millis(200).into();
    })
    .await;
    let (request, loaded) = load_endless_model(&hive).await;
    let mut answer = complete(&hive, &with(request, "stream", true)).await;
    let mut seen = String::new();
    read_first_text(&mut answer, &mut seen).await;
    let unloaded = hive.succeed(&json!({ "ModelUnload": { "id": "endless" } })).await;
    assert_eq!(unloaded["workers"], json!([loaded["pid"]]));
    seen += &soon("the stream's end", answer.text()).await.expect("a clean end");
    assert!(!seen.contains("[DONE]") && seen.contains(r#""error""#), "it ends with an error");
    hive.stop().await;
}
