//! The wire contract, checked through `curl` and `jq`.

use serde_json::Value;

use crate::support::{TestHive, command, data_lines, skipped, soon, typed, write_model};

/// Every field of a model, in its order.
const MODEL_FIELDS: [&str; 17] = [
    "id",
    "name",
    "size_bytes",
    "path",
    "source",
    "revision",
    "format",
    "architecture",
    "quantization",
    "parameter_count",
    "context_length",
    "capabilities",
    "engines",
    "loaded",
    "status",
    "added_at",
    "sha256",
];

/// Runs a shell script with the hive's address as `$HIVE`; gives its standard output.
pub(crate) async fn shell(hive: &TestHive, script: &str) -> String {
    let mut command = command("sh");
    // `-q` and `--noproxy`: the settings of the user who runs the tests must not matter.
    let script = format!("set -eu; curl() {{ command curl -q -sS --noproxy '*' \"$@\"; }}; {script}");
    command.arg("-c").arg(script).env("HIVE", &hive.url);
    let output = soon("a script", command.output()).await.expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the script ended with {}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whether the tools are installed. If not, prints what is skipped; in CI, fails.
pub(crate) async fn has_tools() -> bool {
    for tool in ["curl", "jq"] {
        let found = command(tool).arg("--version").output().await;
        if !found.is_ok_and(|output| output.status.success()) {
            assert!(std::env::var_os("CI").is_none(), "{tool} is missing");
            skipped(&format!("what is written for {tool}, which is missing"));
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_list_is_byte_for_byte_that_of_the_contract() {
    if !has_tools().await {
        return;
    }
    let hive = TestHive::start().await;
    let size = std::fs::metadata(write_model(&hive.models_dir(), "tiny")).expect("a model").len();
    for body in
        [r#"{"ModelList":{"hive_id":"localhost"}}"#, r#"{"operation":"model_list","hive_id":"localhost"}"#]
    {
        let stream = shell(
            &hive,
            &format!(
                "JOB_ID=$(curl -X POST \"$HIVE/v1/jobs\" -H 'Content-Type: application/json' -d '{body}' \
                 | jq -r .job_id); curl -N \"$HIVE/v1/jobs/$JOB_ID/stream\""
            ),
        )
        .await;
        let models = serde_json::to_string(&hive.app.list_models().await.expect("models")).expect("JSON");
        assert!(
            models.starts_with(&format!(r#"[{{"id":"tiny","name":"tiny","size_bytes":{size},"#)),
            "{models}"
        );
        assert_eq!(
            stream,
            format!(
                "data: 📋 Listing models on hive 'localhost'\n\ndata: Found 1 model(s)\n\ndata: {models}\n\n\
                 data: [DONE]\n\n"
            )
        );
        let models: Vec<serde_json::Map<String, Value>> = serde_json::from_str(&models).expect("JSON");
        assert!(models[0].keys().eq(&MODEL_FIELDS), "{models:?}");
    }
    hive.stop().await;
}

/// The status line and the headers, in lower case, and the body of an answer as `curl -i` shows it.
fn parts(answer: &str) -> (String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_statuses_and_headers_of_the_contract() {
    if !has_tools().await {
        return;
    }
    let hive = TestHive::start().await;
    let post = "curl -i -X POST \"$HIVE/v1/jobs\" -d '{\"ModelList\":{}}'";
    let created = shell(&hive, &format!("{post} -H 'Content-Type: application/json'")).await;
    let (head, body) = parts(&created);
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    let id = answer["job_id"].as_str().expect("a job_id");
    assert!(head.starts_with("http/1.1 201 created\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nlocation: /v1/jobs/{id}")), "{head}");
    assert_eq!(body, format!(r#"{{"job_id":"{id}","sse_url":"/v1/jobs/{id}/stream"}}"#));
    assert_eq!(uuid::Uuid::try_parse(id.strip_prefix("job-").expect("job-")).map(|_| ()), Ok(()));

    let (head, body) = parts(&shell(&hive, &format!("curl -i -N \"$HIVE/v1/jobs/{id}/stream\"")).await);
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    for header in ["content-type: text/event-stream", "cache-control: no-cache", "x-accel-buffering: no"] {
        assert!(head.split("\r\n").any(|line| line == header), "{header} is not in {head}");
    }
    assert_eq!(data_lines(&body).len(), 4);

    // A browser's EventSource reads to the end, reconnects, and must be told to stop.
    let by_url = "jq -rn --argjson job \"$JOB\" '$job.sse_url'";
    let script = format!(
        "JOB=$(curl \"$HIVE/v1/jobs\" -H 'Content-Type: application/json' -d '{{\"ModelList\":{{}}}}'); \
         URL=$({by_url}); curl -N \"$HIVE$URL?format=json\"; printf '%s\\n' \"$URL\""
    );
    let output = shell(&hive, &script).await;
    let (stream, url) = output.trim_end().rsplit_once("\n\n").expect("a stream and a URL");
    let last = typed(&format!("{stream}\n\n")).pop().expect("an end");
    assert_eq!(last.event, "done");
    let again = format!(
        "curl -i -N -H 'Last-Event-ID: {}' \"$HIVE{url}?format=json\"",
        last.id.expect("events have ids")
    );
    let (head, body) = parts(&shell(&hive, &again).await);
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    assert_eq!(body, "");

    // A common mistake: without the header, curl sends a form.
    let (head, body) = parts(&shell(&hive, post).await);
    assert!(head.starts_with("http/1.1 415 "), "{head}");
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{head}");
    let problem: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["code"], "unsupported_media_type");
    assert!(!body.contains("job_id"));
    assert_eq!(shell(&hive, "curl \"$HIVE/health\"").await, "ok");
    hive.stop().await;
}
