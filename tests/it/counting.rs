//! What is counted of requests: in the answer's header, in events, in the views of workers and in the log.

use serde_json::{Value, json};

use crate::support::{TestHive, merged, read_until, write_model};

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
