//! OpenAI's Responses API over real workers, and over an engine that answers what a test tells it.

use serde_json::{Value, json};

use crate::support::{Scripted, TestHive, problem, soon, write_model};

const SENTENCE: &str = "Hello from a small model.";

async fn hive_with(script: &Scripted) -> TestHive {
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "tiny");
    hive
}

async fn respond(hive: &TestHive, request: &Value) -> Value {
    let answer = hive.post("/v1/responses", request).await;
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

async fn events(hive: &TestHive, request: &Value) -> Vec<Value> {
    let answer = hive.post("/v1/responses", request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let stream = soon("the end of the stream", answer.text()).await.expect("a stream");
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

/// A chunk of an engine's stream.
fn delta(delta: &Value) -> Value {
    json!({ "choices": [{ "index": 0, "delta": delta }] })
}

fn end(reason: &str) -> Value {
    json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_the_same_whole_and_as_events_and_is_kept() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    hive.load("tiny").await;
    let request = json!({ "model": "tiny", "input": "Hi", "temperature": 0, "metadata": { "a": "b" } });
    let whole = respond(&hive, &request).await;
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("completed")));
    assert_eq!(whole["output"][0]["content"][0]["text"], SENTENCE);
    assert_eq!((&whole["model"], &whole["metadata"]), (&json!("tiny"), &json!({ "a": "b" })));
    assert!(whole["usage"]["output_tokens"].as_u64() > Some(0), "{whole}");

    let mut streamed = request.clone();
    streamed["stream"] = true.into();
    let events = events(&hive, &streamed).await;
    let last = &events[events.len() - 1];
    assert_eq!(last["type"], "response.completed");
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let text: String = deltas.map(|event| event["delta"].as_str().expect("text")).collect();
    assert_eq!(text, SENTENCE);
    assert_eq!(last["response"]["output"][0]["content"], whole["output"][0]["content"]);

    for response in [&whole, &last["response"]] {
        let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
        let kept: Value = hive.get(&path).await.json().await.expect("JSON");
        assert_eq!(&kept, response);
        let items: Value = hive.get(&format!("{path}/input_items")).await.json().await.expect("JSON");
        assert_eq!(items["data"][0]["content"], json!([{ "type": "input_text", "text": "Hi" }]));
        assert_eq!((&items["first_id"], &items["has_more"]), (&items["data"][0]["id"], &json!(false)));
        for query in ["?include[]=x", "/input_items?limit=1&include[]=x"] {
            let answer = hive.get(&format!("{path}{query}")).await;
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["x-rbee-ignored-fields"]),
                (200, &"include[]".parse().expect("a header"))
            );
        }
        let deleted: Value = hive.delete(&path).await.json().await.expect("JSON");
        assert_eq!((&deleted["id"], &deleted["deleted"]), (&response["id"], &json!(true)));
        let gone = problem(hive.get(&path).await, 404, "response_not_found").await;
        assert!(gone["hint"].as_str().is_some_and(|hint| hint.contains("restart")), "{gone}");
        assert!(gone["error"]["message"].is_string(), "{gone}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_by_the_id_of_a_response() {
    let script = Scripted::new();
    let hive = hive_with(&script).await;
    let answer = |text: &str| json!({ "choices": [{ "index": 0, "message": { "content": text }, "finish_reason": "stop" }] });
    script.answer_with("tiny", &answer("One."));
    let request = json!({ "model": "tiny", "instructions": "Count.", "input": "Begin" });
    let first = respond(&hive, &request).await;
    script.answer_with("tiny", &answer("Two."));
    let request = json!({ "model": "tiny", "previous_response_id": first["id"], "input": "Go on" });
    let second = respond(&hive, &request).await;
    assert_eq!(second["previous_response_id"], first["id"]);
    let messages = |texts: &[(&str, &str)]| {
        Value::from_iter(texts.iter().map(|(role, content)| json!({ "role": role, "content": content })))
    };
    assert_eq!(
        script.last_request()["messages"],
        messages(&[("user", "Begin"), ("assistant", "One."), ("user", "Go on")]),
        "without the instructions of the first request"
    );
    // Dropping a response changes nothing for those that went on with it.
    hive.delete(&format!("/v1/responses/{}", first["id"].as_str().expect("an id"))).await;
    let reference = json!({ "type": "item_reference", "id": second["output"][0]["id"] });
    let input = json!([reference, { "role": "user", "content": "And?" }]);
    let request = json!({ "model": "tiny", "input": input, "store": false });
    let apart = respond(&hive, &request).await;
    assert_eq!(script.last_request()["messages"], messages(&[("assistant", "Two."), ("user", "And?")]));
    let request = json!({ "model": "tiny", "previous_response_id": second["id"], "input": "Last" });
    respond(&hive, &request).await;
    assert_eq!(script.last_request()["messages"].as_array().map(Vec::len), Some(5));

    for unknown in [&first["id"], &apart["id"], &json!("resp_1")] {
        let request = json!({ "model": "tiny", "previous_response_id": unknown, "input": "?" });
        let refused = hive.post("/v1/responses", &request).await;
        let refused = problem(refused, 400, "previous_response_not_found").await;
        assert_eq!(refused["error"]["param"], "previous_response_id");
        assert!(
            refused["error"]["message"].as_str().is_some_and(|text| text.contains("memory")),
            "{refused}"
        );
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_reasoning_and_limits_pass_in_both_directions() {
    let script = Scripted::new();
    let hive = hive_with(&script).await;
    let call =
        |arguments: &str| json!({ "tool_calls": [{ "index": 0, "function": { "arguments": arguments } }] });
    let begin = json!({ "tool_calls": [{ "index": 0, "id": "c1", "type": "function",
                                         "function": { "name": "look", "arguments": "" } }] });
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 4,
                                                  "prompt_tokens_details": { "cached_tokens": 5 } } });
    let chunks = [
        delta(&json!({ "role": "assistant", "content": null })),
        delta(&json!({ "reasoning_content": "I must look." })),
        delta(&begin),
        delta(&call("{\"at\":")),
        delta(&call("\"it\"}")),
        end("tool_calls"),
        usage,
        json!("[DONE]"),
    ];
    script.answer_with("tiny", &Value::from_iter(chunks));
    let tool =
        json!({ "type": "function", "name": "look", "parameters": { "type": "object" }, "strict": true });
    let request = json!({
        "model": "tiny", "input": "Look", "stream": true, "tools": [tool], "tool_choice": "required",
        "text": { "format": { "type": "json_object" }, "verbosity": "low" }, "reasoning": { "effort": "low" },
        "max_output_tokens": 50,
    });
    let seen = events(&hive, &request).await;
    let response = &seen[seen.len() - 1]["response"];
    let kinds: Vec<&Value> =
        response["output"].as_array().expect("items").iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "function_call"]);
    assert_eq!(response["output"][1]["arguments"], "{\"at\":\"it\"}");
    assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], 5);
    let asked = script.last_request();
    assert_eq!(asked["tools"][0]["function"]["name"], "look");
    assert_eq!((&asked["tool_choice"], &asked["max_tokens"]), (&json!("required"), &json!(50)));
    assert_eq!(asked["response_format"], json!({ "type": "json_object" }));

    let message = json!({ "content": "Once", "role": "assistant" });
    script.answer_with(
        "tiny",
        &json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "length" }] }),
    );
    let input = json!([{ "type": "function_call_output", "call_id": "c1", "output": "a cat" }]);
    let request =
        json!({ "model": "tiny", "previous_response_id": response["id"], "input": input, "user": "u" });
    let whole = respond(&hive, &request).await;
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let messages = script.last_request()["messages"].clone();
    assert_eq!(messages[1]["reasoning_content"], "I must look.");
    assert_eq!(messages[1]["tool_calls"][0]["id"], "c1");
    assert_eq!(messages[2], json!({ "role": "tool", "content": "a cat", "tool_call_id": "c1" }));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_in_openais_form_and_is_not_kept() {
    let script = Scripted::new();
    let hive = hive_with(&script).await;
    let request = json!({ "model": "tiny", "input": "Hi", "tools": [{ "type": "web_search" }] });
    let refused = problem(hive.post("/v1/responses", &request).await, 400, "invalid_field").await;
    assert_eq!(refused["error"]["param"], "tools[0].type");
    let request = json!({ "model": "none", "input": "Hi" });
    problem(hive.post("/v1/responses", &request).await, 404, "model_not_found").await;
    let ignored =
        hive.post("/v1/responses", &json!({ "model": "tiny", "input": "Hi", "truncation": "auto" })).await;
    assert_eq!(ignored.headers()["x-rbee-ignored-fields"], "truncation");

    // A stream that breaks off.
    script.answer_with("tiny", &json!([delta(&json!({ "content": "Once" }))]));
    let request = json!({ "model": "tiny", "input": "Hi", "stream": true });
    let seen = events(&hive, &request).await;
    let [.., failed, error] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&failed["type"], &error["type"]), (&json!("response.failed"), &json!("error")));
    assert_eq!(failed["response"]["error"]["code"], "worker_error");
    let path = format!("/v1/responses/{}", failed["response"]["id"].as_str().expect("an id"));
    problem(hive.get(&path).await, 404, "response_not_found").await;

    // An engine that refuses.
    let error =
        json!({ "error": { "code": 400, "message": "no such grammar", "type": "invalid_request_error" } });
    script.answer_with("tiny", &error);
    let answer = hive.post("/v1/responses", &json!({ "model": "tiny", "input": "Hi" })).await;
    assert_eq!(answer.status(), 400);
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["error"]["message"], "no such grammar");
    hive.stop().await;
}
