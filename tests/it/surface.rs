//! Refusals of the HTTP surface, access, and the routes that are not about jobs.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use futures::FutureExt;
use rbee_hive::config::{Config, Faults};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{TestHive, problem, read_until, soon, write_model};

const TOKEN: &str = "a-token-of-many-letters";

async fn send(request: RequestBuilder) -> Response {
    soon("an answer", request.send()).await.expect("an answer")
}

/// Posts text as an operation.
async fn submit(hive: &TestHive, body: impl Into<reqwest::Body>) -> Response {
    let request = hive.client.post(format!("{}/v1/jobs", hive.url));
    send(request.header("content-type", "application/json").body(body)).await
}

fn assert_contains(problem: &Value, member: &str, words: &[&str]) {
    let text = problem[member].as_str().unwrap_or_default();
    for word in words {
        assert!(text.contains(word), "the {member} does not say {word:?}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_operation_is_refused_and_makes_no_job() {
    let hive = TestHive::start().await;
    let long_id = format!(r#"{{"ModelGet":{{"id":"{}"}}}}"#, "x".repeat(256));
    for (body, code, detail, hint) in [
        ("", "invalid_json", &["JSON"] as &[&str], ""),
        ("ModelList", "invalid_json", &["JSON"], ""),
        (r#"{"ModelList":{}"#, "invalid_json", &["JSON"], ""),
        (r#"{"ModelList":{}} {}"#, "invalid_json", &["JSON"], ""),
        (r#"["ModelList"]"#, "invalid_json", &["object"], "ModelList"),
        ("{}", "unknown_operation", &["names no operation"], "ModelList"),
        (r#"{"ModelList":{},"ModelGet":{}}"#, "unknown_operation", &["exactly one key"], ""),
        (r#"{"ModelGet":{"id":"x","id":"y"}}"#, "invalid_field", &["`id`", "twice"], "once"),
        (r#"{"ModelList":{},"ModelList":{}}"#, "invalid_field", &["`ModelList`", "twice"], "once"),
        (r#"{"ModelLoda":{}}"#, "unknown_operation", &["'ModelLoda'"], "ModelLoad"),
        (r#"{"operation":"worker_proces_list"}"#, "unknown_operation", &[], "worker_process_list"),
        (r#"{"operation":7}"#, "invalid_field", &["`operation`", "string"], "model_list"),
        (r#"{"job_id":{}}"#, "unknown_operation", &["'job id'"], ""),
        (r#"{"ModelList":7}"#, "invalid_field", &["`ModelList`", "object"], ""),
        (r#"{"ModelList":{"hive_id":7}}"#, "invalid_field", &["`hive_id`", "string"], ""),
        (r#"{"HiveCheck":{"alias":[]}}"#, "invalid_field", &["`alias`", "string"], ""),
        (r#"{"ModelList":{"job_id":7}}"#, "invalid_field", &["`job id`"], ""),
        (r#"{"ModelGet":{}}"#, "invalid_field", &["`id`", "missing"], ""),
        (r#"{"operation":"model_get","id":7}"#, "invalid_field", &["`id`", "string"], ""),
        (r#"{"ModelGet":{"id":"x","idd":"y"}}"#, "invalid_field", &["`idd`"], ""),
        (r#"{"ModelDelete":{"id":"x","force":"yes"}}"#, "invalid_field", &["`force`", "bool"], ""),
        (r#"{"ModelLoad":{"id":"x","device":"gpu"}}"#, "invalid_field", &["`device`", "cuda:0"], ""),
        (r#"{"ModelLoad":{"id":"x","device":-1}}"#, "invalid_field", &["`device`"], ""),
        (r#"{"ModelLoad":{"id":"x","context_length":-1}}"#, "invalid_field", &["`context_length`"], ""),
        (
            r#"{"ModelLoad":{"id":"x","context_length":0}}"#,
            "invalid_field",
            &["`context_length`", "nonzero"],
            "",
        ),
        (
            r#"{"WorkerSpawn":{"model":"x","worker":"cpu","slots":0}}"#,
            "invalid_field",
            &["`slots`", "nonzero"],
            "",
        ),
        (r#"{"WorkerSpawn":{"model":"x"}}"#, "invalid_field", &["`worker`", "missing"], ""),
        (r#"{"WorkerProcessGet":{"pid":"1"}}"#, "invalid_field", &["`pid`"], ""),
        (r#"{"WorkerProcessDelete":{"pid":4294967296}}"#, "invalid_field", &["`pid`"], ""),
        (
            r#"{"WorkerProcessDelete":{"pid":1,"grace_seconds":1e9}}"#,
            "invalid_field",
            &["`grace_seconds`"],
            "",
        ),
        // Ids outside the grammar, such as paths that leave a folder.
        (r#"{"ModelGet":{"id":""}}"#, "invalid_id", &["`id`", "empty"], "ModelList"),
        (
            r#"{"ModelGet":{"id":"..\\..\\etc\\passwd"}}"#,
            "invalid_id",
            &["`id`", "character 3"],
            "any script",
        ),
        (r#"{"ModelDelete":{"id":"..%2f..%2fetc"}}"#, "invalid_id", &["`id`", "'%'"], ""),
        (r#"{"ModelDelete":{"id":"x\u0000.gguf"}}"#, "invalid_id", &["`id`", "character 2"], ""),
        (r#"{"ModelLoad":{"id":"$(reboot)"}}"#, "invalid_id", &["`id`", "'$'"], ""),
        (r#"{"ModelUnload":{"id":"a b"}}"#, "invalid_id", &["`id`", "' '"], ""),
        (r#"{"ModelGet":{"id":"-rf"}}"#, "invalid_id", &["`id`", "begin with '-'"], "does not begin"),
        (&long_id, "invalid_id", &["`id`", "255"], ""),
        (r#"{"WorkerSpawn":{"model":"a;b","worker":"cpu"}}"#, "invalid_id", &["`model`", "';'"], ""),
    ] {
        let problem = problem(submit(&hive, body.to_owned()).await, 400, code).await;
        assert_contains(&problem, "detail", detail);
        assert_contains(&problem, "hint", &[hint]);
    }
    // Dots and slashes are in the grammar: an id is looked up and never used as a path.
    for id in ["../../../etc/passwd", "/etc/passwd", "./data/hive.json", "..", "~root"] {
        for operation in
            [json!({ "ModelDelete": { "id": id, "force": true } }), json!({ "ModelLoad": { "id": id } })]
        {
            assert_eq!(hive.fail(&operation).await["code"], "model_not_found", "{operation}");
        }
    }
    assert!(Path::new("/etc/passwd").exists());
    let jobs: Value = hive.get("/v1/jobs").await.json().await.expect("JSON");
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(10), "nothing refused became a job");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_must_be_declared_and_within_their_bounds() {
    let hive =
        TestHive::start_with(|config| config.timers.request_head = Duration::from_millis(300).into()).await;
    let padded = |bytes: usize| format!("{}{}", " ".repeat(bytes - 16), r#"{"ModelList":{}}"#);
    assert_eq!(submit(&hive, padded(1 << 20)).await.status(), 201, "1 MiB is accepted");
    for body in [padded((1 << 20) + 1), padded(3 << 20)] {
        let problem = problem(submit(&hive, body).await, 413, "body_too_large").await;
        assert_contains(&problem, "detail", &["1 MiB"]);
    }
    // Also without a length in the head.
    let chunks = futures::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>(vec![b' '; 512 << 10])));
    problem(submit(&hive, reqwest::Body::wrap_stream(chunks)).await, 413, "body_too_large").await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"]
    {
        let post = |path: &str| hive.client.post(format!("{}{path}", hive.url));
        let unknown = send(post("/v1/nothing").header("content-type", kind).body("{}")).await;
        problem(unknown, 404, "route_not_found").await;
        for path in ["/v1/jobs", "/v1/chat/completions", "/v1/shutdown"] {
            let request = post(path);
            let answer = send(request.header("content-type", kind).body("{}")).await;
            assert_contains(&problem(answer, 415, "unsupported_media_type").await, "detail", &[kind]);
        }
    }
    let untyped = hive.client.post(format!("{}/v1/jobs", hive.url)).body(r#"{"ModelList":{}}"#);
    let problem = problem(send(untyped).await, 415, "unsupported_media_type").await;
    assert_contains(&problem, "detail", &["no Content-Type"]);
    assert_contains(&problem, "hint", &["application/json"]);

    let slow = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let answer = raw(&hive, slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
    hive.stop().await;
}

/// Sends raw bytes and gives the whole answer.
async fn raw(hive: &TestHive, request: &str) -> String {
    let mut stream = TcpStream::connect(hive.address()).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("it takes the request");
    let mut answer = Vec::new();
    soon("the answer's end", stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_answers_to_its_own_names_alone() {
    let hive = TestHive::start_with(|config| {
        config.hive_ids = vec!["garage".to_owned(), "attic".to_owned()];
        config.allow_hosts = vec!["models.example".to_owned()];
    })
    .await;
    let list = |hive_id: &str| json!({ "ModelList": { "hive_id": hive_id } });
    let hostname = hive.app.hostname.clone();
    for name in
        ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "garage", "attic", &hostname]
    {
        assert_eq!(hive.post("/v1/jobs", &list(name)).await.status(), 201, "{name}");
    }
    let check = json!({ "HiveCheck": { "alias": "garage" } });
    assert_eq!(hive.post("/v1/jobs", &check).await.status(), 201);
    for name in ["elsewhere", "", "192.0.2.1", "localhost.example", "models.example", "garage "] {
        let refused = problem(hive.post("/v1/jobs", &list(name)).await, 404, "unknown_hive").await;
        assert_contains(&refused, "detail", &[name, "garage"]);
        assert_contains(&refused, "hint", &["--hive-id"]);
    }
    // A page may name the hive by the host that it was loaded from.
    let as_host = |host: &str, hive_id: &str| {
        hive.client.post(format!("{}/v1/jobs", hive.url)).header("Host", host).json(&list(hive_id))
    };
    for host in ["models.example", "models.example:8443", "MODELS.example"] {
        assert_eq!(send(as_host(host, "models.example")).await.status(), 201, "{host}");
    }
    problem(send(as_host("models.example", "other.example")).await, 404, "unknown_hive").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_a_key_belongs_to_one_request() {
    let hive = TestHive::start_with(|config| {
        config.faults = Faults::new(|_| std::future::pending().boxed());
        config.jobs.concurrent_acts = 1;
        config.jobs.queue = 1;
        config.timers.cancel_grace = Duration::from_millis(20).into();
    })
    .await;
    let delete = json!({ "ModelDelete": { "id": "nothing" } });
    hive.submit(&delete).await;
    hive.submit(&delete).await;
    let answer = hive.post("/v1/jobs", &delete).await;
    assert!(answer.headers().contains_key("retry-after"));
    problem(answer, 429, "queue_full").await;
    // Other classes have queues of their own.
    let keyed = |key: &str, body: Value| {
        hive.client.post(format!("{}/v1/jobs", hive.url)).header("Idempotency-Key", key).json(&body)
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = send(keyed("k", json!({ "ModelList": {} }))).await;
        assert_eq!(answer.status(), 201);
        ids.push(answer.json::<Value>().await.expect("JSON")["job_id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    problem(send(keyed("k", json!({ "HiveCheck": {} }))).await, 422, "idempotency_conflict").await;
    let long = "k".repeat(256);
    problem(send(keyed(&long, json!({ "ModelList": {} }))).await, 400, "invalid_request").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_methods_and_ids_are_problems() {
    let hive = TestHive::start().await;
    let at = |path: &str| format!("{}{path}", hive.url);
    for path in
        ["/v1", "/v1/", "/v1/nothing", "/v1/jobs/x/y", "/v1/job_id", "/v2/jobs", "/v1/workers", "/etc/passwd"]
    {
        let missing = problem(hive.get(path).await, 404, "route_not_found").await;
        // Any client of OpenAI's API may have asked.
        assert_eq!(missing["error"]["message"].is_string(), path.starts_with("/v1"), "{missing}");
        problem(hive.delete(path).await, 404, "route_not_found").await;
        problem(hive.post(path, &json!({})).await, 404, "route_not_found").await;
    }
    for (method, path) in [
        (Method::PUT, "/v1/jobs"),
        (Method::DELETE, "/v1/jobs"),
        (Method::PATCH, "/v1/jobs/job-x"),
        (Method::POST, "/v1/jobs/job-x/stream"),
        (Method::POST, "/health"),
        (Method::GET, "/v1/shutdown"),
        (Method::GET, "/v1/chat/completions"),
        (Method::DELETE, "/v1/models/x/y"),
        (Method::OPTIONS, "/v1/jobs"),
    ] {
        let answer = send(hive.client.request(method.clone(), at(path))).await;
        assert!(answer.headers().contains_key("allow"), "{method} {path}");
        let refused = problem(answer, 405, "method_not_allowed").await;
        assert_contains(&refused, "detail", &[path, method.as_str()]);
    }
    let unknown = "job-00000000-0000-0000-0000-000000000000";
    for id in [unknown, "job-x", "job_id", "..%2f..%2fetc"] {
        for path in [
            format!("/v1/jobs/{id}"),
            format!("/v1/jobs/{id}/stream"),
            format!("/v1/jobs/{id}/stream?format=json"),
        ] {
            problem(hive.get(&path).await, 404, "job_not_found").await;
        }
        problem(hive.delete(&format!("/v1/jobs/{id}")).await, 404, "job_not_found").await;
    }
    for query in ["state=lost", "limit=0", "limit=x", "cursor=x", "job_id=1"] {
        problem(hive.get(&format!("/v1/jobs?{query}")).await, 400, "invalid_request").await;
    }
    problem(hive.get("/v1/workers/1/log").await, 404, "worker_not_found").await;
    problem(hive.get("/v1/workers/one/log").await, 400, "invalid_request").await;
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_this_machine_and_its_own_pages_have_access() {
    let hive = TestHive::start_with(|config| {
        config.allow_hosts = vec!["hive.example".to_owned()];
        config.allow_origins = vec!["https://ui.example".to_owned(), "http://localhost:5173".to_owned()];
    })
    .await;
    let port = hive.app.address.port();
    let with = |path: &str, headers: &[(&str, &str)]| {
        let request = hive.client.get(format!("{}{path}", hive.url));
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:80", "hive.example", "HIVE.example.:99"] {
        assert_eq!(send(with("/health", &[("Host", host)])).await.status(), 200, "{host}");
    }
    for host in
        ["evil.example", "192.168.0.1", "0.0.0.0", "localhost.evil.example", "127.0.0.1.evil.example", "hive"]
    {
        for path in ["/health", "/v1/jobs", "/v1/nothing", "/", "/v1/models"] {
            let refused = problem(send(with(path, &[("Host", host)])).await, 403, "host_refused").await;
            assert_contains(&refused, "hint", &["--allow-host"]);
        }
    }
    for head in
        ["GET /health HTTP/1.1\r\n", "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"]
    {
        let answer = raw(&hive, &format!("{head}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"hint\""), "{answer}");
    }

    let own = format!("http://127.0.0.1:{port}");
    let answer = send(with("/v1/jobs", &[("Origin", &own)])).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let (other_port, foreign) = (format!("http://127.0.0.1:{}", port ^ 1), "https://evil.example");
    for origin in [
        "null",
        foreign,
        &other_port,
        "http://ui.example",
        "https://ui.example:444",
        "https://ui.example.evil",
    ] {
        for path in ["/health", "/v1/jobs", "/v1/events"] {
            let answer = send(with(path, &[("Origin", origin)])).await;
            assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
            let refused = problem(answer, 403, "origin_refused").await;
            assert_contains(&refused, "hint", &["--allow-origin"]);
        }
        let posted = hive.client.post(format!("{}/v1/jobs", hive.url)).header("Origin", origin);
        problem(send(posted.json(&json!({ "ModelList": {} }))).await, 403, "origin_refused").await;
    }
    for origin in ["https://ui.example", "http://localhost:5173"] {
        for path in ["/v1/jobs", "/v1/nothing"] {
            let answer = send(with(path, &[("Origin", origin)])).await;
            assert_eq!(answer.headers()["access-control-allow-origin"], origin);
            let vary: Vec<_> = answer.headers().get_all("vary").iter().collect();
            assert!(vary.iter().any(|value| *value == "Origin"), "{vary:?}");
        }
    }
    let preflight = |origin: &str| {
        hive.client
            .request(Method::OPTIONS, format!("{}/v1/jobs", hive.url))
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "content-type, last-event-id")
    };
    let answer = send(preflight("https://ui.example")).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://ui.example");
    assert_eq!(answer.headers()["vary"], "Origin");
    for (header, value) in [
        ("methods", "DELETE"),
        ("methods", "POST"),
        ("headers", "content-type"),
        ("headers", "last-event-id"),
    ] {
        let allowed = answer.headers()[&format!("access-control-allow-{header}")].to_str().expect("text");
        assert!(allowed.contains(value), "{allowed}");
    }
    problem(send(preflight("null")).await, 403, "origin_refused").await;
    problem(send(preflight(foreign)).await, 403, "origin_refused").await;
    hive.stop().await;
}

/// Writes a token file into the hive's folder.
fn token_file(config: &Config) -> PathBuf {
    let path = config.models_dirs[0].with_file_name("token");
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).expect("a file");
    writeln!(file, "{TOKEN}").expect("a token");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_the_health_check_and_the_page_needs_the_token() {
    let hive = TestHive::start_with(|config| {
        config.token_file = Some(token_file(config));
        config.timers.wrong_token = Duration::ZERO.into();
        config.allow_origins = vec!["https://ui.example".to_owned()];
    })
    .await;
    let ask = |method: Method, path: &str| hive.client.request(method, format!("{}{path}", hive.url));
    assert_eq!(hive.get("/health").await.text().await.expect("a body"), "ok");
    let routes = [
        (Method::GET, "/v1/jobs"),
        (Method::GET, "/v1/events"),
        (Method::GET, "/v1/capabilities"),
        (Method::GET, "/capabilities"),
        (Method::GET, "/v1/heartbeats/stream"),
        (Method::GET, "/v1/models"),
        (Method::GET, "/v1/nothing"),
        (Method::GET, "/metrics"),
        (Method::DELETE, "/v1/jobs/job-x"),
        (Method::POST, "/v1/session"),
        (Method::POST, "/v1/shutdown"),
        (Method::POST, "/health"),
    ];
    let wrong =
        ["Bearer wrong-token-of-letters", "Bearer", "Basic YTpi", TOKEN, "Bearer a-token-of-many-letters2"];
    for (method, path) in &routes {
        let answer = send(ask(method.clone(), path)).await;
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert_contains(&problem(answer, 401, "unauthorized").await, "hint", &["Authorization: Bearer"]);
        for wrong in wrong {
            let request = ask(method.clone(), path).header("Authorization", wrong);
            problem(send(request).await, 401, "unauthorized").await;
        }
        // The token is accepted in a header alone.
        let request = ask(method.clone(), &format!("{path}?token={TOKEN}"));
        problem(send(request).await, 401, "unauthorized").await;
    }
    let submitted =
        send(ask(Method::POST, "/v1/jobs").bearer_auth(TOKEN).json(&json!({ "ModelList": {} }))).await;
    assert_eq!(submitted.status(), 201);
    let job = submitted.json::<Value>().await.expect("JSON")["job_id"].as_str().expect("an id").to_owned();
    assert_eq!(send(ask(Method::GET, "/v1/jobs").bearer_auth(TOKEN)).await.status(), 200);
    assert_eq!(send(ask(Method::GET, "/v1/jobs").header("X-Api-Key", TOKEN)).await.status(), 200);
    // A preflight cannot carry the token.
    let preflight = ask(Method::OPTIONS, "/v1/jobs").header("Origin", "https://ui.example");
    assert_eq!(send(preflight.header("Access-Control-Request-Method", "POST")).await.status(), 204);

    let answer = send(ask(Method::POST, "/v1/session").bearer_auth(TOKEN)).await;
    assert_eq!(answer.status(), 204);
    let set = answer.headers()["set-cookie"].to_str().expect("text").to_owned();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/v1", "Max-Age=43200"] {
        assert!(set.split("; ").any(|part| part == attribute), "{set}");
    }
    let cookie = set.split(';').next().expect("a pair").to_owned();
    assert!(cookie.starts_with("rbee_session=") && !set.contains(TOKEN), "{set}");
    let stream = format!("/v1/jobs/{job}/stream");
    for path in ["/v1/events", "/v1/heartbeats/stream", &*stream] {
        let answer = send(ask(Method::GET, path).header("Cookie", &cookie)).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
    }
    for (method, path) in &routes {
        if !["/v1/events", "/v1/heartbeats/stream"].contains(path) {
            let request = ask(method.clone(), path).header("Cookie", &cookie);
            problem(send(request).await, 401, "unauthorized").await;
        }
    }
    let act = ask(Method::POST, "/v1/jobs").header("Cookie", &cookie).json(&json!({ "ModelList": {} }));
    problem(send(act).await, 401, "unauthorized").await;
    for forged in ["rbee_session=", "rbee_session=0", &format!("rbee_session={TOKEN}")] {
        let request = ask(Method::GET, "/v1/events").header("Cookie", forged);
        problem(send(request).await, 401, "unauthorized").await;
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_a_path_of_a_proxy_the_hives_own_paths_are_told_with_it() {
    let hive = TestHive::start_with(|config| config.token_file = Some(token_file(config))).await;
    for (given, prefix) in [("/hive", "/hive"), ("/a/b/", "/a/b"), ("//evil.example", ""), ("; Path=/", "")] {
        let post = |path: &str| {
            let request = hive.client.post(format!("{}{path}", hive.url)).bearer_auth(TOKEN);
            request.header("X-Forwarded-Prefix", given)
        };
        let created = send(post("/v1/jobs").json(&json!({ "ModelList": {} }))).await;
        let location = created.headers()["location"].to_str().expect("text").to_owned();
        let job: Value = created.json().await.expect("JSON");
        assert_eq!(location, format!("{prefix}/v1/jobs/{}", job["job_id"].as_str().expect("an id")));
        let session = send(post("/v1/session")).await;
        let cookie = session.headers()["set-cookie"].to_str().expect("text").to_owned();
        assert!(cookie.split("; ").any(|part| part == format!("Path={prefix}/v1")), "{cookie}");
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_nobody_counts_as_a_user_of_this_machine() {
    type Change = fn(&mut Config);
    let open: [Change; 3] = [
        |config| config.token_file = Some(token_file(config)),
        |config| config.allow_hosts = vec!["hive.example".to_owned()],
        |config| config.public_url = Some("https://hive.example".to_owned()),
    ];
    for change in open {
        let hive = TestHive::start_with(change).await;
        std::fs::write(hive.dir().join("outside.gguf"), b"GGUF").expect("a file");
        for model in [
            format!("file:{}", hive.dir().join("outside.gguf").display()),
            format!("file:{}", hive.dir().join("nothing.gguf").display()),
            format!("http://{}/x.gguf", hive.address()),
        ] {
            let request = hive.client.post(format!("{}/v1/jobs", hive.url)).bearer_auth(TOKEN);
            let download = json!({ "ModelDownload": { "model": model } });
            let job: Value = send(request.json(&download)).await.json().await.expect("JSON");
            let stream =
                format!("{}/v1/jobs/{}/stream?format=json", hive.url, job["job_id"].as_str().expect("an id"));
            let stream =
                send(hive.client.get(stream).bearer_auth(TOKEN)).await.text().await.expect("a stream");
            assert!(stream.contains(r#""code":"source_refused""#), "{model}: {stream}");
            // It does not tell which paths exist.
            assert_eq!(stream.contains("is not a file beneath"), model.starts_with("file:"), "{stream}");
        }
        hive.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_have_the_shape_of_the_contract_at_both_paths() {
    let hive = TestHive::start().await;
    let answer = hive.get("/v1/capabilities").await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let capabilities: Value = answer.json().await.expect("JSON");
    assert_eq!(capabilities, hive.get("/capabilities").await.json::<Value>().await.expect("JSON"));
    let devices = capabilities["devices"].as_array().expect("devices");
    for device in devices {
        let keys: Vec<_> = device.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["id", "name", "device_type", "vram_gb", "compute_capability"]);
        assert!(["cpu", "gpu"].contains(&device["device_type"].as_str().expect("text")));
    }
    let cpu = devices.iter().find(|device| device["id"] == "CPU-0").expect("a processor");
    assert_eq!((&cpu["device_type"], &cpu["compute_capability"]), (&json!("cpu"), &Value::Null));
    assert!(cpu["vram_gb"].is_u64() && cpu["name"].as_str().is_some_and(|name| !name.is_empty()));
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_have_every_key_that_the_queen_reads() {
    let hive = TestHive::start_with(|config| config.hive_ids = vec!["garage".to_owned()]).await;
    write_model(&hive.models_dir(), "tiny");
    let worker = hive.load("tiny").await;
    let mut answer = hive.get("/v1/heartbeats/stream").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut seen = String::new();
    read_until(&mut answer, &mut seen, "\n\n").await;
    let mut lines = seen.lines();
    assert_eq!(lines.next(), Some("event: heartbeat"));
    let data = lines.next().and_then(|line| line.strip_prefix("data: ")).expect("data");
    let beat: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!((&beat["type"], &beat["hive_id"]), (&json!("telemetry"), &json!("garage")));
    let info = &beat["hive_info"];
    assert_eq!(info["id"], "garage");
    assert_eq!(info["hostname"], hive.app.hostname);
    assert_eq!(info["port"], hive.app.address.port());
    assert_eq!(info["operational_status"], "ready");
    assert_eq!(info["health_status"], json!({ "status": "healthy" }));
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(beat["timestamp"].as_str().is_some_and(|at| at.ends_with('Z') && at.len() == 24), "{beat}");
    assert!(beat["system"].is_object());
    let [sample] = &beat["workers"].as_array().expect("workers")[..] else { panic!("one worker: {beat}") };
    let keys: Vec<_> = sample.as_object().expect("an object").keys().map(String::as_str).collect();
    let contract = "pid group instance cpu_pct rss_mb io_r_mb_s io_w_mb_s uptime_s gpu_util_pct vram_mb \
                    total_vram_mb model";
    assert_eq!(keys, contract.split_whitespace().collect::<Vec<_>>());
    assert_eq!((&sample["pid"], &sample["model"]), (&worker["pid"], &json!("tiny")));
    assert_eq!((&sample["group"], &sample["instance"]), (&json!("llm"), &json!(worker["port"].to_string())));
    // The next one follows, and the stream ends with the hive.
    seen.clear();
    read_until(&mut answer, &mut seen, "event: heartbeat").await;
    let (_, rest) = tokio::join!(hive.stop(), soon("the stream's end", answer.text()));
    rest.expect("a clean end");
}

/// A queen on loopback that refuses the first `refusals` announcements, and reports every announcement.
struct FakeQueen {
    url: String,
    announcements: mpsc::UnboundedReceiver<Value>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl FakeQueen {
    async fn start(refusals: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, announcements) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let ready = axum::routing::post(move |axum::Json(body): axum::Json<Value>| {
            let _dropped = sender.send(body);
            let refuse = count.fetch_add(1, Ordering::SeqCst) < refusals;
            async move { if refuse { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK } }
        });
        let router = axum::Router::new().route("/v1/hive/ready", ready);
        let serving = rbee_hive::spawn::detached(axum::serve(listener, router).into_future());
        Self { url, announcements, serving }
    }

    async fn next(&mut self) -> Value {
        soon("an announcement", self.announcements.recv()).await.expect("the queen lives")
    }
}

impl Drop for FakeQueen {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hive_announces_itself_to_the_configured_queen_only() {
    let mut queen = FakeQueen::start(2).await;
    let mut stranger = FakeQueen::start(0).await;
    let hive = TestHive::start_with(|config| {
        config.queen_url = Some(queen.url.clone());
        config.hive_ids = vec!["garage".to_owned()];
        config.timers.announce = Duration::from_millis(5).into();
    })
    .await;
    let announcement = json!({ "hive_id": "garage", "hive_url": hive.url });
    for _ in 0..3 {
        assert_eq!(queen.next().await, announcement);
    }
    let discover = async |path: &str, url: &str| {
        let query = [("queen_url", url)];
        let url = Url::parse_with_params(&format!("{}{path}", hive.url), query).expect("a URL");
        let answer = send(hive.client.get(url)).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.json::<Value>().await.expect("JSON")["devices"].is_array());
    };
    for url in [
        &*stranger.url,
        "http://localhost@evil.example",
        "not a url",
        "",
        &format!("{}/elsewhere", queen.url),
    ] {
        discover("/capabilities", url).await;
    }
    // The same queen in another spelling. No announcement begins while another one runs, so this asks until
    // one arrives.
    let same = format!("{}/", queen.url.replace("http", "HTTP"));
    for path in ["/capabilities", "/v1/capabilities"] {
        let again = soon("another announcement", async {
            loop {
                discover(path, &same).await;
                if let Ok(again) = queen.announcements.try_recv() {
                    break again;
                }
            }
        })
        .await;
        assert_eq!(again, announcement);
    }
    assert!(stranger.announcements.try_recv().is_err(), "a request cannot make the hive call anybody");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_has_the_public_url() {
    let mut queen = FakeQueen::start(0).await;
    let hive = TestHive::start_with(|config| {
        config.queen_url = Some(queen.url.clone());
        config.public_url = Some("https://hive.example/path".to_owned());
    })
    .await;
    assert_eq!(
        queen.next().await,
        json!({ "hive_id": "localhost", "hive_url": "https://hive.example/path" })
    );
    hive.stop().await;
}
