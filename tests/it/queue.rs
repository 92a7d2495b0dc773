//! Requests that wait for a worker: who is served when, who is told what, and what is left of those who go.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::{Client, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{
    PATIENCE, Scripted, TestHive, merged, problem, read_all, read_until, soon, until, write_model,
};

/// The model of the tests, unless they name another.
const MODEL: &str = "m";

fn chat(text: &str) -> Value {
    json!({ "model": MODEL, "messages": [{ "role": "user", "content": text }] })
}

fn streamed(text: &str) -> Value {
    merged(chat(text), json!({ "stream": true }))
}

/// A hive whose workers do what the script says, with one slot each, and with one model.
async fn hive(script: &Scripted, change: impl FnOnce(&mut rbee_hive::config::Config)) -> TestHive {
    let hive = TestHive::start_with(|config| {
        script.serve_for(config, 1);
        change(config);
    })
    .await;
    write_model(&hive.models_dir(), MODEL);
    hive
}

/// Sends a request that is told what it waits for.
async fn narrated(client: &Client, hive: &TestHive, request: &Value) -> Response {
    let post = client.post(format!("{}/v1/chat/completions", hive.url)).header("x-rbee-narrate", "1");
    soon("an answer", post.json(request).send()).await.expect("an answer")
}

/// A client that connects from this address of the machine.
fn client_from(address: Ipv4Addr) -> Client {
    let client = Client::builder().pool_max_idle_per_host(0).no_proxy().tls_certs_only([]);
    client.local_address(std::net::IpAddr::V4(address)).build().expect("a client")
}

/// The jobs that loaded models.
async fn loads(hive: &TestHive) -> Vec<Value> {
    let jobs: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
    jobs["jobs"].as_array().expect("jobs").clone()
}

async fn workers(hive: &TestHive) -> Vec<Value> {
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    workers.as_array().expect("workers").clone()
}

/// Waits until a worker is there that has the status.
async fn worker_that_is(hive: &TestHive, status: &str) -> Value {
    until(status, async || workers(hive).await.into_iter().find(|worker| worker["status"] == status)).await
}

fn kill(worker: &Value) {
    let pid = worker["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it lives");
}

async fn asked(script: &Scripted, count: usize) {
    until("the engine to be asked", async || (script.asked().len() == count).then_some(())).await;
}

async fn last_asked(script: &Scripted, text: &str) {
    let what = format!("the turn of {text}");
    until(&what, async || (script.asked().last().map(String::as_str) == Some(text)).then_some(())).await;
}

