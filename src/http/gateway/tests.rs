use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn;
use axum::routing::post;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::attempt::{Shown, begin};
use super::exchange::{Answerer, Upstream};
use super::output::Output;
use super::relay::relay;
use super::waits::{Intervals, Waits};
use super::whole;
use crate::config::Timers;
use crate::error::{Code, Failure};
use crate::http::body::json_bytes;
use crate::http::dialect;
use crate::http::problem::Problem;
use crate::http::testing::{Served, read_until, soon, status};
use crate::outgoing;
use crate::requests::{Ledger, Recorder};
use crate::residency::Refused;

const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Notifies when the request is no longer in flight.
struct InFlight(Arc<Notify>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A gateway in front of one worker at `url`, and a notification for each request that has ended.
async fn gateway(url: String) -> (Served, Arc<Notify>) {
    gateway_with(url, TIME_LIMIT).await
}

/// The worker at `url`, and one request in flight.
fn upstream(client: &reqwest::Client, url: &str, ended: Arc<Notify>) -> Upstream {
    let url: reqwest::Url = format!("{url}/v1/chat/completions").parse().unwrap();
    Upstream {
        by: Answerer::Worker(7),
        request: client.post(url.clone()).bearer_auth("the-secret"),
        url,
        unresponsive: Box::pin(std::future::pending()),
        guard: Box::new(InFlight(ended)),
    }
}

/// The same, with comments where the worker is silent for that long.
async fn gateway_with(url: String, silence: Duration) -> (Served, Arc<Notify>) {
    let ended = Arc::new(Notify::new());
    let client = outgoing::for_workers(TIME_LIMIT).unwrap();
    let guard = ended.clone();
    let handler = post(move |request: Request| async move {
        let body = json_bytes(request, 1 << 20, TIME_LIMIT).await?;
        let streams = String::from_utf8_lossy(&body).contains("\"stream\":true");
        let upstream = upstream(&client, &url, guard);
        let intervals = Intervals { queued: TIME_LIMIT, asked: silence, narrations: TIME_LIMIT };
        let recorder = Recorder::new(&Ledger::default(), "somebody".into());
        let waits = Waits::new(watch::channel(Shown::default()).1, false, intervals);
        let answer = async move { begin(upstream, body).await.map_err(Into::into) };
        Ok::<_, Problem>(relay(answer.boxed(), streams, waits, Output::Untouched, recorder).await)
    });
    let app = Router::new().route("/v1/chat/completions", handler).layer(from_fn(dialect::speak));
    (Served::start(app, Timers::default()).await, ended)
}

/// A worker that answers every request by `handler`.
async fn worker<H, T>(handler: H) -> Served
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    Served::start(Router::new().route("/v1/chat/completions", post(handler)), Timers::default()).await
}

