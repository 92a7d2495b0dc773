//! The routes on a real socket, of a hive without workers.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::testing::{Served, read_until, soon, status};
use super::*;
use crate::address::Address;
use crate::app::App;
use crate::config::{Config, NamedToken, Role, Timers};
use crate::secret_hash::SecretHash;

/// A hive with one model that is not loaded.
struct Hive {
    served: Served,
    app: AppState,
    _folder: tempfile::TempDir,
}

impl Hive {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tiny.gguf"), b"GGUF").unwrap();
        let timers = Timers { telemetry: Duration::from_millis(20).into(), ..Timers::default() };
        let mut config = Config {
            data_dir: folder.path().join("data"),
            hub_cache: Some(PathBuf::new()),
            models_dirs: vec![folder.path().to_owned()],
            timers: timers.clone(),
            ..Config::default()
        };
        change(&mut config);
        std::fs::create_dir_all(config.store_dir()).unwrap();
        let app = App::open(config, Address::Tcp("127.0.0.1:7835".parse().unwrap())).unwrap();
        let served = Served::start(router(&app).unwrap(), timers).await;
        Self { served, app, _folder: folder }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.served.ask(&format!("GET {path} HTTP/1.1\nHost: @HERE\n"), "").await;
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status(&answer), serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
    }
}

#[tokio::test]
async fn answers_have_the_shapes_that_clients_read() {
    let hive = Hive::start().await;
    assert_eq!(hive.get("/health").await, (200, Value::String("ok".into())));
    let (_, models) = hive.get("/v1/models").await;
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&"list".into(), &"tiny".into()));
    assert_eq!(models["data"][0]["loaded"], false);
    assert_eq!(hive.get("/v1/models/tiny").await.1["object"], "model");
    for path in ["/v1/capabilities", "/capabilities?queen_url=http://evil.example"] {
        let (status, capabilities) = hive.get(path).await;
        assert_eq!((status, &capabilities["devices"][0]["device_type"]), (200, &"cpu".into()));
    }
    hive.served.stop().await;
}

/// The routes, from the page that has them all.
fn routes() -> Vec<&'static str> {
    let page = include_str!("../http.rs");
    let elsewhere = [".nest(", ".merge(", ".route_service(", ".nest_service("];
    assert!(!elsewhere.iter().any(|call| page.contains(call)), "every route is on the page by itself");
    let routes: Vec<_> = page.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1)).collect();
    assert!(routes.len() > 40, "{routes:?}");
    routes
}

#[tokio::test]
async fn every_route_asks_for_the_token_but_the_page_and_the_health_check() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a-token-of-the-test").unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let hive = Hive::start_with(|config| {
        config.token_file = Some(file.path().to_owned());
        config.timers.wrong_token = Duration::ZERO.into();
    })
    .await;
    let router = router(&hive.app).unwrap();
    for route in routes().into_iter().chain(["/nothing", "/api/nothing"]) {
        let path = route.replace(['{', '}', '*'], "");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let open = ["/", "/ui/path", "/health", "/openapi.json", "/docs", "/docs/path"];
            let is_open = ["GET", "HEAD"].contains(&method) && open.contains(&&*path);
            for (name, value) in [("cookie", "rbee_session=another"), ("authorization", "Bearer another")] {
                let request = Request::builder().method(method).uri(&path).header("host", "localhost");
                let request = request.header("content-type", "application/json").header(name, value);
                let answer = router.clone().oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap();
                assert_eq!(answer.status() != 401, is_open, "{method} {route}: {}", answer.status());
            }
        }
    }
    hive.served.stop().await;
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let hive = Hive::start().await;
    let holders = [("boss", Role::Manage), ("user", Role::Use), ("reader", Role::Read)];
    for (name, role) in holders {
        hive.app.callers.create(name, NamedToken::new(SecretHash::of(name.as_bytes()), role)).unwrap();
    }
    let router = router(&hive.app).unwrap();
    let table: Vec<_> = security::table().collect();
    assert_eq!(table.iter().map(|(route, _)| *route).collect::<Vec<_>>(), routes(), "each has a row");
    for (route, methods) in table {
        let path = route.replace(['{', '}', '*'], "");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let known = if method == "HEAD" { "GET" } else { method };
            let needed = methods.iter().find(|(name, _)| *name == known).map(|(_, role)| *role);
            for (name, role) in holders {
                if route == "/v1/shutdown" && role == Role::Manage {
                    continue;
                }
                let request = Request::builder().method(method).uri(&path).header("host", "localhost");
                let request = request.header("content-type", "application/json").header("x-api-key", name);
                // What no operation and no dialect takes, so that nothing is done.
                let answer = router.clone().oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap();
                let (status, what) = (answer.status().as_u16(), format!("{method} {route} by {name}"));
                assert_eq!(status == 403, role < needed.unwrap_or(Role::Manage), "{what}: {status}");
                assert!(status == 403 || (status == 405) == needed.is_none(), "{what}: {status}");
            }
        }
    }
    hive.served.stop().await;
}

