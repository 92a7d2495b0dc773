//! Anthropic's dialect over the real hive, as its client libraries and Claude Code speak it.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    Scripted, TestHive, Typed, merged, read_all, read_until, soon, typed, until, write_model,
};

/// The model of the tests.
const MODEL: &str = "m";
const SENTENCE: &str = "Hello from a small model.";
const TOKEN: &str = "a-token-of-the-test";

fn asking(text: &str) -> Value {
    json!({ "model": MODEL, "max_tokens": 64, "temperature": 0, "messages": [{ "role": "user", "content": text }] })
}

fn streamed(request: Value) -> Value {
    merged(request, json!({ "stream": true }))
}

/// A request with the headers of the client libraries.
fn request(hive: &TestHive, path: &str, body: &Value) -> RequestBuilder {
    let post = hive.client.post(format!("{}{path}", hive.url));
    post.header("anthropic-version", "2023-06-01").header("x-api-key", "any").json(body)
}

async fn send(hive: &TestHive, body: &Value) -> Response {
    soon("an answer", request(hive, "/v1/messages", body).send()).await.expect("an answer")
}

async fn message(hive: &TestHive, body: &Value) -> Value {
    let answer = send(hive, body).await;
    let status = answer.status();
    let message: Value = answer.json().await.expect("JSON");
    assert_eq!((status.as_u16(), &message["type"]), (200, &json!("message")), "{message}");
    message
}

/// The events of a stream but its pings, whose name is their type.
fn events(stream: &str) -> Vec<Typed> {
    let events = typed(stream).into_iter().filter(|event| event.event != "ping");
    events.inspect(|event| assert_eq!(event.data["type"], event.event, "{stream}")).collect()
}

fn names(events: &[Typed]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}

/// The error of an answer, which is a problem, too.
async fn error(answer: Response, status: u16, kind: &str, code: &str) -> Value {
    let (got, text) = (answer.status(), answer.text().await.expect("a body"));
    let error: Value = serde_json::from_str(&text).unwrap_or_default();
    assert_eq!(
        (got.as_u16(), &error["type"], &error["code"]),
        (status, &json!("error"), &json!(code)),
        "{text}"
    );
    assert_eq!(error["error"]["type"], kind, "{text}");
    assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
    assert!(error["detail"].is_string() && error["hint"].is_string(), "{text}");
    error
}

