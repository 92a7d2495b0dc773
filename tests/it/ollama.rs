//! Ollama's API over a real hive, as its own clients use it.

use std::path::{Path, PathBuf};

use reqwest::Response;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::hub::{FakeHub, hex};
use crate::support::{
    Daemon, Scripted, TestHive, folder, projector, serve, soon, until, write_endless_model, write_model,
};

/// The lines of a stream.
async fn lines(answer: Response) -> Vec<Value> {
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = soon("a whole stream", answer.text()).await.expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON value in each line")).collect()
}

/// A refusal, whose `error` is text. Clients of Ollama's read it only where the type is that of plain JSON.
async fn refused(answer: Response, status: u16, code: &str) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/json");
    let got = answer.status();
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!((got.as_u16(), &body["code"]), (status, &json!(code)), "{body}");
    assert!(
        body["error"].as_str().is_some_and(|text| !text.is_empty()) && body["hint"].is_string(),
        "{body}"
    );
    // Ollama's client for Go reads texts in these members, in any case of their letters.
    assert!(body.get("status").is_none() && body.get("statuscode").is_none(), "{body}");
    body
}

async fn json_of(answer: Response) -> Value {
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

/// Deletes as Ollama's clients do, with a body.
async fn delete(hive: &TestHive, name: &str) -> Response {
    let request = hive.client.delete(format!("{}/api/delete", hive.url)).json(&json!({ "model": name }));
    soon("a deletion", request.send()).await.expect("an answer")
}

fn names(tags: &Value) -> Vec<&str> {
    tags["models"]
        .as_array()
        .expect("models")
        .iter()
        .map(|model| model["name"].as_str().expect("a name"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_shown_as_ollamas_clients_read_them() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let version = json_of(hive.get("/api/version").await).await;
    let numbers: Vec<u32> =
        version["version"].as_str().unwrap().split('.').map(|part| part.parse().expect("a number")).collect();
    assert!(numbers >= vec![0, 13, 4], "VS Code asks for at least 0.6.4, Codex for 0.13.4: {version}");

    std::fs::write(hive.models_dir().join("broken.gguf"), b"GGUF").expect("a file");
    let tags = json_of(hive.get("/api/tags").await).await;
    assert_eq!(names(&tags), ["tiny"], "what cannot be loaded is not offered");
    let tiny = &tags["models"][0];
    assert_eq!((&tiny["name"], &tiny["model"]), (&json!("tiny"), &json!("tiny")));
    assert!(tiny["size"].as_u64() > Some(0) && tiny["modified_at"].is_string(), "{tiny}");
    assert_eq!(tiny["digest"].as_str().map(str::len), Some(64), "clients show its first 12 digits: {tiny}");
    assert_eq!(tiny["details"]["family"], "llama", "{tiny}");
    assert_eq!(tiny["details"]["format"], "gguf", "{tiny}");

    // Of a model that is not loaded, of any spelling of its name, and with either name of the field.
    let of_ollamas_program = json!({ "model": "", "name": "tiny", "system": "", "template": "", "verbose": false,
                                     "options": null });
    for body in [json!({ "model": "tiny" }), json!({ "name": "tiny:latest" }), of_ollamas_program] {
        let shown = json_of(hive.post("/api/show", &body).await).await;
        assert_eq!(shown["model_info"]["general.architecture"], "llama", "{shown}");
        assert!(shown["model_info"]["llama.context_length"].as_u64() > Some(0), "{shown}");
        assert!(shown["model_info"]["tokenizer.ggml.tokens"].is_null(), "arrays are long: {shown}");
        assert!(shown["capabilities"].as_array().unwrap().contains(&json!("completion")), "{shown}");
        assert!(
            shown["template"].as_str().is_some()
                && shown["modelfile"].as_str().unwrap().contains("FROM tiny")
        );
    }
    let verbose = json_of(hive.post("/api/show", &json!({ "model": "tiny", "verbose": true })).await).await;
    assert!(verbose["model_info"]["tokenizer.ggml.tokens"].is_array(), "{}", verbose["model_info"]);

    assert_eq!(json_of(hive.get("/api/ps").await).await["models"], json!([]));
    hive.load("tiny").await;
    let ps = json_of(hive.get("/api/ps").await).await;
    let running = &ps["models"][0];
    assert_eq!((&running["name"], &running["size_vram"]), (&json!("tiny"), &json!(0)), "{ps}");
    assert!(running["context_length"].as_u64() > Some(0) && running["size"].as_u64() > Some(0), "{ps}");
    assert!(running["expires_at"].as_str().unwrap().starts_with("2299-"), "it was loaded to stay: {ps}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_show_as_parameters_and_aliases_as_names() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let settings = json!({ "sampling": { "temperature": 0.5, "max_tokens": 9 }, "context_length": 64,
                           "system_prompt": "Be brief.", "variants": { "long": { "context_length": 32 } } });
    hive.succeed(&json!({ "ModelSettingsSet": { "id": "tiny", "settings": settings } })).await;
    let shown = json_of(hive.post("/api/show", &json!({ "model": "tiny" })).await).await;
    let parameters = shown["parameters"].as_str().expect("text");
    let has =
        |name: &str, value: &str| parameters.lines().any(|line| line.split_whitespace().eq([name, value]));
    assert!(has("temperature", "0.5") && has("num_predict", "9") && has("num_ctx", "64"), "{parameters}");
    assert_eq!(shown["system"], "Be brief.");

    let copied = json!({ "source": "tiny:latest", "destination": "mine:latest" });
    assert_eq!(hive.post("/api/copy", &copied).await.status(), 200);
    assert_eq!(hive.post("/api/copy", &copied).await.status(), 200, "it is that already");
    let tags = json_of(hive.get("/api/tags").await).await;
    assert_eq!(names(&tags), ["tiny", "tiny@long", "mine"]);
    assert_eq!(tags["models"][2]["details"]["parent_model"], "tiny");
    for name in ["mine", "mine:latest", "tiny@long"] {
        assert_eq!(hive.post("/api/show", &json!({ "model": name })).await.status(), 200, "{name}");
    }

    // Of an alias, the alias alone goes; of a file that is not the hive's, nothing does.
    let another = json!({ "source": "mine", "destination": "ours" });
    assert_eq!(hive.post("/api/copy", &another).await.status(), 200);
    assert_eq!(delete(&hive, "mine:latest").await.status(), 200);
    assert_eq!(names(&json_of(hive.get("/api/tags").await).await), ["tiny", "tiny@long", "ours"]);
    let refusal = refused(delete(&hive, "tiny").await, 409, "not_owned").await;
    assert!(refusal["error"].as_str().unwrap().contains("force"), "{refusal}");
    assert!(hive.models_dir().join("tiny.gguf").exists());
    refused(delete(&hive, "mine").await, 404, "model_not_found").await;
    refused(
        hive.post("/api/copy", &json!({ "source": "other", "destination": "x" })).await,
        404,
        "model_not_found",
    )
    .await;
    refused(hive.post("/api/copy", &json!({ "source": "tiny" })).await, 400, "invalid_field").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_tells_its_progress_and_its_end() {
    let registry = FakeHub::start().await;
    let made = tempfile::tempdir().expect("a folder");
    let bytes = std::fs::read(write_model(made.path(), "m")).expect("a model");
    registry.push("library/small:135m", &bytes);
    registry.push_layers("library/small:135m", &[("projector", &projector()), ("system", b"Be kind.")]);
    registry.push("library/other:latest", &bytes);
    let hive = TestHive::start_with(|config| config.ollama.endpoint = registry.url.clone()).await;

    let asked = json!({ "model": "small:135m", "insecure": true });
    let answer = hive.post("/api/pull", &asked).await;
    assert_eq!(answer.headers()["x-rbee-ignored-fields"], "insecure");
    let job = answer.headers()["x-rbee-job-id"].to_str().expect("an id").to_owned();
    let told = lines(answer).await;
    assert_eq!(told[0], json!({ "status": "pulling manifest" }));
    assert_eq!(told[told.len() - 1], json!({ "status": "success" }), "{told:?}");
    assert!(told.iter().any(|line| line["status"].as_str().unwrap().contains("Left out")), "{told:?}");
    let bars: Vec<_> = told.iter().filter(|line| line["digest"].is_string()).collect();
    for bar in &bars {
        assert!(bar["completed"].as_u64() <= bar["total"].as_u64() && bar["total"].is_u64(), "{bar}");
        assert!(bar["status"].as_str().unwrap().starts_with("pulling "), "{bar}");
    }
    assert_eq!(hive.job(&job).await["operation"], "model_download");

    // Under the name that was pulled.
    let shown = json_of(hive.post("/api/show", &json!({ "model": "small:135m" })).await).await;
    assert!(shown["capabilities"].as_array().unwrap().contains(&json!("completion")), "{shown}");
    let whole = json!({ "model": "other", "stream": false });
    assert_eq!(json_of(hive.post("/api/pull", &whole).await).await, json!({ "status": "success" }));
    for name in ["other", "other:latest"] {
        assert_eq!(hive.post("/api/show", &json!({ "model": name })).await.status(), 200, "{name}");
    }

    // A model that is loaded is unloaded first.
    hive.load("other").await;
    assert_eq!(delete(&hive, "other").await.status(), 200);
    assert_eq!(names(&json_of(hive.get("/api/tags").await).await), ["small:135m"]);

    let failed = lines(hive.post("/api/pull", &json!({ "model": "small:7b" })).await).await;
    let error = failed[failed.len() - 1]["error"].as_str().expect("an error");
    assert!(error.contains("small:7b") && error.contains("tags"), "{error}");
    let whole = json!({ "model": "small:7b", "stream": false });
    refused(hive.post("/api/pull", &whole).await, 404, "source_not_found").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_need_no_content_type_and_browsers_do() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = hive.client.post(format!("{}/api/show", hive.url)).body(r#"{"model":"tiny"}"#);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        soon("an answer", request.send()).await.expect("an answer")
    };
    // As `curl -d` sends it.
    let form = ("content-type", "application/x-www-form-urlencoded");
    for headers in [&[][..], &[form], &[("content-type", "text/plain")]] {
        assert_eq!(ask(headers).await.status(), 200, "{headers:?}");
    }
    let origin = ("origin", hive.url.as_str());
    for headers in [&[form, origin][..], &[form, ("sec-fetch-site", "same-origin")], &[origin]] {
        refused(ask(headers).await, 415, "unsupported_media_type").await;
    }
    assert_eq!(ask(&[("content-type", "application/json"), origin]).await.status(), 200);
    for (path, code) in [
        ("/api/create", "not_offered"),
        ("/api/push", "not_offered"),
        ("/api/me", "not_offered"),
        ("/api/blobs/sha256:00", "not_offered"),
        ("/api/show", "invalid_field"),
    ] {
        let refusal = refused(hive.post(path, &json!({})).await, 400, code).await;
        assert!(refusal["error"].is_string(), "{refusal}");
    }
    hive.stop().await;
}

const SENTENCE: &str = "Hello from a small model.";

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }], "options": { "temperature": 0 } })
}