#[tokio::test]
async fn an_unknown_resource_is_a_problem_with_a_code() {
    let hive = Hive::start().await;
    for (path, expected, code) in [
        ("/v1/nothing", 404, "route_not_found"),
        ("/v1/shutdown", 405, "method_not_allowed"),
        ("/v1/models/other", 404, "model_not_found"),
        ("/v1/workers/1/log", 404, "worker_not_found"),
        ("/v1/workers/one/log", 400, "invalid_request"),
        ("/v1/workers/%ff/log", 400, "invalid_request"),
        ("/v1/jobs/%ff", 400, "invalid_request"),
        ("/v1/jobs/%ff/stream", 400, "invalid_request"),
        ("/v1/models/%ff", 400, "invalid_request"),
    ] {
        let (status, problem) = hive.get(path).await;
        assert_eq!((status, problem["code"].as_str()), (expected, Some(code)), "{path}: {problem}");
    }
    let body = r#"{"model":"other","messages":[]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\nHost: @HERE\nContent-Type: application/json\nContent-Length: {}\n",
        body.len()
    );
    let answer = hive.served.ask(&head, body).await;
    assert_eq!(status(&answer), 404, "{answer}");
    assert!(
        answer.contains(r#""error":{"message":"model 'other' not found"#)
            && answer.contains("model_not_found"),
        "{answer}"
    );
    hive.served.stop().await;
}

/// A request with a body of `{}`, or as `more` says, that is not read.
fn with_body(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: 2\r\n\r\n{{}}")
}

#[tokio::test]
async fn the_next_request_on_a_connection_is_answered_after_every_refusal() {
    const JSON: &str = "Content-Type: application/json\r\n";
    const NEXT: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a-token-of-the-test").unwrap();
    let (open, closed) = (
        Hive::start().await,
        Hive::start_with(|config| config.token_file = Some(token.path().to_owned())).await,
    );
    let evil = format!("{JSON}Origin: https://evil.example\r\n");
    let chunked = "POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\n{}\r\n0\r\n\r\n";
    for (hive, expected, request) in [
        (&open, 404, with_body("POST /v1/nothing", JSON)),
        (&open, 404, with_body("POST /v1/nothing", "")),
        (&open, 404, chunked.to_owned()),
        (&open, 404, with_body("DELETE /v1/jobs/job-x", JSON)),
        (&open, 405, with_body("POST /health", JSON)),
        (&open, 405, with_body("PUT /v1/jobs", "")),
        (&open, 415, with_body("POST /v1/jobs", "Content-Type: text/plain\r\n")),
        (&open, 403, with_body("POST /v1/jobs", &evil)),
        (&open, 403, with_body("POST http://evil.example/v1/jobs", JSON)),
        (&open, 400, with_body("POST /v1/jobs", "Idempotency-Key: \r\nContent-Type: application/json\r\n")),
        (&open, 200, with_body("GET /health", JSON)),
        (&closed, 401, with_body("POST /v1/jobs", JSON)),
    ] {
        let mut client = hive.served.send(&format!("{request}{NEXT}")).await;
        let answers = read_until(&mut client, "\r\n\r\nok").await;
        assert_eq!(status(&answers), expected, "{request}: {answers}");
        assert!(expected == 200 || answers.contains(&format!(r#""status":{expected}"#)), "{answers}");
    }
    // A body that is not waited for: the answer says that the connection ends.
    for more in ["Content-Length: 100000000\r\n", "Expect: 100-continue\r\nContent-Length: 2\r\n"] {
        let request = format!("POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
        let mut client = open.served.send(&request).await;
        let mut answer = String::new();
        soon(client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(status(&answer), 404, "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    // Nor does a client that still sends get a reset connection in the answer's place.
    let length = 40 << 20;
    let head = format!("POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    let mut client = open.served.send(&head).await;
    soon(client.write_all(&vec![b' '; length])).await.unwrap();
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(status(&answer), 404, "{answer}");
    drop(client);
    open.served.stop().await;
    closed.served.stop().await;
}

#[tokio::test]
async fn a_slash_too_many_at_an_end_of_the_path_makes_no_difference() {
    let hive = Hive::start().await;
    for (path, code) in
        [("/v1/models/", 200), ("/health//", 200), ("//health", 200), ("/v1/models/tiny/", 200)]
    {
        assert_eq!(hive.get(path).await.0, code, "{path}");
    }
    assert_eq!(hive.get("/v1/nothing/").await.0, 404);
    for line in ["HEAD /v1/models", "HEAD /v1/events", "HEAD /", "HEAD /v1/models/tiny"] {
        let answer = hive.served.ask(&format!("{line} HTTP/1.1\nHost: @HERE\n"), "").await;
        assert!(status(&answer) == 200 && answer.ends_with("\r\n\r\n"), "{line}: {answer}");
    }
    let answer = hive.served.ask("OPTIONS /v1/models HTTP/1.1\nHost: @HERE\n", "").await;
    assert!(status(&answer) == 405 && answer.contains("allow: GET,HEAD"), "{answer}");
    hive.served.stop().await;
}

#[tokio::test]
async fn heartbeats_follow_the_telemetry_and_end_with_the_hive() {
    let hive = Hive::start().await;
    let mut reader = hive.served.send("GET /v1/heartbeats/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    for _ in 0..2 {
        read_until(&mut reader, "event: heartbeat\ndata: {\"type\":\"telemetry\",\"hive_id\":\"localhost\"")
            .await;
    }
    hive.app.quiet.cancel();
    read_until(&mut reader, "0\r\n\r\n").await;
    hive.served.stop().await;
}

#[tokio::test]
async fn a_shutdown_request_needs_no_body() {
    let hive = Hive::start().await;
    let answer = hive.served.ask("POST /v1/shutdown HTTP/1.1\nHost: @HERE\n", "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(hive.app.shutdown.is_cancelled());
    hive.served.stop().await;
}
