//! The log of a real hive: who asked for what (`access`), and what was done and refused (`audit`).

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Daemon, client, folder, read_until, serve, soon, until, write_model};

/// A hive whose log is the file `log` in the folder, as JSON.
async fn logging(dir: &Path, more: &[&str]) -> Daemon {
    let mut command = serve(dir, more);
    command.args(["--log-format", "json"]);
    command.stderr(std::fs::File::create(dir.join("log")).expect("a file"));
    Daemon::run(command).await
}

/// The fields of the lines of a target, with the level.
fn lines(dir: &Path, target: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(dir.join("log")).expect("the log");
    // The last one may not be whole yet.
    let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines =
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    lines
        .filter(|line| line["target"] == target)
        .map(|mut line| {
            let level = line["level"].take();
            let mut fields = line["fields"].take();
            fields["level"] = level;
            fields
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_line_without_what_its_client_wrote() {
    let dir = folder();
    let hive = logging(dir.path(), &[]).await;
    for quiet in ["/health", "/metrics", "/", "/ui/main.js"] {
        assert_eq!(hive.get(quiet).await.status(), 200, "{quiet}");
    }
    let id = hive.submit(&json!({ "ModelList": {} })).await;
    hive.stream(&id).await;
    hive.get("/v1/a-secret-of-the-client?key=a-secret-of-the-client").await;
    let body = hive.get("/v1/jobs").await.bytes().await.expect("a body").len();
    let mut events = hive.get("/v1/events").await;
    read_until(&mut events, &mut String::new(), "event: snapshot").await;
    drop(events);

    let of = |route: &str| lines(dir.path(), "access").into_iter().find(|line| line["route"] == route);
    let events = until("the line of a reader that has gone", async || of("/v1/events")).await;
    assert_eq!((&events["cut_off"], &events["status"]), (&json!(true), &json!(200)), "{events}");
    let listed = lines(dir.path(), "access")
        .into_iter()
        .find(|line| line["route"] == "/v1/jobs" && line["method"] == "GET")
        .expect("a line");
    let wanted = json!({ "message": "request", "level": "INFO", "method": "GET", "route": "/v1/jobs", "status": 200,
        "caller": "127.0.0.1", "bytes": body, "duration_ms": listed["duration_ms"] });
    assert_eq!(listed, wanted);
    let stream = of("/v1/jobs/{job_id}/stream").expect("a line");
    assert_eq!(stream["cut_off"], Value::Null, "{stream}");
    assert_eq!(of("none").expect("a line")["status"], 404);
    let mut routes: Vec<_> =
        lines(dir.path(), "access").iter().map(|line| line["route"].to_string()).collect();
    routes.sort();
    let wanted = ["/v1/events", "/v1/jobs", "/v1/jobs", "/v1/jobs/{job_id}/stream", "none"];
    assert_eq!(routes, wanted.map(|route| format!("\"{route}\"")));
    let log = std::fs::read_to_string(dir.path().join("log")).expect("the log");
    assert!(!log.contains("a-secret-of-the-client"), "{log}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_act_and_each_wrong_token_has_a_line_in_the_audit_log() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let token = dir.path().join("token");
    let secret = "a-token-of-this-test-that-is-long";
    std::fs::write(&token, secret).expect("a file");
    let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(&token, private).expect("its owner's");
    let hive = logging(dir.path(), &["--token-file", token.to_str().expect("UTF-8")]).await;
    let post = async |path: &str, token: &str, body: Value| {
        let request = client().post(format!("{}{path}", hive.url)).bearer_auth(token).json(&body);
        soon(path, request.send()).await.expect("an answer")
    };
    let chat = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hi" }] });
    assert_eq!(post("/v1/chat/completions", secret, chat).await.status(), 200);
    assert_eq!(post("/v1/jobs", secret, json!({ "ModelList": {} })).await.status(), 201);
    let unload = post("/v1/jobs", secret, json!({ "ModelUnload": { "id": "tiny" } })).await;
    let unload = unload.json::<Value>().await.expect("JSON")["job_id"].clone();
    assert_eq!(post("/v1/jobs", "another-secret", json!({ "ModelList": {} })).await.status(), 401);
    assert_eq!(hive.get("/v1/jobs").await.status(), 401, "without a token");
    assert_eq!(post("/v1/shutdown", secret, json!({})).await.status(), 200);
    hive.ended().await;

    let mut audit = lines(dir.path(), "audit");
    let loaded = audit.remove(0);
    assert_eq!(
        (&loaded["operation"], &loaded["by"]),
        (&json!("model_load"), &json!("residency")),
        "{loaded}"
    );
    assert_eq!(
        audit,
        [
            json!({ "message": "accepted an act", "level": "INFO", "operation": "model_unload", "job_id": unload,
                    "caller": "manager", "by": "api" }),
            json!({ "message": "refused a token", "level": "WARN", "caller": "127.0.0.1", "method": "POST",
                    "route": "/v1/jobs" }),
            json!({ "message": "accepted an act", "level": "INFO", "operation": "shutdown",
                    "caller": "manager", "by": "api" }),
        ]
    );
    let log = std::fs::read_to_string(dir.path().join("log")).expect("the log");
    assert!(!log.contains(secret) && !log.contains("another-secret"), "{log}");
}