fn chat(body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nCookie: private=1\r\n\
         Authorization: Bearer the-hive-token\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn chunks_pass_as_the_worker_writes_them() {
    let (chunks, receiver) = mpsc::unbounded_channel::<&str>();
    let (seen, mut heads) = mpsc::unbounded_channel::<(HeaderMap, Bytes)>();
    let stream = Arc::new(parking_lot::Mutex::new(Some(UnboundedReceiverStream::new(receiver))));
    let worker = worker(move |headers: HeaderMap, body: Bytes| async move {
        seen.send((headers, body)).unwrap();
        let chunks = stream.lock().take().unwrap().map(Ok::<_, std::io::Error>);
        ([("content-type", "text/event-stream"), ("x-private", "1")], Body::from_stream(chunks))
    })
    .await;
    let (gateway, ended) = gateway(format!("http://{}/", worker.address)).await;

    let body = r#"{ "model":"tiny",  "stream":true, "messages":[] }"#;
    let mut client = gateway.send(&chat(body)).await;
    let (headers, sent) = soon(heads.recv()).await.unwrap();
    assert_eq!(sent, body, "byte for byte");
    assert_eq!(headers["authorization"], "Bearer the-secret");
    assert!(!headers.contains_key("cookie"));

    chunks.send("data: 1\n\n").unwrap();
    let head = read_until(&mut client, "data: 1\n\n").await;
    assert_eq!(status(&head), 200);
    assert!(
        head.contains("content-type: text/event-stream") && head.contains("x-accel-buffering: no"),
        "{head}"
    );
    assert!(!head.contains("x-private"), "{head}");
    // Only now, after the client has the first chunk, is there a second one.
    chunks.send("data: [DONE]\n\n").unwrap();
    read_until(&mut client, "data: [DONE]\n\n").await;
    drop(chunks);
    soon(ended.notified()).await;
    drop(client);
    gateway.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_client_that_disconnects_ends_the_generation() {
    for answers_first in [false, true] {
        let reached = Arc::new(Notify::new());
        let cancelled = Arc::new(Notify::new());
        let (at_worker, generation) = (reached.clone(), cancelled.clone());
        let worker = worker(move || async move {
            let generation = InFlight(generation);
            at_worker.notify_one();
            if !answers_first {
                futures::future::pending::<()>().await;
            }
            let first = futures::stream::iter([Ok::<_, std::io::Error>("data: 1\n\n")]);
            let endless = first.chain(futures::stream::pending()).map(move |chunk| {
                let _held = &generation;
                chunk
            });
            ([("content-type", "text/event-stream")], Body::from_stream(endless))
        })
        .await;
        let (gateway, ended) = gateway(format!("http://{}", worker.address)).await;
        let mut client = gateway.send(&chat(r#"{"model":"tiny"}"#)).await;
        soon(reached.notified()).await;
        if answers_first {
            read_until(&mut client, "data: 1").await;
        }
        drop(client);
        soon(ended.notified()).await;
        soon(cancelled.notified()).await;
        gateway.stop().await;
        worker.stop().await;
    }
}

async fn ask(gateway: &Served, body: &str) -> String {
    let mut client = gateway.send(&chat(body)).await;
    read_until(&mut client, "\r\n\r\n{").await
}

#[tokio::test]
async fn errors_of_a_worker_pass_only_as_json() {
    let with = |kind: &'static str| [("content-type", kind), ("retry-after", "7"), ("location", "/private")];
    let worker = worker(move |body: Bytes| async move {
        let body: Value = serde_json::from_slice(&body).unwrap();
        match body["messages"].as_str() {
            Some("json") => (StatusCode::BAD_REQUEST, with("application/json"), "{\"error\":1}"),
            Some("moved") => (StatusCode::FOUND, with("application/json"), "{\"moved\":1}"),
            Some("html") => (StatusCode::OK, with("text/html"), "<b>internal</b>"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, with("text/plain"), "internal trace"),
        }
    })
    .await;
    let (gateway, _) = gateway(format!("http://{}", worker.address)).await;
    let answer = ask(&gateway, r#"{"model":"tiny","messages":"json"}"#).await;
    assert!(status(&answer) == 400 && answer.ends_with("{\"error\":1}"), "{answer}");
    assert!(answer.contains("content-length: 11") && answer.contains("retry-after: 7"), "{answer}");
    assert!(!answer.contains("private"), "{answer}");
    for messages in ["moved", "html", ""] {
        let answer = ask(&gateway, &json!({"model": "tiny", "messages": messages}).to_string()).await;
        assert!(status(&answer) == 502 && answer.contains(r#""code":"worker_error""#), "{answer}");
        for private in ["internal trace", "<b>", "{\"moved", "private"] {
            assert!(!answer.contains(private), "{answer}");
        }
    }
    gateway.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn the_client_is_told_of_a_worker_that_is_gone_or_disconnects() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let vacant = silent.local_addr().unwrap();
    let hang_up = crate::spawn::detached(async move { drop(silent.accept().await) });
    let (unreachable, ended) = gateway(format!("http://{vacant}")).await;
    let answer = ask(&unreachable, r#"{"model":"tiny"}"#).await;
    assert!(status(&answer) == 502 && answer.contains(r#""code":"worker_unreachable""#), "{answer}");
    assert!(answer.contains(r#""error":{"message":"worker 7 did not answer"#), "{answer}");
    assert!(!answer.contains(&vacant.to_string()) && !answer.contains("the-secret"), "{answer}");
    soon(ended.notified()).await;
    soon(hang_up).await.unwrap();
    unreachable.stop().await;

    let crash = Arc::new(Notify::new());
    let at_worker = crash.clone();
    let worker = worker(|| async move {
        let first = futures::stream::iter([Ok("data: 1\n\nda")]);
        let then = futures::stream::once(async move {
            at_worker.notified().await;
            Err(std::io::Error::other("crash"))
        });
        ([("content-type", "text/event-stream")], Body::from_stream(first.chain(then)))
    })
    .await;
    let (gateway, ended) = gateway(format!("http://{}", worker.address)).await;
    let mut client = gateway.send(&chat(r#"{"model":"tiny"}"#)).await;
    read_until(&mut client, "data: 1\n\nda").await;
    crash.notify_one();
    let answer = read_until(&mut client, "0\r\n\r\n").await;
    assert!(answer.contains("\n\ndata: {\"error\":{\"message\":\"worker 7 disconnected"), "{answer}");
    soon(ended.notified()).await;
    gateway.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_short_does_not_look_complete() {
    let worker = worker(|body: Bytes| async move {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let (kind, text) = match body["messages"].as_str().unwrap() {
            "no end" => ("text/event-stream", "data: {\"choices\":[]}\n\n"),
            "half an event" => ("text/event-stream", "data: {\"choi"),
            "nothing" => ("application/json", ""),
            "half" => ("application/json", "{\"choices\":[{"),
            "own error" => ("text/event-stream", "data: {\"error\":{\"message\":\"own\"}}\n\n"),
            other => panic!("{other}"),
        };
        ([("content-type", kind)], text)
    })
    .await;
    let (gateway, ended) = gateway(format!("http://{}", worker.address)).await;
    for messages in ["no end", "half an event"] {
        let body = json!({"model": "tiny", "stream": true, "messages": messages}).to_string();
        let mut client = gateway.send(&chat(&body)).await;
        let answer = read_until(&mut client, "0\r\n\r\n").await;
        assert!(
            answer.contains(
                "\n\ndata: {\"error\":{\"message\":\"worker 7 answered with a stream that breaks off"
            ),
            "{answer}"
        );
        assert!(answer.contains("worker_error") && !answer.contains("[DONE]"), "{answer}");
        soon(ended.notified()).await;
    }
    let mut client = gateway.send(&chat(r#"{"model":"tiny","stream":true,"messages":"own error"}"#)).await;
    let answer = read_until(&mut client, "0\r\n\r\n").await;
    assert_eq!(answer.matches("\"error\"").count(), 1, "{answer}");
    for messages in ["nothing", "half"] {
        let answer = ask(&gateway, &json!({"model": "tiny", "messages": messages}).to_string()).await;
        assert!(status(&answer) == 502 && answer.contains("\"code\":\"worker_error\""), "{answer}");
    }
    gateway.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_for_a_stream_gets_comments() {
    let answer = Arc::new(Notify::new());
    let at_worker = answer.clone();
    let worker = worker(move |body: Bytes| async move {
        let body: Value = serde_json::from_slice(&body).unwrap();
        // Like llama.cpp's server, it sends not even a head before the first token.
        at_worker.notified().await;
        match body["messages"].as_str() {
            Some("refused") => {
                let error = "{\"error\":{\"message\":\"too long\"}}";
                (StatusCode::BAD_REQUEST, [("content-type", "application/json")], error)
            }
            _ => (StatusCode::OK, [("content-type", "text/event-stream")], "data: 1\n\ndata: [DONE]\n\n"),
        }
    })
    .await;
    let url = format!("http://{}", worker.address);
    let (gateway, ended) = gateway_with(url, Duration::from_millis(5)).await;
    for (messages, end) in
        [("", "data: 1\n\ndata: [DONE]"), ("refused", "data: {\"error\":{\"message\":\"too long\"}}")]
    {
        let body = json!({"model": "tiny", "stream": true, "messages": messages}).to_string();
        let mut client = gateway.send(&chat(&body)).await;
        let waited = read_until(&mut client, ": waiting\n\n").await;
        assert!(status(&waited) == 200 && waited.contains("content-type: text/event-stream"), "{waited}");
        answer.notify_one();
        read_until(&mut client, end).await;
        soon(ended.notified()).await;
    }
    gateway.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_refusal_that_comes_in_pieces_reaches_a_client_that_waits() {
    let begin = Arc::new(Notify::new());
    let (pieces, receiver) = mpsc::unbounded_channel::<&str>();
    let stream = Arc::new(parking_lot::Mutex::new(Some(UnboundedReceiverStream::new(receiver))));
    let at_worker = begin.clone();
    let worker = worker(move |_: Bytes| async move {
        at_worker.notified().await;
        let pieces = stream.lock().take().unwrap().map(Ok::<_, std::io::Error>);
        (StatusCode::BAD_REQUEST, [("content-type", "application/json")], Body::from_stream(pieces))
    })
    .await;
    let url = format!("http://{}", worker.address);
    let (gateway, ended) = gateway_with(url, Duration::from_millis(5)).await;
    let mut client = gateway.send(&chat(r#"{"model":"tiny","stream":true}"#)).await;
    read_until(&mut client, ": waiting\n\n").await;
    begin.notify_one();
    pieces.send("{\"error\":{\"message\":").unwrap();
    // For each comment the gateway leaves off waiting for the rest.
    for _ in 0..3 {
        read_until(&mut client, ": waiting\n\n").await;
    }
    pieces.send("\"too long\"}}").unwrap();
    drop(pieces);
    read_until(&mut client, "data: {\"error\":{\"message\":\"too long\"}}").await;
    soon(ended.notified()).await;
    gateway.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_comment_never_stands_inside_an_event() {
    let go_on = CancellationToken::new();
    let at_worker = go_on.clone();
    let worker = worker(move |body: Bytes| async move {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let first = if body["messages"] == "half" { "data: {\"half" } else { "data: 1\n\n" };
        let rest = futures::stream::once(async move {
            at_worker.cancelled().await;
            Ok("\":1}\n\ndata: [DONE]\n\n")
        });
        let chunks = futures::stream::iter([Ok::<_, std::io::Error>(first)]).chain(rest);
        ([("content-type", "text/event-stream")], Body::from_stream(chunks))
    })
    .await;
    let (gateway, _) = gateway_with(format!("http://{}", worker.address), Duration::from_millis(5)).await;
    let mut half = gateway.send(&chat(r#"{"model":"tiny","stream":true,"messages":"half"}"#)).await;
    let mut seen = read_until(&mut half, "{\"half").await;
    // Meanwhile another client, whose stream is silent between two events, gets several.
    let mut other = gateway.send(&chat(r#"{"model":"tiny","stream":true}"#)).await;
    for _ in 0..5 {
        read_until(&mut other, ": waiting\n\n").await;
    }
    drop(other);
    go_on.cancel();
    seen += &read_until(&mut half, "[DONE]").await;
    let (_, rest) = seen.split_once("data: {\"half").unwrap();
    let (inside, _) = rest.split_once("\":1}\n\n").unwrap();
    assert!(!inside.contains("waiting"), "{seen}");
    gateway.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_kept_in_memory() {
    let worker = worker(|| async { ([("content-type", "application/json")], "{\"choices\":[]}") }).await;
    let client = outgoing::for_workers(TIME_LIMIT).unwrap();
    let read = async |limit: usize| {
        let upstream = upstream(&client, &format!("http://{}", worker.address), Arc::default());
        let mut answer = super::exchange::ask(upstream, Bytes::new()).await.unwrap();
        let read = whole::read(&mut answer, limit).await;
        read.map_err(|failed| Failure::clone(Refused::from(failed).failure()))
    };
    assert_eq!(read(14).await.unwrap(), "{\"choices\":[]}");
    let failure = read(13).await.unwrap_err();
    assert!(failure.code == Code::WorkerError && failure.message.contains("more than"), "{failure}");
    worker.stop().await;
}
