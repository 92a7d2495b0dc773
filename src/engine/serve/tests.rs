//! Complete workers in this process, with sample models.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower::ServiceExt;

mod texts;
mod tools;

use super::*;
use crate::engine::sample_model::{SampleModel, SampleTokenizer, SampleWeights};
use crate::engine::tokenizer::Tokenizer;
use crate::models::gguf::{Arrays, Header};

/// The time limit of every wait, far above what the slowest machine needs.
const TIME_LIMIT: Duration = Duration::from_secs(60);

struct Worker {
    url: String,
    client: Client,
    shutdown: CancellationToken,
    served: JoinHandle<Result<()>>,
    /// A `logit_bias` that forbids every token that ends a turn, so that only a limit ends a generation.
    no_end_bias: Value,
    folder: tempfile::TempDir,
}

/// A model with random weights, small enough for debug builds.
fn random_model() -> SampleModel {
    SampleModel { embedding: 64, feed_forward: 96, layers: 1, ..SampleModel::default() }
}

/// A model that answers every prompt with this text.
fn sentence_model(text: &str) -> SampleModel {
    SampleModel { weights: SampleWeights::Sentence(text.to_owned()), ..SampleModel::default() }
}

fn client() -> Client {
    // The client needs a TLS provider even for plain HTTP. The call fails if another test has
    // installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder().no_proxy().build().unwrap()
}

impl Worker {
    async fn start(sample: SampleModel, slots: usize, secret: Option<&str>) -> Self {
        Self::start_with(sample, slots, secret, None).await
    }

    /// A worker with a chat template of the test's own.
    async fn start_with(
        sample: SampleModel,
        slots: usize,
        secret: Option<&str>,
        template: Option<&str>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.gguf");
        sample.write(&path).unwrap();
        let header = Header::read(&path, Arrays::Keep).unwrap();
        let tokenizer = Tokenizer::from_metadata(&header.metadata).unwrap();
        let end_tokens = tokenizer.end_of_generation();
        let no_end_bias =
            end_tokens.iter().map(|id| (id.to_string(), json!(-100))).collect::<serde_json::Map<_, _>>();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let chat_template = template.map(|template| {
            let path = folder.path().join("template.jinja");
            std::fs::write(&path, template).unwrap();
            path
        });
        let options = WorkerOptions { slots, chat_template, ..options(path) };
        let shutdown = CancellationToken::new();
        let served = spawn::task(serve(
            listener,
            options,
            Sandbox::none(),
            secret.map(str::to_owned),
            shutdown.clone(),
        ));
        let worker =
            Self { url, client: client(), shutdown, served, no_end_bias: no_end_bias.into(), folder };
        worker.wait_for(|health| health["status"] == "ok").await;
        worker
    }

