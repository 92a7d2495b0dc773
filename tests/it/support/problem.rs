//! Reads problems (RFC 9457).

use reqwest::Response;
use serde_json::Value;

/// The problem of an answer. Checks that it is one and has every member that all problems have.
pub(crate) async fn problem(answer: Response, status: u16, code: &str) -> Value {
    let (got, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.expect("a body");
    assert_eq!(got, status, "{text}");
    assert_eq!(headers["content-type"], "application/problem+json", "{text}");
    assert!(!text.contains("job_id"), "existing clients take it for a job: {text}");
    let problem: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()), "{text}");
    assert_eq!(problem["type"], format!("urn:rbee-hive:problem:{code}"));
    for member in ["title", "detail", "hint"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {text}");
    }
    problem
}