/// Opens narrated streams one after the other, so that they wait in this order.
async fn line_up(
    client: &Client,
    hive: &TestHive,
    texts: impl IntoIterator<Item = String>,
) -> Vec<(Response, String)> {
    let mut waiting = Vec::new();
    for text in texts {
        let mut answer = narrated(client, hive, &streamed(&text)).await;
        assert_eq!(answer.status(), 200);
        let mut seen = String::new();
        read_until(&mut answer, &mut seen, ": waiting: ").await;
        waiting.push((answer, seen));
    }
    waiting
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_wait_for_one_load_and_are_served_in_their_order() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    script.set("m.loading");
    let texts: Vec<String> = (0..200).map(|number| format!("request {number}")).collect();
    let waiting = line_up(&hive.client, &hive, texts.clone()).await;
    script.clear("m.loading");
    let mut jobs = BTreeSet::new();
    for (answer, mut seen) in waiting {
        let in_head = answer.headers().get("x-rbee-job-id").map(|id| id.to_str().expect("text").to_owned());
        seen += &read_all(answer).await;
        assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
        let in_comment =
            seen.split("x-rbee-job-id: ").nth(1).map(|rest| rest.lines().next().unwrap_or_default());
        jobs.insert(in_head.or(in_comment.map(str::to_owned)).expect("it knows its load"));
    }
    assert_eq!(script.asked(), texts, "first come, first served");
    let loads = loads(&hive).await;
    assert_eq!(loads.len(), 1, "{loads:?}");
    assert_eq!(Vec::from_iter(jobs), [loads[0]["job_id"].as_str().expect("an id")]);
    assert_eq!(script.log().iter().filter(|line| line.starts_with("start")).count(), 1);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_take_turns() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    script.set("m.loading");
    let [one, other] = [2, 3].map(|last| client_from(Ipv4Addr::new(127, 0, 0, last)));
    let mut waiting = line_up(&one, &hive, (0..4).map(|number| format!("one {number}"))).await;
    waiting.extend(line_up(&other, &hive, (0..2).map(|number| format!("other {number}"))).await);
    script.clear("m.loading");
    for (answer, _) in waiting {
        assert!(read_all(answer).await.ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(script.asked(), ["one 0", "other 0", "one 1", "other 1", "one 2", "one 3"]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_is_told_its_place_and_what_the_load_does() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    script.set("m.loading");
    let mut waiting = line_up(&hive.client, &hive, ["first".to_owned(), "second".to_owned()]).await;
    let (mut second, mut seen) = waiting.pop().expect("two");
    read_until(&mut second, &mut seen, ": waiting: 2 of 2").await;
    read_until(&mut second, &mut seen, ": waiting: 2 of 2; loading 'm': 41 %").await;
    drop(waiting);
    read_until(&mut second, &mut seen, ": waiting: 1 of 1; loading 'm'").await;
    script.clear("m.loading");
    read_until(&mut second, &mut seen, "data: [DONE]").await;

    // Without the header a client hears from time to time that it waits.
    let quiet = TestHive::start_with(|config| {
        script.serve_for(config, 1);
        config.timers.waiting = Duration::from_millis(20).into();
    })
    .await;
    write_model(&quiet.models_dir(), MODEL);
    script.set("m.loading");
    let mut answer = quiet.post("/v1/chat/completions", &streamed("third")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"text/event-stream".parse().expect("a value"))
    );
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, ": waiting\n\n: waiting\n\n").await;
    assert!(!seen.contains("1 of 1"), "{seen}");
    script.clear("m.loading");
    read_until(&mut answer, &mut seen, "data: [DONE]").await;
    quiet.stop().await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_fails_all_who_wait_and_who_come_for_a_while() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.retry = Duration::from_secs(3600).into()).await;
    script.set("m.loading");
    let url = format!("{}/v1/chat/completions", hive.url);
    let waiting: Vec<_> = (0..50)
        .map(|number| {
            let request = if number % 2 == 0 { chat("whole") } else { streamed("streamed") };
            rbee_hive::spawn::detached(hive.client.post(&url).json(&request).send())
        })
        .collect();
    let last = line_up(&hive.client, &hive, ["last".to_owned()]).await;
    let mut told = last.into_iter().next().expect("one");
    read_until(&mut told.0, &mut told.1, " of 51").await;
    script.set("m.broken");
    script.clear("m.loading");
    let mut details = BTreeSet::new();
    for answer in waiting {
        let answer = soon("an answer", answer).await.expect("no panic").expect("an answer");
        let job = answer.headers()["x-rbee-job-id"].to_str().expect("text").to_owned();
        assert!(answer.headers().contains_key("retry-after"));
        let failed = problem(answer, 503, "worker_failed").await;
        assert_eq!(
            (&failed["error"]["code"], &failed["error"]["type"]),
            (&json!("worker_failed"), &json!("server_error"))
        );
        details.insert((job, failed["detail"].to_string()));
    }
    assert_eq!(details.len(), 1, "one load, and one failure: {details:?}");
    told.1 += &read_all(told.0).await;
    assert!(told.1.contains(r#""code":"worker_failed""#) && !told.1.contains("[DONE]"), "{}", told.1);

    let again = hive.post("/v1/chat/completions", &chat("too soon")).await;
    let seconds: u64 = again.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=3600).contains(&seconds), "{seconds}");
    problem(again, 503, "worker_failed").await;
    assert_eq!(loads(&hive).await.len(), 1, "it is not loaded again for that");

    // Who asks for a load gets one, and its success counts.
    script.clear("m.broken");
    hive.load(MODEL).await;
    assert_eq!(hive.post("/v1/chat/completions", &chat("now")).await.status(), 200);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_is_tried_again_later() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.retry = Duration::from_millis(50).into()).await;
    script.set("m.broken");
    problem(hive.post("/v1/chat/completions", &chat("first")).await, 503, "worker_failed").await;
    script.clear("m.broken");
    until("another load", async || {
        (hive.post("/v1/chat/completions", &chat("again")).await.status() == 200).then_some(())
    })
    .await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_fair_too() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.queue = 2.try_into().expect("not 0")).await;
    script.set("m.loading");
    let [one, other] = [2, 3].map(|last| client_from(Ipv4Addr::new(127, 0, 0, last)));
    let mut waiting = line_up(&one, &hive, ["first".to_owned(), "second".to_owned()]).await;
    let refused = narrated(&one, &hive, &chat("third")).await;
    assert!(refused.headers().contains_key("retry-after"));
    let refused = problem(refused, 429, "queue_full").await;
    assert_eq!(refused["error"]["type"], "rate_limit_error");
    let others = line_up(&other, &hive, ["other".to_owned()]).await;
    let (displaced, seen) = waiting.pop().expect("two");
    let end = seen + &read_all(displaced).await;
    assert!(end.contains(r#""code":"queue_full""#) && !end.contains("[DONE]"), "{end}");
    script.clear("m.loading");
    for (answer, _) in waiting.into_iter().chain(others) {
        assert!(read_all(answer).await.ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(script.asked(), ["first", "other"]);
    hive.stop().await;
}

/// Sends a request through a socket of its own, which goes when it is dropped.
async fn raw(hive: &TestHive, request: &Value) -> TcpStream {
    let mut socket = TcpStream::connect(hive.address()).await.expect("a connection");
    let body = request.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("a request");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_go_at_any_time_and_leaves_nothing_behind() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    script.set("m.loading");
    script.set("m.held");
    // While the model loads.
    let mut told = line_up(&hive.client, &hive, ["stays".to_owned()]).await.pop().expect("one");
    for request in [chat("goes"), streamed("goes")] {
        let gone = raw(&hive, &request).await;
        read_until(&mut told.0, &mut told.1, ": waiting: 1 of 2").await;
        drop(gone);
        told.1.clear();
        read_until(&mut told.0, &mut told.1, ": waiting: 1 of 1").await;
        told.1.clear();
    }
    script.clear("m.loading");
    asked(&script, 1).await;
    // While it waits for another's answer.
    let mut behind = line_up(&hive.client, &hive, ["behind".to_owned()]).await.pop().expect("one");
    for request in [chat("goes"), streamed("goes")] {
        let gone = raw(&hive, &request).await;
        read_until(&mut behind.0, &mut behind.1, ": waiting: 1 of 2").await;
        drop(gone);
        behind.1.clear();
        read_until(&mut behind.0, &mut behind.1, ": waiting: 1 of 1").await;
        behind.1.clear();
    }
    // While it is answered: the next one gets the slot.
    drop(told);
    until("the engine to notice", async || script.log().contains(&"left stays".to_owned()).then_some(()))
        .await;
    asked(&script, 2).await;
    for request in [chat("goes too"), streamed("goes too")] {
        let gone = raw(&hive, &request).await;
        drop(behind);
        last_asked(&script, "goes too").await;
        behind = line_up(&hive.client, &hive, ["behind".to_owned()]).await.pop().expect("one");
        drop(gone);
        last_asked(&script, "behind").await;
    }
    script.clear("m.held");
    assert!(read_all(behind.0).await.ends_with("data: [DONE]\n\n"));
    assert!(!script.asked().contains(&"goes".to_owned()), "{:?}", script.log());
    worker_that_is(&hive, "ready").await;
    assert_eq!(hive.post("/v1/chat/completions", &chat("last")).await.status(), 200);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_before_the_first_byte_costs_its_client_only_time() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    for request in [chat("again"), streamed("again")] {
        script.set("m.held");
        let asked_before = script.asked().len();
        let url = format!("{}/v1/chat/completions", hive.url);
        let answer = rbee_hive::spawn::detached(hive.client.post(url).json(&request).send());
        asked(&script, asked_before + 1).await;
        let first = worker_that_is(&hive, "busy").await;
        kill(&first);
        asked(&script, asked_before + 2).await;
        script.clear("m.held");
        let answer = soon("an answer", answer).await.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("x-rbee-job-id"), "it has waited for a load");
        let text = answer.text().await.expect("a body");
        let second = worker_that_is(&hive, "ready").await;
        assert!(text.contains(&format!(r#""content":"{}""#, second["pid"])), "{text}");
        assert_ne!(first["pid"], second["pid"]);
    }

    // Where another worker is ready, it does not even wait for a load.
    let loads_before = loads(&hive).await.len();
    let other = hive.succeed(&json!({ "WorkerSpawn": { "model": MODEL, "worker": "scripted" } })).await;
    script.set("m.held");
    let asked_before = script.asked().len();
    let url = format!("{}/v1/chat/completions", hive.url);
    let answer = rbee_hive::spawn::detached(hive.client.post(url).json(&chat("elsewhere")).send());
    asked(&script, asked_before + 1).await;
    let lost = worker_that_is(&hive, "busy").await;
    kill(&lost);
    asked(&script, asked_before + 2).await;
    script.clear("m.held");
    let answer = soon("an answer", answer).await.expect("no panic").expect("an answer");
    assert!(!answer.headers().contains_key("x-rbee-job-id"));
    assert_eq!((answer.status().as_u16(), loads(&hive).await.len()), (200, loads_before));
    assert!(
        other["pid"].is_u64()
            && answer.text().await.is_ok_and(|text| !text.contains(&lost["pid"].to_string()))
    );

    // A request that costs two workers costs no third.
    script.set("m.held");
    let asked_before = script.asked().len();
    let loads_before = loads(&hive).await.len();
    let url = format!("{}/v1/chat/completions", hive.url);
    let answer = rbee_hive::spawn::detached(hive.client.post(url).json(&chat("deadly")).send());
    for turn in 1..=2 {
        asked(&script, asked_before + turn).await;
        kill(&worker_that_is(&hive, "busy").await);
    }
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer").expect("no panic");
    problem(answer.expect("an answer"), 502, "worker_unreachable").await;
    assert_eq!(loads(&hive).await.len(), loads_before + 1);
    script.clear("m.held");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_up_and_lives_is_not_asked_again_where_there_is_another() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    hive.load(MODEL).await;
    hive.succeed(&json!({ "WorkerSpawn": { "model": MODEL, "worker": "scripted" } })).await;
    let content = async |request: &Value| {
        let answer: Value =
            hive.post("/v1/chat/completions", request).await.json().await.expect("an answer in JSON");
        answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    // It knows the conversation, so it is asked first.
    let first = content(&chat("one")).await;
    assert_eq!(content(&chat("one")).await, first);
    script.set("m.hangs-up");
    assert_ne!(content(&chat("one")).await, first);
    assert_eq!(script.asked(), ["one"; 4]);
    assert_eq!(workers(&hive).await.len(), 2, "both live");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_first_byte_ends_the_stream_with_an_error() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    script.set("m.halfway");
    let mut answer = hive.post("/v1/chat/completions", &streamed("once")).await;
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "data: {\"choices\"").await;
    kill(&worker_that_is(&hive, "busy").await);
    seen += &read_all(answer).await;
    assert!(seen.contains(r#""code":"worker_unreachable""#) && !seen.contains("[DONE]"), "{seen}");
    assert_eq!(script.asked(), ["once"]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_load_no_model_where_the_settings_say_so() {
    let script = Scripted::new();
    let hive = hive(&script, |config| config.residency.on_demand = false).await;
    let refused =
        problem(hive.post("/v1/chat/completions", &chat("no")).await, 404, "model_not_loaded").await;
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("ModelLoad")), "{refused}");
    assert!(loads(&hive).await.is_empty());
    // But they wait for a load that somebody asked for.
    script.set("m.loading");
    let job = hive.submit(&json!({ "ModelLoad": { "id": MODEL } })).await;
    until("the engine to start", async || script.log().contains(&"start m".to_owned()).then_some(())).await;
    let waiting = line_up(&hive.client, &hive, ["waits".to_owned()]).await.pop().expect("one");
    script.clear("m.loading");
    assert!(read_all(waiting.0).await.ends_with("data: [DONE]\n\n"));
    assert!(hive.stream(&job).await.ends_with("[DONE]\n\n"));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_how_long_its_worker_stays() {
    let script = Scripted::new();
    let hive = hive(&script, |_| {}).await;
    let refused =
        hive.post("/v1/chat/completions", &merged(chat("no"), json!({ "keep_alive": "soon" }))).await;
    assert_eq!(problem(refused, 400, "invalid_field").await["error"]["param"], "keep_alive");
    let at_once = merged(chat("once"), json!({ "keep_alive": 0 }));
    assert_eq!(hive.post("/v1/chat/completions", &at_once).await.status(), 200);
    until("the worker to go", async || workers(&hive).await.is_empty().then_some(())).await;
    hive.stop().await;
}