    async fn health(&self) -> Value {
        self.client.get(format!("{}/health", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// Waits until `/health` fulfils the condition.
    async fn wait_for(&self, condition: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let health = self.health().await;
            if condition(&health) {
                return health;
            }
            assert!(start.elapsed() < TIME_LIMIT, "still {health}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn post(&self, body: &Value) -> Response {
        self.client.post(format!("{}/v1/chat/completions", self.url)).json(body).send().await.unwrap()
    }

    /// The status and the body of the answer to a request of another route.
    async fn ask(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.client.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn chat(&self, extra: Value) -> Value {
        let response = self.post(&chat_request(extra)).await;
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// The events of a stream, each without `data: `.
    async fn stream(&self, extra: Value) -> Vec<String> {
        let mut body = chat_request(extra);
        body["stream"] = true.into();
        let response = self.post(&body).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap().unwrap();
    }
}

fn options(model: PathBuf) -> WorkerOptions {
    WorkerOptions {
        model,
        model_id: None,
        chat_template: None,
        port: 0,
        report: None,
        context_length: None,
        slots: 1,
        lifeline: false,
    }
}

/// Waits for a worker's first report.
async fn report_at(path: &Path) -> Value {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < TIME_LIMIT);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn chat_request(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn text(completion: &Value) -> &str {
    completion["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn a_streamed_answer_is_the_same_as_a_complete_one() {
    for tokenizer in [SampleTokenizer::Bpe, SampleTokenizer::SentencePiece] {
        let answer = "Grüße aus 東京, 🦀 and good-bye!";
        let worker = Worker::start(SampleModel { tokenizer, ..sentence_model(answer) }, 1, None).await;
        let complete = worker.chat(json!({})).await;
        assert_eq!(text(&complete), answer);
        assert_eq!(complete["object"], "chat.completion");
        assert_eq!(complete["model"], "sample");
        assert_eq!(complete["choices"][0]["finish_reason"], "stop");
        assert!(complete["id"].as_str().unwrap().starts_with("chatcmpl-"));
        let usage = &complete["usage"];
        let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], sum);
        assert!(complete["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);

        let mut events = worker.stream(json!({"stream_options": {"include_usage": true}})).await;
        assert_eq!(events.pop().unwrap(), "[DONE]");
        let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
        assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
        let (last, rest) = chunks.split_last().unwrap();
        let (finish, rest) = rest.split_last().unwrap();
        let (first, texts) = rest.split_first().unwrap();
        assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
        assert!(texts.len() > 3, "each token has a chunk of its own");
        assert!(texts.iter().all(|chunk| chunk["usage"].is_null()));
        let joined: String =
            texts.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
        assert_eq!(joined, answer);
        assert_eq!(finish["choices"][0]["finish_reason"], "stop");
        assert_eq!(finish["choices"][0]["delta"], json!({}));
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], usage["completion_tokens"]);
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_token_limit_or_a_stop_string_ends_an_answer() {
    let worker = Worker::start(sentence_model("one two three four"), 1, None).await;
    let cut = worker.chat(json!({"max_tokens": 2})).await;
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["usage"]["completion_tokens"], 2);
    assert!("one two three four".starts_with(text(&cut)));
    let stopped = worker.chat(json!({"stop": ["wo th", "four"]})).await;
    assert_eq!((text(&stopped), &stopped["choices"][0]["finish_reason"]), ("one t", &json!("stop")));
    let streamed = worker.stream(json!({"stop": "three"})).await.concat();
    assert!(streamed.contains("two") && !streamed.contains("th"), "{streamed}");
    worker.stop().await;
}

#[tokio::test]
async fn a_full_context_ends_an_answer_and_a_longer_prompt_is_refused() {
    let sample = SampleModel { context_length: 64, ..random_model() };
    let worker = Worker::start(sample, 1, None).await;
    let full = worker.chat(json!({"logit_bias": worker.no_end_bias, "max_tokens": u64::MAX})).await;
    assert_eq!(full["choices"][0]["finish_reason"], "length");
    // The last token was chosen with a full context, and is not part of it.
    assert_eq!(full["usage"]["total_tokens"], 65);
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(200)}]});
    let response = worker.post(&chat_request(long)).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("context of 64 tokens") && message.contains("the prompt has"), "{message}");
    assert_eq!(error["error"]["code"], "context_length_exceeded");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    worker.stop().await;
}

#[tokio::test]
async fn an_answer_that_ignores_the_end_goes_on_to_its_limit() {
    let worker = Worker::start(sentence_model("one two three"), 1, None).await;
    let whole = worker.chat(json!({"ignore_eos": false, "max_tokens": 30})).await;
    assert_eq!((text(&whole), &whole["choices"][0]["finish_reason"]), ("one two three", &json!("stop")));
    let longer = worker.chat(json!({"ignore_eos": true, "max_tokens": 30})).await;
    assert_eq!(longer["choices"][0]["finish_reason"], "length", "{longer}");
    assert_eq!(longer["usage"]["completion_tokens"], 30);
    assert!(text(&longer).starts_with("one two three"), "{longer}");
    worker.stop().await;
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_slot() {
    let sample = SampleModel { context_length: 8192, ..random_model() };
    let worker = Worker::start(sample, 1, None).await;
    let endless = chat_request(json!({"stream": true, "logit_bias": worker.no_end_bias}));
    let mut running = worker.post(&endless).await.bytes_stream();
    running.next().await.unwrap().unwrap();
    worker
        .wait_for(|health| health["busy_slots"] == 1 && health["tokens_generated"].as_u64() > Some(2))
        .await;
    // A client that disconnects while it waits for a slot never gets it.
    let waiting = worker.post(&endless).await;
    worker.wait_for(|health| health["requests"] == 2).await;
    drop(waiting);
    drop(running);
    let health = worker.wait_for(|health| health["busy_slots"] == 0).await;
    assert!(health["tokens_generated"].as_u64() < Some(8000), "it ended early: {health}");
    worker.chat(json!({"max_tokens": 1})).await;

    // The same for an answer that is not streamed.
    let body = chat_request(json!({"logit_bias": worker.no_end_bias}));
    let complete = worker.client.post(format!("{}/v1/chat/completions", worker.url)).json(&body).send();
    let complete = spawn::task(complete);
    worker.wait_for(|health| health["busy_slots"] == 1).await;
    complete.abort();
    worker.wait_for(|health| health["busy_slots"] == 0).await;
    worker.stop().await;
}

#[tokio::test]
async fn concurrent_requests_get_the_same_answers_as_single_ones() {
    let worker = Worker::start(random_model(), 2, None).await;
    let request = |content: &str| {
        json!({"messages": [{"role": "user", "content": content}], "max_tokens": 200,
            "logit_bias": worker.no_end_bias})
    };
    let alone = [worker.chat(request("First")).await, worker.chat(request("Second one")).await];
    let both = async { tokio::join!(worker.chat(request("First")), worker.chat(request("Second one"))) };
    let overlap = worker.wait_for(|health| health["busy_slots"] == 2);
    let (together, _) = tokio::join!(both, overlap);
    assert_eq!(text(&together.0), text(&alone[0]));
    assert_eq!(text(&together.1), text(&alone[1]));
    assert_ne!(text(&alone[0]), text(&alone[1]));
    worker.stop().await;
}

#[tokio::test]
async fn a_prompt_that_begins_like_the_last_one_is_not_evaluated_again() {
    let worker = Worker::start(random_model(), 1, None).await;
    let first = worker.chat(json!({"max_tokens": 20})).await;
    let evaluated = worker.health().await["prompt_tokens"].as_u64().unwrap();
    assert_eq!(first["usage"]["prompt_tokens"], evaluated);
    let second = worker.chat(json!({"max_tokens": 20})).await;
    assert_eq!(text(&first), text(&second));
    assert_eq!(second["usage"]["prompt_tokens_details"]["cached_tokens"], evaluated - 1);
    assert_eq!(worker.health().await["prompt_tokens"], evaluated + 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_seed_makes_an_answer_repeatable() {
    let worker = Worker::start(random_model(), 1, None).await;
    let draw = |seed| json!({"temperature": 2, "top_k": 0, "min_p": 0, "seed": seed, "max_tokens": 12});
    let first = worker.chat(draw(1)).await;
    assert_eq!(text(&first), text(&worker.chat(draw(1)).await));
    assert_ne!(text(&first), text(&worker.chat(draw(2)).await));
    worker.stop().await;
}

#[tokio::test]
async fn an_answer_has_the_form_that_the_request_asks_for() {
    let worker = Worker::start(random_model(), 1, None).await;
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
                        "required": ["city", "sure"], "additionalProperties": false});
    let wanted =
        json!({"type": "json_schema", "json_schema": {"name": "c", "strict": true, "schema": schema}});
    for temperature in [0, 1] {
        let request = json!({"temperature": temperature, "seed": 3, "response_format": wanted});
        let answer = worker.chat(request.clone()).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        let value: Value = serde_json::from_str(text(&answer)).unwrap();
        assert!(value["sure"].is_boolean() && ["Paris", "Rome"].contains(&value["city"].as_str().unwrap()));
        let events = worker.stream(request).await;
        let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
        let streamed: String = chunks
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(streamed, text(&answer));
    }
    let cut = worker.chat(json!({"response_format": {"type": "json_object"}, "max_tokens": 1})).await;
    assert_eq!((text(&cut), &cut["choices"][0]["finish_reason"]), ("{", &json!("length")));
    let impossible = json!({"response_format": {"type": "json_object", "schema": {"not": {}}}});
    let response = worker.post(&chat_request(impossible)).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["param"], "response_format", "{error}");
    worker.stop().await;
}

#[tokio::test]
async fn invalid_requests_get_errors_in_openais_shape() {
    let worker = Worker::start(sentence_model("ok"), 1, Some("s3cret")).await;
    let url = |path: &str| format!("{}{path}", worker.url);
    let completions = url("/v1/chat/completions");
    let with_secret = |request: reqwest::RequestBuilder| request.bearer_auth("s3cret");
    let valid = chat_request(json!({}));
    let post = || worker.client.post(&completions);
    for (request, status, code) in [
        (worker.client.get(url("/v1/models")), 401, "unauthorized"),
        (post().json(&valid), 401, "unauthorized"),
        (post().json(&valid).bearer_auth("wrong"), 401, "unauthorized"),
        (with_secret(post().body(valid.to_string())), 415, "unsupported_media_type"),
        (with_secret(post().json(&valid)).header("host", "evil.example"), 403, "host_refused"),
        // How large a body may be is for the hive to say.
        (with_secret(post().json(&"x".repeat(65 << 20))), 400, "invalid_field"),
        (with_secret(post().json(&chat_request(json!({"temperature": -1})))), 400, "invalid_field"),
        (with_secret(worker.client.get(&completions)), 405, "method_not_allowed"),
        (with_secret(worker.client.get(url("/v1/nothing"))), 404, "route_not_found"),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{code}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], code, "{error}");
        assert!(!error.to_string().contains("s3cret"));
    }
    let answer: Value = with_secret(post().json(&valid)).send().await.unwrap().json().await.unwrap();
    assert_eq!(text(&answer), "ok");
    let models: Value =
        with_secret(worker.client.get(url("/v1/models"))).send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "sample");
    worker.stop().await;
}