/// A hive whose workers do what the script says, with one model.
async fn scripted_hive(script: &Scripted) -> TestHive {
    let hive = TestHive::start_with(|config| {
        script.serve_for(config, 1);
        config.timers.waiting = Duration::from_millis(20).into();
    })
    .await;
    write_model(&hive.models_dir(), MODEL);
    hive
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_model_answers_whole_and_as_a_stream() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), MODEL);
    let answer = soon("an answer", request(&hive, "/v1/messages?beta=true", &asking("Hi")).send()).await;
    let answer = answer.expect("an answer");
    let headers = answer.headers().clone();
    assert_eq!(headers["request-id"], headers["x-rbee-request-id"]);
    let whole: Value = answer.json().await.expect("JSON");
    assert!(whole["id"].as_str().expect("an id").starts_with("msg_"), "{whole}");
    assert_eq!((&whole["role"], &whole["model"]), (&json!("assistant"), &json!(MODEL)));
    assert_eq!(whole["content"], json!([{ "type": "text", "text": SENTENCE }]));
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("end_turn"), &Value::Null));

    let answer = send(&hive, &streamed(asking("Hi"))).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let events = events(&read_all(answer).await);
    let deltas = events.iter().filter(|event| event.event == "content_block_delta");
    let text: String = deltas.map(|event| event.data["delta"]["text"].as_str().expect("a text")).collect();
    assert_eq!(text, SENTENCE);
    let mut order = names(&events);
    order.dedup();
    assert_eq!(
        order,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let delta = &events[events.len() - 2].data;
    assert_eq!(delta["delta"]["stop_reason"], "end_turn");
    assert_eq!(delta["usage"]["output_tokens"], whole["usage"]["output_tokens"]);

    let image =
        json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "iVBO" } });
    let shown = json!({ "messages": [{ "role": "user", "content": [image] }] });
    let refused = send(&hive, &merged(asking("Hi"), shown)).await;
    error(refused, 400, "invalid_request_error", "capability_missing").await;

    let short = message(&hive, &merged(asking("Hi"), json!({ "max_tokens": 2 }))).await;
    assert_eq!((&short["stop_reason"], &short["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(2)));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_as_the_engine_reads_them() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), MODEL);
    let settings = json!({ "system_prompt": "Be kind." });
    hive.succeed(&json!({ "ModelSettingsSet": { "id": MODEL, "settings": settings } })).await;
    let text = "How many tokens are in this text?";
    let usage = message(&hive, &asking(text)).await["usage"].clone();
    let read = usage["input_tokens"].as_u64().zip(usage["cache_read_input_tokens"].as_u64());
    let read = read.map(|(new, cached)| new + cached).expect("counts");
    let mut counted = asking(text);
    counted.as_object_mut().expect("an object").remove("max_tokens");
    let with_more = merged(counted.clone(), json!({ "inference_geo": "us" }));
    let answer = request(&hive, "/v1/messages/count_tokens?beta=true", &with_more).send();
    let answer = soon("a count", answer).await.expect("an answer");
    let id = answer.headers()["request-id"].clone();
    assert_eq!(id, answer.headers()["x-rbee-request-id"]);
    assert_eq!(answer.headers()["x-rbee-ignored-fields"], "inference_geo");
    assert_eq!(answer.json::<Value>().await.expect("JSON"), json!({ "input_tokens": read }));
    let diagnosis = json!({ "ModelDiagnose": { "request_id": id.to_str().expect("text") } });
    let record = &hive.succeed(&diagnosis).await["last_requests"][0];
    assert_eq!((&record["outcome"], &record["retries"]), (&json!("completed"), &json!(0)), "{record}");

    let missing =
        request(&hive, "/v1/messages/count_tokens", &merged(counted, json!({ "model": "nothing" })));
    let missing = soon("a refusal", missing.send()).await.expect("an answer");
    assert_eq!(missing.headers()["request-id"], missing.headers()["x-rbee-request-id"]);
    error(missing, 404, "not_found_error", "model_not_found").await;
    let models = hive.client.get(format!("{}/v1/models", hive.url)).header("anthropic-version", "2023-06-01");
    let models = soon("the models", models.send()).await.expect("an answer");
    assert!(models.headers()["request-id"].to_str().is_ok_and(|id| id.starts_with("req-")));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_tells_no_tokens_counts_what_it_reads() {
    let script = Scripted::new();
    let hive = scripted_hive(&script).await;
    let whole = json!({ "choices": [{ "index": 0, "message": { "content": "a" } }],
                        "usage": { "prompt_tokens": 7, "completion_tokens": 1 } });
    script.answer_with(MODEL, &whole);
    let answer = soon("a count", request(&hive, "/v1/messages/count_tokens", &asking("Hi")).send()).await;
    assert_eq!(answer.expect("an answer").json::<Value>().await.expect("JSON"), json!({ "input_tokens": 7 }));
    assert_eq!(script.last_request()["max_tokens"], 1);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_counts_as_the_engine_reads_it_and_not_as_its_mark() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_as_llama_server(config)).await;
    write_model(&hive.models_dir(), MODEL);
    // To whatever the engine is asked: the prompt, its tokens, and the answer with its usage.
    let answer = json!({ "prompt": "a", "tokens": [1, 2], "choices": [{ "index": 0, "message": { "content": "a" } }],
                         "usage": { "prompt_tokens": 7, "completion_tokens": 1 } });
    script.answer_with(MODEL, &answer);
    let image =
        json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "iVBO" } });
    let shown = json!({ "messages": [{ "role": "user", "content": [image] }] });
    for (asked, tokens) in [(asking("Hi"), 2), (merged(asking("Hi"), shown), 7)] {
        let answer = soon("a count", request(&hive, "/v1/messages/count_tokens", &asked).send()).await;
        let counted: Value = answer.expect("an answer").json().await.expect("JSON");
        assert_eq!(counted, json!({ "input_tokens": tokens }));
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_and_thinking_make_the_round() {
    let script = Scripted::new();
    let hive = scripted_hive(&script).await;
    let delta = |delta: Value| json!({ "choices": [{ "index": 0, "delta": delta }] });
    let part = |call: Value| delta(json!({ "tool_calls": [call] }));
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": { "cached_tokens": 4 } });
    let call = json!({ "id": "c1", "type": "function",
                       "function": { "name": "weather", "arguments": "{\"place\":\"Rome\"}" } });
    let whole = json!({ "usage": usage, "choices": [{ "index": 0, "finish_reason": "tool_calls", "message": {
        "reasoning_content": "I call.", "content": "I look.", "tool_calls": [call] } }] });
    let chunks = json!([
        delta(json!({ "reasoning_content": "I call." })),
        delta(json!({ "content": "I look." })),
        part(
            json!({ "index": 0, "id": "c1", "function": { "name": "weather", "arguments": "{\"place\":" } }),
        ),
        part(json!({ "index": 0, "function": { "arguments": "\"Rome\"}" } })),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "tool_calls" }] }),
        json!({ "choices": [], "usage": usage }),
        "[DONE]",
    ]);
    script.answer_with(MODEL, &whole);
    let tool = json!({ "name": "weather", "input_schema": { "type": "object" } });
    let thinking = json!({ "type": "enabled", "budget_tokens": 1024 });
    let with_tools = json!({ "tools": [tool], "thinking": thinking, "unheard_of": 1 });
    let first = merged(asking("How is the weather?"), with_tools);
    let answer = send(&hive, &first).await;
    assert_eq!(answer.headers()["x-rbee-ignored-fields"], "unheard_of");
    let said: Value = answer.json().await.expect("JSON");
    let content = json!([
        { "type": "thinking", "thinking": "I call.", "signature": "" },
        { "type": "text", "text": "I look." },
        { "type": "tool_use", "id": "c1", "name": "weather", "input": { "place": "Rome" } },
    ]);
    assert_eq!((&said["content"], &said["stop_reason"]), (&content, &json!("tool_use")));
    assert_eq!(
        said["usage"],
        json!({ "input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 5 })
    );
    let asked = script.last_request();
    assert_eq!(asked["tools"][0]["function"]["name"], "weather");
    assert_eq!(
        (&asked["chat_template_kwargs"]["enable_thinking"], &asked["thinking_budget_tokens"]),
        (&json!(true), &json!(1024))
    );

    script.answer_with(MODEL, &chunks);
    let stream = events(&read_all(send(&hive, &streamed(first.clone())).await).await);
    let parts: Vec<_> =
        stream.iter().filter_map(|event| event.data["delta"]["partial_json"].as_str()).collect();
    assert_eq!(parts, ["{\"place\":", "\"Rome\"}"]);
    assert_eq!(names(&stream)[1..4], ["content_block_start", "content_block_delta", "content_block_delta"]);

    script.answer_with(MODEL, &whole);
    let mut second = first;
    let messages = second["messages"].as_array_mut().expect("messages");
    messages.push(json!({ "role": "assistant", "content": content }));
    messages.push(json!({ "role": "user", "content": [
        { "type": "tool_result", "tool_use_id": "c1", "content": [{ "type": "text", "text": "Sunny." }] }] }));
    message(&hive, &second).await;
    assert_eq!(
        script.last_request()["messages"].as_array().expect("messages")[1..],
        [
            json!({ "role": "assistant", "content": "I look.", "reasoning_content": "I call.", "tool_calls": [call] }),
            json!({ "role": "tool", "content": "Sunny.", "tool_call_id": "c1" }),
        ]
    );
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_claude_code_sends_is_answered() {
    let script = Scripted::new();
    let hive = scripted_hive(&script).await;
    let documented = include_str!("../fixtures/dialects/anthropic.json");
    let documented: Value = serde_json::from_str(documented).expect("JSON");
    for case in documented["requests"].as_array().expect("requests") {
        let post = request(
            &hive,
            "/v1/messages?beta=true",
            &merged(case["request"].clone(), json!({ "model": MODEL })),
        );
        let post = post.header("anthropic-beta", "claude-code-20250219,context-management-2025-06-27");
        let post = post.header("anthropic-dangerous-direct-browser-access", "true").header("x-app", "cli");
        let answer = soon("an answer", post.send()).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}: {:?}", case["name"], answer.text().await);
        assert_eq!(script.last_request()["messages"], case["engine"]["messages"], "{}", case["name"]);
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_pings_while_its_model_loads_and_an_error_where_that_fails() {
    let script = Scripted::new();
    let hive = scripted_hive(&script).await;
    script.set("m.loading");
    let mut answer = send(&hive, &streamed(asking("Hi"))).await;
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "event: ping\ndata: {\"type\":\"ping\"}\n\n").await;
    assert!(!seen.contains("message_start"), "{seen}");
    script.clear("m.loading");
    seen += &read_all(answer).await;
    let comments_apart = seen.replace(": waiting\n", "");
    let stream = events(&comments_apart);
    assert_eq!(
        (names(&stream)[0], *names(&stream).last().expect("events")),
        ("message_start", "message_stop")
    );

    hive.succeed(&json!({ "ModelUnload": { "id": MODEL } })).await;
    script.set("m.loading");
    let mut answer = send(&hive, &streamed(asking("Hi"))).await;
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "event: ping").await;
    script.set("m.broken");
    seen += &read_all(answer).await;
    let last = seen.trim_end().rsplit("\n\n").next().expect("an event");
    let data: Value =
        serde_json::from_str(last.strip_prefix("event: error\ndata: ").expect(last)).expect("JSON");
    assert_eq!(
        (&data["type"], &data["error"]["type"]),
        (&json!("error"), &json!("overloaded_error")),
        "{data}"
    );
    assert!(!seen.contains("message_stop"), "{seen}");
    // One that comes after it is told when to come again.
    let refused = send(&hive, &asking("Hi")).await;
    assert!(refused.headers().contains_key("retry-after"));
    error(refused, 503, "overloaded_error", "worker_failed").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_the_middle_ends_the_stream_with_an_error() {
    let script = Scripted::new();
    let hive = scripted_hive(&script).await;
    let worker = hive.load(MODEL).await;
    script.set("m.halfway");
    let mut answer = send(&hive, &streamed(asking("Hi"))).await;
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "text_delta").await;
    let pid = worker["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it lives");
    seen += &read_all(answer).await;
    let events = events(&seen);
    let last = &events.last().expect("events").data;
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")), "{last}");
    assert!(!seen.contains("message_stop") && !seen.contains("message_delta"), "{seen}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_anthropics_form() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), TOKEN).expect("a token");
    let hive = TestHive::start_with(|config| {
        config.token_file = Some(file.path().to_owned());
        config.gateway.body_limit = bytesize::ByteSize::kib(4);
        config.timers.wrong_token = Duration::ZERO.into();
    })
    .await;
    let post = |body: &Value| hive.client.post(format!("{}/v1/messages", hive.url)).json(body);
    let sent = async |post: RequestBuilder| soon("an answer", post.send()).await.expect("an answer");
    error(sent(post(&asking("Hi"))).await, 401, "authentication_error", "unauthorized").await;
    let wrong = post(&asking("Hi")).header("x-api-key", "another");
    error(sent(wrong).await, 401, "authentication_error", "unauthorized").await;
    let post = |body: &Value| post(body).header("x-api-key", TOKEN);
    let missing = sent(post(&asking("Hi"))).await;
    assert_eq!(missing.headers()["request-id"], missing.headers()["x-rbee-request-id"]);
    error(missing, 404, "not_found_error", "model_not_found").await;
    let long = sent(post(&asking(&"x".repeat(8192)))).await;
    error(long, 413, "request_too_large", "body_too_large").await;
    let form = post(&asking("Hi")).header("content-type", "text/plain");
    error(sent(form).await, 415, "invalid_request_error", "unsupported_media_type").await;
    let search = json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] });
    let search = sent(post(&merged(asking("Hi"), search))).await;
    let told = error(search, 400, "invalid_request_error", "invalid_field").await;
    assert!(told["detail"].as_str().is_some_and(|text| text.contains("web_search_20250305")), "{told}");
    let elsewhere = hive.client.post(format!("{}/v1/messages/batches", hive.url)).header("x-api-key", TOKEN);
    error(sent(elsewhere).await, 404, "not_found_error", "route_not_found").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_in_the_form_of_the_client() {
    let hive = TestHive::start().await;
    for name in ["a", "b", "c"] {
        write_model(&hive.models_dir(), name);
    }
    let list = async |query: &str| {
        let get = hive
            .client
            .get(format!("{}/v1/models{query}", hive.url))
            .header("anthropic-version", "2023-06-01");
        soon("models", get.send()).await.expect("an answer")
    };
    let page: Value = list("?limit=2").await.json().await.expect("JSON");
    assert_eq!(
        (&page["first_id"], &page["last_id"], &page["has_more"]),
        (&json!("a"), &json!("b"), &json!(true))
    );
    let page: Value = list("?limit=2&after_id=b").await.json().await.expect("JSON");
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!("c"), &json!(false)));
    let one: Value = list("/c").await.json().await.expect("JSON");
    assert_eq!(one, page["data"][0]);
    assert_eq!((&one["type"], &one["display_name"]), (&json!("model"), &json!("c")));
    error(list("/nothing").await, 404, "not_found_error", "model_not_found").await;
    error(list("?after_id=nothing").await, 400, "invalid_request_error", "invalid_request").await;
    let openai: Value = hive.get("/v1/models").await.json().await.expect("JSON");
    assert_eq!((&openai["object"], &openai["data"][0]["object"]), (&json!("list"), &json!("model")));
    until("nothing to run", async || hive.app.jobs.running().is_empty().then_some(())).await;
    hive.stop().await;
}
