//! What is counted of requests: in the answer's header, in events, in the views of workers and in the log.

use std::num::NonZeroUsize;

use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Scripted, TestHive, folder, merged, read_all, read_until, serve, soon, until, write_model,
};

fn chat(extra: Value) -> Value {
    let chat =
        json!({ "model": "tiny", "temperature": 0, "messages": [{ "role": "user", "content": "Hi" }] });
    merged(chat, extra)
}

/// The events `request` in what was read of `/v1/events`.
fn requests(events: &str) -> Vec<Value> {
    let blocks = events.split("\n\n").filter_map(|block| block.strip_prefix("event: request\ndata: "));
    blocks.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_counted_alike_in_its_answer_its_events_and_its_worker() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let worker = hive.load("tiny").await;
    assert_eq!((&worker["prompt_tokens"], &worker["time_to_first_token_ms"]), (&Value::Null, &Value::Null));
    let (mut events, mut seen) = (hive.get("/v1/events").await, String::new());
    read_until(&mut events, &mut seen, "event: snapshot").await;

    let whole = hive.post("/v1/chat/completions", &chat(json!({}))).await;
    let id = whole.headers()["x-rbee-request-id"].to_str().expect("text").to_owned();
    let whole: Value = whole.json().await.expect("JSON");
    let streamed = hive.post("/v1/chat/completions", &chat(json!({ "stream": true }))).await;
    let stream_id = streamed.headers()["x-rbee-request-id"].to_str().expect("text").to_owned();
    let text = streamed.text().await.expect("a stream");
    assert!(text.contains("[DONE]") && !text.contains("\"usage\""), "nothing is added to a stream: {text}");
    let refused = hive.post("/v1/chat/completions", &chat(json!({ "model": "none" }))).await;
    assert_eq!(refused.status(), 404);
    let refused_id = refused.headers()["x-rbee-request-id"].to_str().expect("text").to_owned();

    read_until(&mut events, &mut seen, &format!("{refused_id}\",\"state\":\"ended\"")).await;
    read_until(&mut events, &mut seen, "\n\n").await;
    let events = requests(&seen);
    let of = |id: &str| events.iter().filter(|event| event["request_id"] == *id).collect::<Vec<_>>();
    let states =
        |id: &str| of(id).iter().map(|event| event["state"].as_str().expect("text")).collect::<Vec<_>>();
    assert_eq!(states(&id), ["started", "ended"]);
    assert_eq!(states(&stream_id), ["started", "answering", "ended"]);
    let (first, second, last) = (of(&id)[1], of(&stream_id)[2], of(&refused_id)[0]);
    let usage = &whole["usage"];
    for name in ["prompt_tokens", "completion_tokens"] {
        assert_eq!((&first[name], &second[name]), (&usage[name], &usage[name]), "{first}\n{second}");
    }
    assert_eq!(first["cached_tokens"], usage["prompt_tokens_details"]["cached_tokens"]);
    assert!(second["cached_tokens"].as_u64() > Some(0), "it is the same prompt again: {second}");
    for ended in [first, second] {
        assert_eq!((&ended["outcome"], &ended["code"]), (&json!("completed"), &Value::Null), "{ended}");
        assert_eq!((&ended["model"], &ended["worker"]), (&json!("tiny"), &worker["pid"]), "{ended}");
        assert_eq!(
            (&ended["tokens_are_estimated"], &ended["retries"]),
            (&json!(false), &json!(0)),
            "{ended}"
        );
        let ms = |name: &str| ended[name].as_f64().unwrap_or_else(|| panic!("no {name}: {ended}"));
        assert!(ms("prompt_ms") <= ms("time_to_first_token_ms"), "{ended}");
        assert!(ms("time_to_first_token_ms") <= ms("total_ms"), "{ended}");
    }
    assert_eq!((&last["outcome"], &last["code"]), (&json!("refused"), &json!("model_not_found")), "{last}");
    assert_eq!((&last["model"], &last["worker"]), (&Value::Null, &Value::Null), "{last}");

    let worker = hive.succeed(&json!({ "WorkerProcessGet": { "pid": worker["pid"] } })).await;
    assert_eq!(worker["prompt_tokens"].as_f64(), usage["prompt_tokens"].as_f64(), "{worker}");
    assert!(worker["cached_tokens"].as_f64() > Some(0.0), "{worker}");
    assert!(worker["time_to_first_token_ms"].as_f64() > Some(0.0), "{worker}");
    hive.stop().await;
}