#[tokio::test]
async fn a_stopping_worker_ends_open_streams_with_an_error() {
    let sample = SampleModel { context_length: 8192, ..random_model() };
    let worker = Worker::start(sample, 1, None).await;
    let endless = chat_request(json!({"stream": true, "logit_bias": worker.no_end_bias}));
    let response = worker.post(&endless).await;
    worker.wait_for(|health| health["tokens_generated"].as_u64() > Some(2)).await;
    worker.shutdown.cancel();
    let body = response.text().await.unwrap();
    let last = body.trim_end().rsplit("\n\n").next().unwrap().strip_prefix("data: ").unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "shutting_down");
    worker.stop().await;
}

#[tokio::test]
async fn a_loading_worker_reports_its_progress() {
    let state = Arc::new(WorkerState::new(None));
    state.total_bytes.store(4096, std::sync::atomic::Ordering::Relaxed);
    let router = routes::router(state);
    let send = |request: http::request::Builder, body: Body| {
        let request = request.header("host", "localhost").header("content-type", "application/json");
        router.clone().oneshot(request.body(body).unwrap())
    };
    let health = send(Request::get("/health"), Body::empty()).await.unwrap();
    assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = axum::body::to_bytes(health.into_body(), 4096).await.unwrap();
    let health: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(health, json!({"status": "loading", "progress": {"done": 0, "total": 4096, "unit": "bytes"}}));
    let chat = send(Request::post("/v1/chat/completions"), Body::from(chat_request(json!({})).to_string()));
    let chat = chat.await.unwrap();
    assert_eq!(chat.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(chat.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn the_report_has_the_port_or_the_failure() {
    let worker = Worker::start(sentence_model("ok"), 1, None).await;
    let model = worker.folder.path().join("sample.gguf");
    let path = worker.folder.path().join("report.json");
    let shutdown = CancellationToken::new();
    let with_report = |model: PathBuf| WorkerOptions { report: Some(path.clone()), ..options(model) };
    let served = spawn::task(run_with(with_report(model.clone()), Sandbox::none(), shutdown.clone()));
    let report = report_at(&path).await;
    assert_eq!(report["state"], "listening");
    assert_eq!(report["pid"], std::process::id());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let health = client().get(format!("http://127.0.0.1:{}/health", report["port"])).send().await.unwrap();
    assert!([200, 503].contains(&health.status().as_u16()));
    shutdown.cancel();
    served.await.unwrap().unwrap();

    let contents = std::fs::read(&model).unwrap();
    let broken = worker.folder.path().join("broken.gguf");
    std::fs::write(&broken, &contents[..contents.len() / 2]).unwrap();
    let failure = run_with(with_report(broken), Sandbox::none(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::ModelIncomplete);
    let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(report["state"], "failed");
    assert_eq!(report["failure"]["code"], "model_incomplete");
    assert_eq!(report["failure"]["stage"], "load");
    assert_eq!(std::fs::read_dir(worker.folder.path()).unwrap().count(), 3, "no temporary file is left");
    worker.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_its_number() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let failure = run(WorkerOptions { port, ..options("none.gguf".into()) }, CancellationToken::new()).await;
    let failure = failure.unwrap_err();
    assert_eq!(failure.code, Code::PortInUse);
    assert!(failure.message.contains(&port.to_string()));
}

/// The environment variable with the folder of the worker that the last test starts.
const CHILD_FOLDER: &str = "RBEE_TEST_CHILD_FOLDER";

#[tokio::test]
#[ignore = "the body of the worker process that the next test starts"]
async fn worker_process_with_a_lifeline() {
    let folder = PathBuf::from(std::env::var_os(CHILD_FOLDER).unwrap());
    let report = Some(folder.join("report.json"));
    let options = WorkerOptions { lifeline: true, report, ..options(folder.join("sample.gguf")) };
    run_with(options, Sandbox::none(), CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn a_worker_ends_when_its_lifeline_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    random_model().write(&folder.path().join("sample.gguf")).unwrap();
    let mut child = spawn::command(std::env::current_exe().unwrap())
        .args(["--exact", "engine::serve::tests::worker_process_with_a_lifeline", "--ignored"])
        .env(CHILD_FOLDER, folder.path())
        .env(SECRET_VARIABLE, "s3cret")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lifeline = child.stdin.take().unwrap();
    let report = report_at(&folder.path().join("report.json")).await;
    assert_eq!(report["pid"], child.id().unwrap());
    assert!(!report.to_string().contains("s3cret"));
    let url = format!("http://127.0.0.1:{}", report["port"]);
    let refused = client().get(format!("{url}/v1/models")).send().await.unwrap();
    assert_eq!(refused.status(), 401, "the secret came from the environment");
    drop(lifeline);
    let status = tokio::time::timeout(TIME_LIMIT, child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}
