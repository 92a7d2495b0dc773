//! The trace of a request, as a collector of OpenTelemetry gets it over a real socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::json;

use crate::support::{Daemon, client, folder, serve, soon, until, write_model};

/// A span, as much of it as the test looks at.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    attributes: Vec<String>,
    events: Vec<String>,
}

/// The fields of a message in protobuf's wire format (protobuf.dev, "Encoding") that have a length, by number.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = message.split_first().expect("a whole number");
            *message = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let length = match key & 7 {
            0 => {
                varint(&mut message);
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)).expect("a length"),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (field, rest) = message.split_at(length);
        message = rest;
        if key & 7 == 2 {
            fields.push((key >> 3, field));
        }
    }
    fields
}

fn each(message: &[u8], number: u64) -> Vec<&[u8]> {
    fields(message).into_iter().filter(|(field, _)| *field == number).map(|(_, field)| field).collect()
}

fn text(message: &[u8], number: u64) -> String {
    each(message, number).first().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
}

/// The spans of an `ExportTraceServiceRequest` (opentelemetry-proto, `collector/trace/v1`).
fn spans(request: &[u8]) -> Vec<Span> {
    let scopes = each(request, 1).into_iter().flat_map(|resource| each(resource, 2));
    let spans = scopes.flat_map(|scope| each(scope, 2));
    spans
        .map(|span| {
            let bytes = |number| each(span, number).first().map(|bytes| bytes.to_vec()).unwrap_or_default();
            Span {
                trace: bytes(1),
                id: bytes(2),
                parent: bytes(4),
                name: text(span, 5),
                attributes: each(span, 9).into_iter().map(|attribute| text(attribute, 1)).collect(),
                events: each(span, 11).into_iter().map(|event| text(event, 2)).collect(),
            }
        })
        .collect()
}

/// A collector. Gives its address and what it gets.
async fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let got = Arc::<Mutex<Vec<Span>>>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let take = async |State(got): State<Arc<Mutex<Vec<Span>>>>, body: Bytes| got.lock().extend(spans(&body));
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&got));
    rbee_hive::spawn::detached(async move { axum::serve(listener, router).await });
    (url, got)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_a_clients_request_through_queue_and_load_to_the_engine() {
    let dir = folder();
    write_model(&dir.path().join("models"), "tiny");
    let (url, got) = collector().await;
    let mut command = serve(dir.path(), &[]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let hive = Daemon::run(command).await;
    let chat = json!({ "model": "tiny", "stream": true, "messages": [{ "role": "user", "content": "Hi" }] });
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = client()
        .post(format!("{}/v1/chat/completions", hive.url))
        .header("traceparent", format!("00-{trace}-{parent}-01"))
        .json(&chat);
    let answer = soon("an answer", request.send()).await.expect("an answer").text().await.expect("a stream");
    assert!(answer.contains("[DONE]"), "{answer}");

    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let named = |name: &str| {
        let spans = got.lock();
        spans.iter().find(|span| span.name == name && hex(&span.trace) == trace).cloned()
    };
    let request = until("the request's span", async || named("POST /v1/chat/completions")).await;
    let [queue, job, engine] = ["queue", "model_load", "engine"]
        .map(|name| named(name).unwrap_or_else(|| panic!("{name}: {:?}", got.lock())));
    assert_eq!(hex(&request.parent), parent);
    assert_eq!((&queue.parent, &job.parent), (&request.id, &queue.id), "the load is of the wait");
    assert_eq!((&engine.parent, &engine.events), (&request.id, &vec!["first token".to_owned()]));
    for (span, attributes) in [
        (&request, &["http.route", "http.response.status_code", "caller"][..]),
        (&queue, &["model"]),
        (&job, &["operation", "outcome"]),
        (&engine, &["model", "worker", "outcome", "prompt_tokens", "completion_tokens"]),
    ] {
        for attribute in attributes {
            assert!(span.attributes.iter().any(|name| name == attribute), "no {attribute}: {span:?}");
        }
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_at_the_end() {
    let dir = folder();
    let (url, got) = collector().await;
    let mut command = serve(dir.path(), &[]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let hive = Daemon::run(command).await;
    hive.succeed(&json!({ "ModelList": {} })).await;
    assert!(got.lock().is_empty());
    hive.stop().await;
    let names: Vec<_> = got.lock().iter().map(|span| span.name.clone()).collect();
    for name in ["POST /v1/jobs", "GET /v1/jobs/{job_id}/stream", "model_list"] {
        assert!(names.iter().any(|other| other == name), "no {name}: {names:?}");
    }
}