/// The kinds of the findings of a diagnosis.
fn kinds(diagnosis: &Value) -> Vec<&str> {
    let findings = diagnosis["findings"].as_array().expect("findings");
    findings.iter().map(|finding| finding["kind"].as_str().expect("a kind")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diagnosis_tells_where_the_time_went_and_what_to_do() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let diagnose = |fields: Value| json!({ "ModelDiagnose": fields });
    let nothing = hive.succeed(&diagnose(json!({ "id": "tiny" }))).await;
    // On a busy machine there may be more.
    let found = kinds(&nothing);
    assert!(found.contains(&"no_requests") && found.contains(&"not_loaded"), "{nothing}");
    assert_eq!(nothing["times"], Value::Null);

    let worker = hive.succeed(&json!({ "ModelLoad": { "id": "tiny", "context_length": 64 } })).await;
    let long =
        json!({ "stream": true, "messages": [{ "role": "user", "content": "hello world ".repeat(8) }] });
    let answer = hive.post("/v1/chat/completions", &chat(long)).await;
    let id = answer.headers()["x-rbee-request-id"].to_str().expect("text").to_owned();
    assert!(answer.text().await.expect("a stream").contains("[DONE]"));
    let refused = hive.post("/v1/chat/completions", &chat(json!({ "grammar": "root ::= x" }))).await;
    assert_eq!(refused.status(), 400);

    let job = hive.submit(&diagnose(json!({ "id": "tiny" }))).await;
    let stream = hive.stream(&job).await;
    let diagnosis = hive.succeed(&diagnose(json!({ "id": "tiny" }))).await;
    let kinds_of = kinds(&diagnosis);
    assert!(kinds_of.contains(&"processor") && kinds_of.contains(&"failures"), "{diagnosis}");
    assert!(!kinds_of.contains(&"not_loaded"), "{diagnosis}");
    let processor = format!("Worker {} computes on the processor", worker["pid"]);
    assert!(stream.contains(&processor) && stream.contains("What to do: "), "{stream}");
    assert_eq!((&diagnosis["requests"], &diagnosis["model"]), (&json!(2), &json!("tiny")));

    let of_one = hive.succeed(&diagnose(json!({ "request_id": id }))).await;
    let (times, record) = (&of_one["times"], &of_one["last_requests"][0]);
    let ms = |name: &str| times[name].as_f64().unwrap_or_else(|| panic!("no {name}: {times}"));
    let parts = ["queue_ms", "load_ms", "prompt_ms", "generation_ms", "other_ms"].map(ms).iter().sum::<f64>();
    assert!((parts - ms("total_ms")).abs() < 1.0, "the parts add up: {times}");
    assert_eq!((&of_one["requests"], &record["request_id"]), (&json!(1), &json!(id)));
    assert_eq!(record["completion_tokens"].as_f64(), times["completion_tokens"].as_f64());

    let all = hive.succeed(&diagnose(json!({}))).await;
    let total = &all["totals"]["models"][0];
    assert_eq!(
        (&total["name"], &total["requests"], &total["completed"]),
        (&json!("tiny"), &json!(2), &json!(1))
    );
    assert_eq!(all["totals"]["workers"][0]["name"], worker["pid"].to_string());
    let missing = hive.fail(&diagnose(json!({ "request_id": "req-nothing" }))).await;
    assert_eq!(missing["code"], "request_not_found");
    hive.stop().await;
}

/// Sends a request for a stream that is told what it waits for, with these messages.
async fn narrated(hive: &TestHive, messages: Value) -> Response {
    let request = chat(json!({ "stream": true, "messages": messages }));
    let post = hive.client.post(format!("{}/v1/chat/completions", hive.url)).header("x-rbee-narrate", "1");
    soon("an answer", post.json(&request).send()).await.expect("an answer")
}

fn id_of(answer: &Response) -> String {
    answer.headers()["x-rbee-request-id"].to_str().expect("text").to_owned()
}

async fn diagnosis_of(hive: &TestHive, request_id: &str) -> Value {
    hive.succeed(&json!({ "ModelDiagnose": { "request_id": request_id } })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_shows_as_load_and_a_busy_worker_as_queue() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| {
        script.serve_for(config, 1);
        config.residency.queue = NonZeroUsize::MIN;
    })
    .await;
    write_model(&hive.models_dir(), "tiny");
    script.set("tiny.loading");
    script.set("tiny.timings");
    let first = json!([{ "role": "user", "content": "one" }]);
    let cold = narrated(&hive, first).await;
    let id = id_of(&cold);
    until("the load", async || {
        let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
        (workers[0]["status"] == "loading").then_some(())
    })
    .await;
    script.clear("tiny.loading");
    assert!(read_all(cold).await.ends_with("data: [DONE]\n\n"));
    let diagnosis = diagnosis_of(&hive, &id).await;
    let record = &diagnosis["last_requests"][0];
    assert_eq!((&record["outcome"], &record["retries"]), (&json!("completed"), &json!(0)), "{diagnosis}");
    assert_eq!(
        [&record["prompt_tokens"], &record["cached_tokens"], &record["completion_tokens"]],
        [&json!(100), &json!(8), &json!(20)],
        "{record}"
    );
    assert_eq!(
        (&record["prompt_ms"], &record["tokens_per_second"]),
        (&json!(2.5), &json!(5000.0)),
        "{record}"
    );
    let job = hive.job(record["job_id"].as_str().expect("a load")).await;
    assert_eq!(job["operation"], "model_load", "{job}");
    assert!(kinds(&diagnosis).contains(&"load"), "{diagnosis}");
    assert!(diagnosis["times"]["load_ms"].as_f64() > Some(0.0), "{diagnosis}");

    // One is answered, one waits, and there is no room for a third.
    script.set("tiny.held");
    let more = json!([{ "role": "user", "content": "one" }, { "role": "assistant", "content": "7" },
                      { "role": "user", "content": "two" }]);
    let held = narrated(&hive, more).await;
    let held_id = id_of(&held);
    until("the engine to be asked", async || (script.asked().len() == 2).then_some(())).await;
    let mut waiting = narrated(&hive, json!([{ "role": "user", "content": "three" }])).await;
    read_until(&mut waiting, &mut String::new(), ": waiting").await;
    let full = hive.post("/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(full.status(), 429);
    let refused = diagnosis_of(&hive, &id_of(&full)).await;
    assert_eq!(refused["last_requests"][0]["code"], "queue_full", "{refused}");
    let waits = diagnosis_of(&hive, &id_of(&waiting)).await;
    let record = &waits["last_requests"][0];
    assert_eq!((&record["state"], &record["worker"]), (&json!("started"), &Value::Null), "{waits}");
    assert!(kinds(&waits)[0] == "queue" && waits["findings"][0]["share"].as_f64() > Some(0.5), "{waits}");
    let waiting_id = id_of(&waiting);
    drop(waiting);
    until("the end of a client that has gone", async || {
        let gone = diagnosis_of(&hive, &waiting_id).await;
        (gone["last_requests"][0]["outcome"] == "client_gone").then_some(())
    })
    .await;
    script.clear("tiny.held");
    assert!(read_all(held).await.ends_with("data: [DONE]\n\n"));
    let continued = diagnosis_of(&hive, &held_id).await;
    assert_eq!(continued["last_requests"][0]["continues"], true, "{continued}");
    assert!(kinds(&continued).contains(&"cache_missed"), "{continued}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_one_line_for_each_request() {
    let dir = folder();
    let log = dir.path().join("log");
    let mut command = serve(dir.path(), &[]);
    command.env("RBEE_HIVE_LOG_FORMAT", "json").stderr(std::fs::File::create(&log).expect("a file"));
    let hive = Daemon::run(command).await;
    write_model(&dir.path().join("models"), "tiny");
    hive.succeed(&json!({ "ModelLoad": { "id": "tiny" } })).await;
    let answer = hive.try_post("/v1/chat/completions", &chat(json!({}))).await.expect("an answer");
    let id = id_of(&answer);
    let answer: Value = answer.json().await.expect("JSON");
    hive.stop().await;
    let log = std::fs::read_to_string(&log).expect("the log");
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.contains("/v1/chat/completions"))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [line] = &lines[..] else { panic!("one line for one request: {log}") };
    let fields = &line["fields"];
    assert_eq!((&line["level"], &fields["request_id"]), (&json!("INFO"), &json!(id)));
    assert_eq!((&fields["model"], &fields["outcome"]), (&json!("tiny"), &json!("completed")), "{line}");
    assert_eq!(fields["completion_tokens"], answer["usage"]["completion_tokens"], "{line}");
    assert_eq!((&line["target"], &fields["status"]), (&json!("access"), &json!(200)), "{line}");
    assert_eq!((&fields["method"], &fields["cut_off"]), (&json!("POST"), &Value::Null), "{line}");
    for name in
        ["caller", "duration_ms", "bytes", "worker", "queue_ms", "load_ms", "prompt_tokens", "cached_tokens"]
    {
        assert!(!fields[name].is_null(), "no {name}: {line}");
    }
}
