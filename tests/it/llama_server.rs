//! A real `llama-server` (llama.cpp's own program) under the hive. The tests run if
//! `RBEE_TEST_LLAMA_SERVER` names one, which `.ci/llama-server` builds, and are skipped with a message
//! otherwise.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    TestHive, check_of, data_lines, merged, process_runs, read_until, until, write_bert, write_model,
    write_model_that_says,
};

/// A hive with the server that the environment names, and a model; `None` where it names none.
async fn hive_with(tune: impl FnOnce(&mut rbee_hive::config::LlamaServer)) -> Option<TestHive> {
    let hive = TestHive::with_llama_server(tune).await?;
    write_model(&hive.models_dir(), "tiny");
    Some(hive)
}

fn chat(model: &str, more: Value) -> Value {
    let chat = json!({
        "model": model, "temperature": 0, "max_tokens": 24,
        "messages": [{ "role": "user", "content": "Hello?" }],
    });
    merged(chat, more)
}

async fn listed(hive: &TestHive, worker: &Value) -> Value {
    hive.succeed(&json!({ "WorkerProcessGet": { "pid": worker["pid"] } })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_found_chosen_used_and_proven_gone() {
    let Some(hive) = hive_with(|_| {}).await else { return };
    let check = hive.succeed(&json!({ "HiveCheck": {} })).await;
    let detail = check_of(&check, "engines")["detail"].as_str().expect("a detail");
    assert!(detail.starts_with("llama-server ") && detail.contains("; builtin "), "{detail}");
    assert!(detail.contains("on cpu") && detail.contains("completions"), "{detail}");
    let sandbox = check_of(&check, "sandbox")["detail"].as_str().expect("a detail");
    assert!(!sandbox.contains("but for"), "{sandbox}");

    let id = hive.submit(&json!({ "ModelLoad": { "id": "tiny", "context_length": 512 } })).await;
    let stream = hive.stream(&id).await;
    let lines = data_lines(&stream);
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{stream}");
    let worker: Value = serde_json::from_str(&lines[lines.len() - 2]).expect("a result");
    assert_eq!(
        (&worker["engine"], &worker["device"], &worker["status"]),
        (&json!("llama-server"), &json!("cpu"), &json!("ready"))
    );
    assert!(stream.contains("it is preferred for cpu to builtin"), "{stream}");
    assert!(stream.contains("--ctx-size 512 --parallel 1"), "{stream}");

    let answer = hive.post("/v1/chat/completions", &chat("tiny", json!({}))).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello from a small model.", "{answer}");
    let streamed = hive.post("/v1/chat/completions", &chat("tiny", json!({ "stream": true }))).await;
    let streamed = streamed.text().await.expect("a stream");
    assert!(streamed.trim_end().ends_with("data: [DONE]"), "{streamed}");
    let text: String = streamed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    assert_eq!(text, "Hello from a small model.");

    // It requires its secret, and counts requests and tokens.
    let url = worker["url"].as_str().expect("a URL");
    let direct = hive.client.post(format!("{url}/v1/chat/completions")).json(&chat("tiny", json!({})));
    assert_eq!(direct.send().await.expect("an answer").status(), 401);
    let counted = listed(&hive, &worker).await;
    assert_eq!((&counted["requests"], &counted["slots"]), (&json!(2), &json!(1)), "{counted}");
    assert!(counted["tokens_generated"].as_u64() > Some(4), "{counted}");
    assert!(counted["rss_bytes"].as_u64() > Some(8 << 20), "{counted}");

    let unloaded = hive.succeed(&json!({ "ModelUnload": { "id": "tiny" } })).await;
    assert_eq!(unloaded["workers"], json!([worker["pid"]]));
    assert!(unloaded["freed_bytes"].as_u64() > Some(8 << 20), "{unloaded}");
    assert!(!process_runs(pid(&worker)));
    hive.stop().await;
}

fn pid(worker: &Value) -> u32 {
    worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_context_and_the_settings_reach_it() {
    use rbee_hive::config::{FlashAttention, KvType};

    let hive = hive_with(|settings| {
        settings.flash_attention = Some(FlashAttention::On);
        settings.kv_type = Some(KvType::Q8_0);
        settings.gpu_layers = Some(0);
    });
    let Some(hive) = hive.await else { return };
    for asked in ["llama-server", "cpu"] {
        let spawn =
            json!({ "WorkerSpawn": { "model": "tiny", "worker": asked, "slots": 3, "context_length": 256 } });
        let id = hive.submit(&spawn).await;
        let stream = hive.stream(&id).await;
        let lines = data_lines(&stream);
        assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{stream}");
        for flags in
            ["--ctx-size 768 --parallel 3", "--flash-attn on --cache-type-k q8_0 --cache-type-v q8_0"]
        {
            assert!(stream.contains(flags), "{flags}: {stream}");
        }
        let worker: Value = serde_json::from_str(&lines[lines.len() - 2]).expect("a result");
        assert_eq!((&worker["engine"], &worker["slots"]), (&json!("llama-server"), &json!(3)), "{worker}");
        // Its log confirms them: each slot has the requested context.
        until("the log to list the slots", async || {
            let log = hive.get(&format!("/v1/workers/{}/log", worker["pid"])).await;
            let log = log.text().await.expect("a log");
            (log.contains("n_slots = 3") && log.contains("n_ctx_slot = 256")).then_some(())
        })
        .await;
        hive.succeed(&json!({ "WorkerProcessDelete": { "pid": worker["pid"] } })).await;
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_reported_and_the_log_stays() {
    let Some(hive) = hive_with(|_| {}).await else { return };
    let worker = hive.load("tiny").await;
    let mut events = hive.get("/v1/events").await;
    let mut seen = String::new();
    read_until(&mut events, &mut seen, "event: snapshot").await;
    kill_process(Pid::from_raw(pid(&worker).cast_signed()).expect("a process id"), Signal::KILL)
        .expect("it lives");
    read_until(&mut events, &mut seen, "killed by SIGKILL").await;
    assert_eq!(listed(&hive, &worker).await["status"], "crashed");
    let log = hive.get(&format!("/v1/workers/{}/log", worker["pid"])).await.text().await.expect("a log");
    assert!(log.contains("loading model"), "its log is still there: {log}");
    let answer = hive.post("/v1/chat/completions", &chat("tiny", json!({}))).await;
    assert_eq!(answer.status(), 200, "a request loads the model again");
    drop(events);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_it_cannot_load_fails_with_its_log_and_a_hint() {
    let Some(hive) = hive_with(|_| {}).await else { return };
    // The hive, which reads headers, accepts it; the engine does not, because a tensor is missing.
    let sound = std::fs::read(hive.models_dir().join("tiny.gguf")).expect("a model");
    let broken = replaced(&sound, b"blk.0.attn_q.weight", b"blk.0.attn_x.weight");
    std::fs::write(hive.models_dir().join("broken.gguf"), broken).expect("a file");
    until("the model to be listed", async || {
        let models = hive.succeed(&json!({ "ModelList": {} })).await;
        models
            .as_array()?
            .iter()
            .any(|model| model["id"] == "broken" && model["status"] == "available")
            .then_some(())
    })
    .await;
    let failure = hive.fail(&json!({ "ModelLoad": { "id": "broken" } })).await;
    assert_eq!(failure["code"], "worker_failed", "{failure}");
    assert_eq!(failure["exit_code"], 1, "{failure}");
    let tail = failure["log_tail"].to_string();
    assert!(tail.contains("attn_q"), "{tail}");
    let hint = failure["hint"].as_str().expect("a hint");
    assert!(hint.contains("download it again"), "{failure}");
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    assert_eq!(workers, json!([]));
    hive.stop().await;
}

/// The bytes with the first `from` replaced by `to`, which has the same length.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    let mut changed = bytes.to_vec();
    changed[at..at + to.len()].copy_from_slice(to);
    changed
}

/// The lines of a load, and the worker.
async fn load(hive: &TestHive, id: &str) -> (String, Value) {
    let job = hive.submit(&json!({ "ModelLoad": { "id": id } })).await;
    let stream = hive.stream(&job).await;
    let lines = data_lines(&stream);
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{stream}");
    let worker = serde_json::from_str(&lines[lines.len() - 2]).expect("a result");
    (stream, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_for_embeddings_or_reranking_is_started_as_one() {
    let Some(hive) = hive_with(|_| {}).await else { return };
    for (stem, pooling, has_head) in [
        ("mean", Some(1), false),
        ("unsaid", None, false),
        ("ranker", Some(4), true),
        ("old-ranker", None, true),
    ] {
        write_bert(&hive.models_dir(), stem, pooling, has_head);
    }
    for (id, flags) in [
        ("mean", "--embeddings --batch-size 64 --ubatch-size 64"),
        ("unsaid", "--embeddings --pooling mean --batch-size 64 --ubatch-size 64"),
        ("ranker", "--reranking --batch-size 64 --ubatch-size 64"),
        ("old-ranker", "--reranking --batch-size 64 --ubatch-size 64"),
    ] {
        let (stream, worker) = load(&hive, id).await;
        assert!(stream.contains(flags), "{id}: {stream}");
        assert!(!stream.contains("ChatML"), "it needs no template: {stream}");
        // As many tokens as the context has.
        let long = ["hello small model"; 20].join(" ");
        let (path, body) = match id {
            "mean" | "unsaid" => ("/v1/embeddings", json!({ "model": id, "input": ["hello", long] })),
            _ => (
                "/v1/rerank",
                json!({ "model": id, "query": "hello", "documents": ["small model", "hello"] }),
            ),
        };
        let answer = hive.post(path, &body).await;
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert_eq!(status, 200, "{id}: {text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        match id {
            "mean" | "unsaid" => {
                let vectors: Vec<_> = answer["data"].as_array().expect("vectors").iter().collect();
                assert_eq!(vectors.len(), 2, "{answer}");
                assert_eq!(vectors[1]["embedding"].as_array().map(Vec::len), Some(32), "{answer}");
            }
            _ => assert_eq!(answer["results"].as_array().map(Vec::len), Some(2), "{answer}"),
        }
        hive.succeed(&json!({ "WorkerProcessDelete": { "pid": worker["pid"] } })).await;
    }
    let (stream, _) = load(&hive, "tiny").await;
    assert!(!stream.contains("--embeddings") && !stream.contains("--reranking"), "{stream}");
    hive.stop().await;
}

/// A template in the notation of Hermes and Qwen.
const THINKS_AND_CALLS: &str = r#"{%- if tools %}<|im_start|>system
You may call functions. Their signatures:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
Call one like this:
<tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"#;

#[tokio::test(flavor = "multi_thread")]
async fn its_calls_and_thoughts_are_those_of_every_dialect() {
    let Some(hive) = hive_with(|_| {}).await else { return };
    let answer = "<think>\nI must ask.\n</think>\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \
                  \"Paris\"}}\n</tool_call>";
    write_model_that_says(&hive.models_dir(), "calls", answer);
    let template = hive.models_dir().with_file_name("calls.jinja");
    std::fs::write(&template, THINKS_AND_CALLS).expect("a template");
    hive.succeed(
        &json!({ "ModelSettingsSet": { "id": "calls", "settings": { "chat_template": template } } }),
    )
    .await;
    let schema =
        json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let function = json!({ "name": "weather", "description": "tells the weather", "parameters": schema });
    let tools = json!([{ "type": "function", "function": function }]);
    let ask = async |path: &str, body: Value| -> Value {
        let answer = hive.post(path, &body).await;
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let messages = json!([{ "role": "user", "content": "How is the weather in Paris?" }]);
    let of_openai = ask(
        "/v1/chat/completions",
        json!({ "model": "calls", "temperature": 0, "max_tokens": 200, "messages": messages, "tools": tools }),
    )
    .await;
    let choice = &of_openai["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{of_openai}");
    assert_eq!(
        choice["message"]["reasoning_content"].as_str().map(str::trim),
        Some("I must ask."),
        "{of_openai}"
    );
    let of_anthropic = ask(
        "/v1/messages",
        json!({ "model": "calls", "temperature": 0, "max_tokens": 200, "messages": messages,
                "thinking": { "type": "enabled", "budget_tokens": 1024 },
                "tools": [{ "name": "weather", "input_schema": schema }] }),
    )
    .await;
    let kinds: Vec<_> =
        of_anthropic["content"].as_array().expect("blocks").iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "tool_use"], "{of_anthropic}");
    assert_eq!(of_anthropic["content"][1]["input"], json!({ "city": "Paris" }), "{of_anthropic}");
    assert_eq!(of_anthropic["stop_reason"], "tool_use");
    let of_ollama = ask(
        "/api/chat",
        json!({ "model": "calls", "stream": false, "options": { "temperature": 0 }, "think": true,
                "messages": messages, "tools": tools }),
    )
    .await;
    let call = &of_ollama["message"]["tool_calls"][0]["function"];
    assert_eq!(
        (&call["name"], &call["arguments"]),
        (&json!("weather"), &json!({ "city": "Paris" })),
        "{of_ollama}"
    );
    assert_eq!(of_ollama["message"]["thinking"].as_str().map(str::trim), Some("I must ask."), "{of_ollama}");
    let counted = json!({ "model": "calls", "messages": messages });
    let counted = ask("/v1/messages/count_tokens", counted).await["input_tokens"].as_u64();
    assert!(counted.is_some_and(|tokens| (10..500).contains(&tokens)), "{counted:?}");
    let of_responses = ask(
        "/v1/responses",
        json!({ "model": "calls", "temperature": 0, "input": "How is the weather in Paris?",
                "tools": [merged(json!({ "type": "function" }), function)] }),
    )
    .await;
    let call =
        of_responses["output"].as_array().expect("items").iter().find(|item| item["type"] == "function_call");
    assert_eq!(call.map(|call| &call["name"]), Some(&json!("weather")), "{of_responses}");
    hive.stop().await;
}