fn with(mut request: Value, field: &str, value: impl Into<Value>) -> Value {
    request[field] = value.into();
    request
}

/// The last line, and the texts of those before it.
fn answer_of(lines: &[Value], text: &str) -> (Value, String) {
    let (last, parts) = lines.split_last().expect("lines");
    assert!(parts.iter().all(|line| line["done"] == false), "{lines:?}");
    (
        last.clone(),
        parts.iter().map(|line| line.pointer(text).and_then(Value::as_str).expect("text")).collect(),
    )
}

fn check_end(end: &Value) {
    assert_eq!(
        (&end["done"], &end["done_reason"], &end["model"]),
        (&json!(true), &json!("stop"), &json!("tiny"))
    );
    assert!(end["prompt_eval_count"].as_u64() > Some(0) && end["eval_count"].as_u64() > Some(1), "{end}");
    for time in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(end[time].is_u64(), "{time}: {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_and_generations_are_answered_streamed_and_whole() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    // A stream is the default, and the model is loaded for it.
    let (end, text) =
        answer_of(&lines(hive.post("/api/chat", &chat("tiny")).await).await, "/message/content");
    assert_eq!(text, SENTENCE);
    check_end(&end);
    let whole = json_of(hive.post("/api/chat", &with(chat("tiny"), "stream", false)).await).await;
    assert_eq!(whole["message"], json!({ "role": "assistant", "content": SENTENCE }), "{whole}");
    check_end(&whole);

    let prompt = json!({ "model": "tiny", "prompt": "Hi", "options": { "temperature": 0, "num_gpu": 1 } });
    let answer = hive.post("/api/generate", &with(prompt.clone(), "context", json!([1]))).await;
    assert_eq!(answer.headers()["x-rbee-ignored-fields"], "context, options.num_gpu");
    let (end, text) = answer_of(&lines(answer).await, "/response");
    assert_eq!(text, SENTENCE);
    check_end(&end);
    let whole = json_of(hive.post("/api/generate", &with(prompt, "stream", false)).await).await;
    assert_eq!(whole["response"], SENTENCE, "{whole}");
    let few = json!({ "temperature": 0, "num_predict": 2 });
    let short =
        json_of(hive.post("/api/chat", &with(with(chat("tiny"), "options", few), "stream", false)).await)
            .await;
    assert_eq!(short["done_reason"], "length", "{short}");

    for (path, body, name) in [
        ("/api/chat", with(chat("tiny"), "format", "xml"), "format"),
        ("/api/chat", with(chat("tiny"), "keep_alive", "soon"), "keep_alive"),
        ("/api/chat", with(chat("tiny"), "options", json!({ "top_p": 7 })), "top_p"),
        ("/api/generate", json!({ "model": "tiny", "prompt": "Hi", "suffix": "x" }), "suffix"),
        ("/api/generate", json!({ "prompt": "Hi" }), "model"),
    ] {
        let refusal = refused(hive.post(path, &body).await, 400, "invalid_field").await;
        assert!(refusal["error"].as_str().is_some_and(|text| text.contains(name)), "{name}: {refusal}");
    }
    let missing = refused(hive.post("/api/chat", &chat("missing")).await, 404, "model_not_found").await;
    let told = missing["error"].as_str().unwrap();
    assert!(told.starts_with("model 'missing' not found"), "Ollama's program looks for these words: {told}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_prompt_loads_and_unloads() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    let idle = async |path: &str, body: Value| json_of(hive.post(path, &body).await).await;
    let nothing = json!({ "model": "tiny", "stream": false });
    let loaded = idle("/api/generate", with(nothing.clone(), "keep_alive", "7m")).await;
    assert_eq!(
        (&loaded["done"], &loaded["done_reason"], &loaded["response"]),
        (&json!(true), &json!("load"), &json!(""))
    );
    let ps = json_of(hive.get("/api/ps").await).await;
    assert!(
        !ps["models"][0]["expires_at"].as_str().unwrap().starts_with("2299-"),
        "it stays for 7 minutes: {ps}"
    );
    let unloaded = with(with(nothing, "messages", json!([])), "keep_alive", 0);
    let unloaded = idle("/api/chat", unloaded).await;
    assert_eq!((&unloaded["done_reason"], &unloaded["message"]["content"]), (&json!("unload"), &json!("")));
    assert_eq!(json_of(hive.get("/api/ps").await).await["models"], json!([]));
    // One line, where a stream is asked for.
    let streamed =
        lines(hive.post("/api/generate", &json!({ "model": "tiny", "keep_alive": "0s" })).await).await;
    assert_eq!((streamed.len(), &streamed[0]["done_reason"]), (1, &json!("unload")));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_says_how_long_its_worker_stays() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "tiny");
    let vectors = json!({ "data": [{ "index": 0, "embedding": [1.0] }] });
    let message = json!({ "choices": [{ "index": 0, "message": { "content": "a" }, "text": "a" }] });
    let generate = json!({ "model": "tiny", "prompt": "Hi", "stream": false });
    for (path, request, answer) in [
        ("/api/chat", with(chat("tiny"), "stream", false), &message),
        ("/api/generate", generate.clone(), &message),
        ("/api/generate", with(generate, "raw", true), &message),
        ("/api/embed", json!({ "model": "tiny", "input": "a" }), &vectors),
        ("/api/embeddings", json!({ "model": "tiny", "prompt": "a" }), &vectors),
    ] {
        script.answer_with("tiny", answer);
        hive.load("tiny").await;
        json_of(hive.post(path, &with(request, "keep_alive", "1ms")).await).await;
        until("the worker to go", async || {
            let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
            (workers == json!([])).then_some(())
        })
        .await;
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_none_changes_and_shows_nothing() {
    let hive = TestHive::start_with(|config| config.residency.on_demand = false).await;
    write_model(&hive.models_dir(), "tiny");
    let every_name = json!({ "ModelSettingsSet": { "id": "tiny", "settings": { "aliases": ["*"] } } });
    hive.succeed(&every_name).await;
    refused(hive.post("/api/show", &json!({ "model": "other" })).await, 404, "model_not_found").await;
    let unload = json!({ "model": "other", "keep_alive": 0 });
    refused(hive.post("/api/generate", &unload).await, 404, "model_not_found").await;
    // Requests load nothing here, also those that ask for nothing else.
    let load = json!({ "model": "other" });
    let refusal = refused(hive.post("/api/generate", &load).await, 404, "model_not_loaded").await;
    assert!(refusal["error"].as_str().unwrap().contains("tiny"), "{refusal}");
    hive.load("tiny").await;
    assert_eq!(hive.post("/api/generate", &load).await.status(), 200);
    for (path, request) in [("/api/generate", load), ("/api/chat", with(chat("tiny"), "stream", false))] {
        let answer = hive.post(path, &with(request, "options", json!({ "num_ctx": 2048 }))).await;
        assert_eq!(answer.headers()["x-rbee-ignored-fields"], "options.num_ctx", "{path}");
        assert_eq!(answer.status(), 200, "{path}");
    }

    let copy = |name: &str| json!({ "source": "tiny", "destination": name });
    refused(hive.post("/api/copy", &copy("*")).await, 400, "invalid_field").await;
    let (a, b, c) = (copy("a"), copy("b"), copy("c"));
    let copied =
        tokio::join!(hive.post("/api/copy", &a), hive.post("/api/copy", &b), hive.post("/api/copy", &c));
    assert_eq!([copied.0.status(), copied.1.status(), copied.2.status()], [200, 200, 200]);
    assert_eq!(names(&json_of(hive.get("/api/tags").await).await), ["tiny", "a", "b", "c"]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_thoughts_raw_prompts_and_vectors_pass_through_an_engine() {
    let script = Scripted::new();
    let hive = TestHive::start_with(|config| script.serve_for(config, 1)).await;
    write_model(&hive.models_dir(), "tiny");
    let tool =
        json!({ "type": "function", "function": { "name": "add", "parameters": { "type": "object" } } });
    let request = json!({
        "model": "tiny", "tools": [tool], "think": true, "format": { "type": "object" },
        "options": { "num_predict": 9, "repeat_last_n": 3 },
        "messages": [
            { "role": "user", "content": "1+2?" },
            { "role": "assistant", "content": "", "tool_calls": [{ "function": { "name": "add", "arguments": { "a": 1 } } }] },
            { "role": "tool", "tool_name": "add", "content": "3" },
        ],
    });
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 2 });
    let call = json!({ "index": 0, "id": "c1", "function": { "name": "add", "arguments": "{\"b\":2}" } });
    let whole = json!({ "usage": usage, "choices": [{ "index": 0, "finish_reason": "tool_calls", "message":
        { "role": "assistant", "reasoning_content": "hm", "content": null, "tool_calls": [call] } }] });
    let delta = |delta: Value| json!({ "choices": [{ "index": 0, "delta": delta }] });
    let finish =
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "tool_calls" }], "usage": usage });
    let chunks = json!([
        delta(json!({ "reasoning_content": "hm" })),
        delta(json!({ "tool_calls": [call] })),
        finish,
        "[DONE]"
    ]);
    let called = json!([{ "id": "c1", "function": { "index": 0, "name": "add", "arguments": { "b": 2 } } }]);

    script.answer_with("tiny", &whole);
    let answer = json_of(hive.post("/api/chat", &with(request.clone(), "stream", false)).await).await;
    assert_eq!(
        answer["message"],
        json!({ "role": "assistant", "content": "", "thinking": "hm", "tool_calls": called }),
        "{answer}"
    );
    let asked = script.last_request();
    assert_eq!(asked["tools"][0]["function"]["name"], "add", "{asked}");
    assert_eq!(asked["messages"][2]["tool_call_id"], asked["messages"][1]["tool_calls"][0]["id"], "{asked}");
    assert_eq!(asked["chat_template_kwargs"]["enable_thinking"], true, "{asked}");
    assert_eq!(asked["response_format"]["json_schema"]["schema"], json!({ "type": "object" }), "{asked}");
    assert_eq!((&asked["max_tokens"], &asked["repeat_last_n"]), (&json!(9), &json!(3)), "{asked}");

    script.answer_with("tiny", &chunks);
    let told = lines(hive.post("/api/chat", &request).await).await;
    let messages: Vec<_> = told.iter().map(|line| &line["message"]).collect();
    assert_eq!(messages[0]["thinking"], "hm", "{told:?}");
    assert_eq!(messages[1]["tool_calls"], called, "{told:?}");
    assert_eq!((&told[2]["done"], &told[2]["eval_count"]), (&json!(true), &json!(2)), "{told:?}");
    script.answer_with("tiny", &json!([chunks[0]]));
    let broken = lines(hive.post("/api/chat", &request).await).await;
    assert!(
        broken[broken.len() - 1]["error"].is_string(),
        "one that breaks off never looks complete: {broken:?}"
    );

    let raw = json!({ "model": "tiny", "prompt": "Once", "raw": true });
    script.answer_with(
        "tiny",
        &json!({ "usage": usage, "choices": [{ "index": 0, "text": " upon", "finish_reason": "stop" }] }),
    );
    let answer = json_of(hive.post("/api/generate", &with(raw.clone(), "stream", false)).await).await;
    assert_eq!((&answer["response"], &answer["done_reason"]), (&json!(" upon"), &json!("stop")), "{answer}");
    assert_eq!(script.last_request()["prompt"], "Once");
    let piece = json!({ "choices": [{ "index": 0, "text": " upon" }] });
    script.answer_with("tiny", &json!([piece, "[DONE]"]));
    let (end, text) = answer_of(&lines(hive.post("/api/generate", &raw).await).await, "/response");
    assert_eq!((&end["done"], text.as_str()), (&json!(true), " upon"));

    let rows = json!([{ "index": 1, "embedding": [0.0, 1.0] }, { "index": 0, "embedding": [3.0, 4.0] }]);
    script.answer_with("tiny", &json!({ "data": rows, "usage": { "prompt_tokens": 4 } }));
    let embed = json!({ "model": "tiny", "input": ["a", "b"] });
    let answer = json_of(hive.post("/api/embed", &embed).await).await;
    assert_eq!(answer["embeddings"], json!([[3.0, 4.0], [0.0, 1.0]]), "{answer}");
    assert_eq!((&answer["model"], &answer["prompt_eval_count"]), (&json!("tiny"), &json!(4)));
    let single = hive.post("/api/embeddings", &json!({ "model": "tiny", "prompt": "a" })).await;
    assert_eq!(json_of(single).await, json!({ "embedding": [3.0, 4.0] }));
    for (status, code) in [(413, "invalid_request"), (507, "worker_error")] {
        script.answer_with("tiny", &json!({ "error": { "code": status, "message": "too much" } }));
        let answer = hive.post("/api/embed", &embed).await;
        assert_eq!(answer.status(), status);
        let told: Value = answer.json().await.expect("JSON");
        assert_eq!((&told["code"], &told["error"]), (&json!(code), &json!("too much")), "{told}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn num_ctx_replaces_a_worker_only_by_one_with_more() {
    let hive = TestHive::start().await;
    write_endless_model(&hive.models_dir(), "long");
    let with_context = |tokens: u64| {
        let options = json!({ "num_ctx": tokens, "num_predict": 1 });
        with(with(chat("long"), "options", options), "stream", false)
    };
    let mut seen = Vec::new();
    for tokens in [16_384, 1_024, 16_384, 20_000, 8_192] {
        json_of(hive.post("/api/chat", &with_context(tokens)).await).await;
        let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
        assert_eq!(workers.as_array().map(Vec::len), Some(1), "{workers}");
        seen.push((workers[0]["pid"].clone(), workers[0]["context_length"].as_u64().expect("a number")));
    }
    let contexts: Vec<_> = seen.iter().map(|(_, context)| *context).collect();
    assert_eq!(contexts, [16_384, 16_384, 16_384, 20_000, 20_000]);
    assert!(seen[0].0 == seen[2].0 && seen[2].0 != seen[3].0 && seen[3].0 == seen[4].0, "{seen:?}");

    // Nobody waits for more than the model was trained for.
    write_model(&hive.models_dir(), "short");
    let more = with(with(chat("short"), "options", json!({ "num_ctx": 100_000 })), "stream", false);
    let jobs = async || {
        let jobs: Value = hive.get("/v1/jobs?operation=model_load").await.json().await.expect("JSON");
        jobs["jobs"].as_array().expect("jobs").len()
    };
    let before = jobs().await;
    for _ in 0..2 {
        json_of(hive.post("/api/chat", &more).await).await;
        assert_eq!(jobs().await, before + 1);
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn num_ctx_goes_to_the_worker_that_has_it() {
    let hive = TestHive::start().await;
    write_endless_model(&hive.models_dir(), "long");
    let mut pids = Vec::new();
    for context in [1_024, 4_096] {
        let spawn = json!({ "model": "long", "worker": "builtin", "context_length": context });
        pids.push(hive.succeed(&json!({ "WorkerSpawn": spawn })).await["pid"].clone());
    }
    for _ in 0..3 {
        let options = json!({ "num_ctx": 2_048, "num_predict": 1 });
        json_of(hive.post("/api/chat", &with(with(chat("long"), "options", options), "stream", false)).await)
            .await;
    }
    let workers = hive.succeed(&json!({ "WorkerProcessList": {} })).await;
    let requests = pids.iter().map(|pid| {
        let worker = workers.as_array().and_then(|all| all.iter().find(|worker| worker["pid"] == *pid));
        worker.map(|worker| worker["requests"].clone())
    });
    assert_eq!(requests.collect::<Vec<_>>(), [Some(json!(0)), Some(json!(3))], "{workers}");
    hive.stop().await;
}

/// Puts a model into a store of Ollama's. Returns its file.
pub(crate) fn put_into_store(store: &Path, name: &str, layers: &[(&str, &[u8])]) -> PathBuf {
    std::fs::create_dir_all(store.join("blobs")).expect("a folder");
    let blob = |contents: &[u8]| store.join(format!("blobs/sha256-{}", hex(&Sha256::digest(contents))));
    let layer = |(kind, contents): &(&str, &[u8])| {
        std::fs::write(blob(contents), contents).expect("a blob");
        json!({ "mediaType": format!("application/vnd.ollama.image.{kind}"), "size": contents.len(),
                "digest": format!("sha256:{}", hex(&Sha256::digest(contents))) })
    };
    let manifest = json!({ "schemaVersion": 2, "layers": layers.iter().map(layer).collect::<Vec<_>>() });
    let path = store.join("manifests/registry.ollama.ai").join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, manifest.to_string()).expect("a manifest");
    blob(layers[0].1)
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_ollamas_own_store_are_used_in_place() {
    let (made, dir) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let bytes = std::fs::read(write_model(made.path(), "m")).expect("a model");
    let other = std::fs::read(write_model(made.path(), "other")).expect("a model");
    let store = dir.path().join("ollama");
    let blob = put_into_store(
        &store,
        "library/small/135m",
        &[("model", &bytes), ("projector", &projector()), ("template", b"{{ .Prompt }}")],
    );
    let imported = put_into_store(&dir.path().join("second"), "user/own/latest", &[("model", &other)]);
    let hive = TestHive::start_with(|config| config.models_dirs.push(store.clone())).await;
    let model = hive.succeed(&json!({ "ModelGet": { "id": "small:135m" } })).await;
    assert_eq!((&model["name"], &model["source"]), (&json!("small-135m"), &json!("ollama:small:135m")));
    assert_eq!(model["sha256"], hex(&Sha256::digest(&bytes)));
    assert_eq!((&model["path"], &model["left_out"]), (&json!(blob), &json!(["template"])));
    assert!(model["projector"].is_string(), "{model}");
    let whole = with(chat("small:135m"), "stream", false);
    assert_eq!(json_of(hive.post("/api/chat", &whole).await).await["message"]["content"], SENTENCE);
    hive.succeed(&json!({ "ModelUnload": { "id": "small:135m" } })).await;
    for force in [false, true] {
        let failure = hive.fail(&json!({ "ModelDelete": { "id": "small:135m", "force": force } })).await;
        assert_eq!(failure["code"], "not_owned");
        assert!(failure["hint"].as_str().unwrap().contains("ollama rm small:135m"), "{failure}");
    }
    assert!(blob.exists());

    // One file of such a store, which has no extension, is known by its beginning and named by its manifest.
    let import = |path: &Path| json!({ "ModelDownload": { "model": format!("file:{}", path.display()) } });
    assert_eq!(hive.succeed(&import(&imported)).await["id"], "user-own-latest");
    let nameless = made.path().join("model.bin");
    std::fs::copy(made.path().join("m.gguf"), &nameless).expect("a copy");
    assert_eq!(hive.succeed(&import(&nameless)).await["id"], "model.bin");
    let failure = hive.fail(&json!({ "ModelDownload": { "model": format!("file:{}", store.join("manifests/registry.ollama.ai/library/small/135m").display()) } })).await;
    assert_eq!(failure["code"], "source_unsupported", "{failure}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_listener_stands_in_ollamas_place() {
    let dir = folder();
    let daemon = Daemon::start(dir.path(), &["--ollama-listen", "127.0.0.1:0"]).await;
    let file = std::fs::read(dir.path().join("data/hive.json")).expect("hive.json");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    let (url, ollama) = (file["url"].as_str().expect("a URL"), file["ollama_url"].as_str().expect("a URL"));
    assert_ne!(url, ollama);
    let client = crate::support::client();
    let get = async |url: String| soon(&url, client.get(&url).send()).await.expect("an answer");
    let root = get(format!("{ollama}/")).await;
    assert_eq!(root.text().await.expect("text"), "Ollama is running");
    let head = soon("its head", client.head(ollama).send()).await.expect("an answer");
    assert_eq!(head.status(), 200);
    assert!(
        get(format!("{url}/")).await.text().await.expect("text").contains("<html"),
        "the page is at its own"
    );
    for route in ["/api/version", "/v1/models", "/health"] {
        assert_eq!(get(format!("{ollama}{route}")).await.status(), 200, "{route}");
    }
    let evil = client.get(format!("{ollama}/api/tags")).header("origin", "https://evil.example");
    assert_eq!(
        soon("an answer", evil.send()).await.expect("an answer").status(),
        403,
        "the same access rules"
    );

    let taken = ollama.strip_prefix("http://").expect("an address").to_owned();
    let other = folder();
    let (status, said) = Daemon::refuse(serve(other.path(), &["--ollama-listen", &taken])).await;
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(
        said.contains(&format!("process {}", daemon.pid())) && said.contains("--ollama-listen"),
        "{said}"
    );
    daemon.stop().await;
}
