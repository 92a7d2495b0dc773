//! Streams: many readers, late readers, readers that resume, readers that stop reading.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use rbee_hive::config::Faults;
use rbee_hive::n;
use rbee_hive::narration::Progress;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

use crate::support::{TestHive, data_lines, soon, typed, until};

/// A hook that narrates `lines` lines, and waits for the gate before the second half.
fn narrating(lines: usize, gate: &Arc<Semaphore>) -> Faults {
    narrating_more(lines, "", gate)
}

/// The same, with `more` at the end of each line.
fn narrating_more(lines: usize, more: &'static str, gate: &Arc<Semaphore>) -> Faults {
    let gate = Arc::clone(gate);
    Faults::new(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            for i in 0..lines {
                if i == lines / 2 {
                    gate.acquire().await.expect("the gate stays").forget();
                }
                n!("talk", "line {i} of many [DONE] {{{more}");
            }
            Ok(())
        }
        .boxed()
    })
}

fn list() -> Value {
    json!({ "ModelList": {} })
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_live_readers_and_a_late_one_see_the_same_bytes() {
    let gate = Arc::new(Semaphore::new(0));
    let hive = TestHive::start_with(|config| config.faults = narrating(2000, &gate)).await;
    let id = hive.submit(&list()).await;
    for format in ["plain", "json"] {
        let path = format!("/v1/jobs/{id}/stream?format={format}");
        let live = join_all((0..8).map(|_| hive.get(&path))).await;
        gate.add_permits(1);
        let bodies = join_all(live.into_iter().map(reqwest::Response::text)).await;
        let late = hive.get(&path).await.text().await.expect("a whole stream");
        assert!(late.contains("line 1999 of many"));
        for body in bodies {
            assert_eq!(body.expect("a whole stream"), late);
        }
    }
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_resumes_after_every_event_without_loss_or_repetition() {
    let gate = Arc::new(Semaphore::new(1));
    let hive = TestHive::start_with(|config| config.faults = narrating(40, &gate)).await;
    let id = hive.submit(&list()).await;
    let whole = typed(&hive.typed_stream(&id).await);
    assert!(whole.len() > 40);
    for (i, event) in whole.iter().enumerate() {
        assert_eq!(event.id, Some(i as u64 + 1), "ids count from 1 without a gap");
        assert_eq!(event.data["seq"], event.id.expect("an id"));
        let path = format!("{}/v1/jobs/{id}/stream?format=json&after=0", hive.url);
        let request = hive.client.get(path).header("Last-Event-ID", i + 1);
        let answer = soon("an answer", request.send()).await.expect("an answer");
        if i + 1 == whole.len() {
            assert_eq!(answer.status(), 204, "nothing is left after the terminal event");
        } else {
            assert_eq!(typed(&answer.text().await.expect("a stream")), whole[i + 1..]);
        }
    }
    let after =
        hive.get(&format!("/v1/jobs/{id}/stream?format=json&after=3")).await.text().await.expect("a stream");
    assert_eq!(typed(&after), whole[3..]);
    // Beyond the end of an ended job: the reader has seen events that a crash lost.
    let beyond = hive.get(&format!("/v1/jobs/{id}/stream?format=json&after=9999")).await;
    assert_eq!(typed(&beyond.text().await.expect("a stream")), whole[whole.len() - 1..]);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_events_are_unchanged_and_plain_ones_have_no_false_markers() {
    let gate = Arc::new(Semaphore::new(1));
    let hive = TestHive::start_with(|config| config.faults = narrating(3, &gate)).await;
    let id = hive.submit(&list()).await;
    let events = typed(&hive.typed_stream(&id).await);
    let kinds: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(kinds[kinds.len() - 2..], ["result", "done"]);
    assert!(kinds[..kinds.len() - 2].iter().all(|kind| *kind == "narration"));
    assert_eq!(events[0].data["level"], "debug", "routing narrates at debug");
    let talk = events.iter().find(|event| event.data["action"] == "talk").expect("a narration");
    assert_eq!(talk.data["message"], "line 0 of many [DONE] {", "typed data is unchanged");
    assert_eq!(talk.data["operation"], "model_list");
    let plain = data_lines(&hive.stream(&id).await);
    assert_eq!(plain[0], "line 0 of many (DONE) {");
    assert_eq!(plain.iter().filter(|line| line.contains("[DONE]")).count(), 1);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_stream_requests_are_refused() {
    let gate = Arc::new(Semaphore::new(0));
    let hive = TestHive::start_with(|config| config.faults = narrating(4, &gate)).await;
    let unknown = "/v1/jobs/job-00000000-0000-7000-8000-000000000000/stream";
    for path in [unknown, "/v1/jobs/nonsense/stream", "/v1/jobs/job-..%2f..%2fetc/stream"] {
        let answer = hive.get(path).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.json::<Value>().await.expect("JSON")["code"], "job_not_found");
    }
    let id = hive.submit(&list()).await;
    for (query, code) in [("after=9999", 400), ("after=x", 400), ("format=xml", 400)] {
        let answer = hive.get(&format!("/v1/jobs/{id}/stream?{query}")).await;
        assert_eq!(answer.status(), code, "{query}");
        assert_eq!(answer.json::<Value>().await.expect("JSON")["code"], "invalid_request");
    }
    gate.add_permits(1);
    let answer = hive.get(&format!("/v1/jobs/{id}/stream")).await;
    for (header, value) in
        [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
    {
        assert_eq!(answer.headers()[header], value);
    }
    answer.text().await.expect("a whole stream");
    hive.stop().await;
}

/// More lines of a kibibyte than the server's send buffer and a small receive buffer hold, so that the
/// server's writes stall.
const FLOOD_LINES: usize = 10_000;
const KIBIBYTE: &str = {
    const BYTES: [u8; 1024] = [b'.'; 1024];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    }
};

// On other systems a client that does not read cannot see that the server has closed the connection.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_disconnected_and_delays_no_other() {
    let gate = Arc::new(Semaphore::new(1));
    let hive = TestHive::start_with(|config| {
        config.faults = narrating_more(FLOOD_LINES, KIBIBYTE, &gate);
        config.jobs.log_events = 2 * FLOOD_LINES;
        config.jobs.log_bytes = 64 << 20;
        config.timers.write_stall = Duration::from_millis(300).into();
    })
    .await;
    let id = hive.submit(&list()).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
    let mut stalled = socket.connect(hive.address()).await.expect("a connection");
    let head = format!("GET /v1/jobs/{id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stalled.write_all(head.as_bytes()).await.expect("it is sent");
    soon("the answer to begin", stalled.readable()).await.expect("it begins");
    // It reads nothing; another reader reads to the end.
    let lines = data_lines(&hive.stream(&id).await);
    assert!(lines.len() > FLOOD_LINES);
    let client = stalled.local_addr().expect("an address");
    until("the hive to close the connection", async || {
        let sockets = procfs::net::tcp().expect("the table of sockets");
        let established = sockets.iter().any(|socket| {
            (socket.local_address, socket.remote_address) == (hive.address(), client)
                && socket.state == procfs::net::TcpState::Established
        });
        (!established).then_some(())
    })
    .await;
    // Only what the buffers held arrives.
    let mut rest = Vec::new();
    let _reset = soon("the rest", stalled.read_to_end(&mut rest)).await;
    assert!(rest.len() < FLOOD_LINES * 1024, "{} bytes arrived", rest.len());
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "it was cut off");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_bounds_a_log_drops_progress_and_reports_it() {
    let faults = Faults::new(|_| {
        async {
            for done in 0..500 {
                if done % 100 == 0 {
                    n!(warn: "talk", "warning {done}");
                }
                let progress = Progress { done, unit: "steps".into(), ..Progress::default() };
                n!(progress: progress, "talk", "step {done}");
            }
            Ok(())
        }
        .boxed()
    });
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.jobs.log_events = 100;
    })
    .await;
    let id = hive.submit(&json!({ "ModelDownload": { "model": "file:/nowhere/x.gguf" } })).await;
    hive.stream(&id).await;
    let before = typed(&hive.typed_stream(&id).await);
    let elision = before.iter().find(|event| event.event == "elision").expect("an elision");
    assert_eq!(elision.id, None);
    assert!(elision.data["count"].as_u64() >= Some(400), "{elision:?}");
    for warning in [0, 100, 200, 300, 400] {
        assert!(before.iter().any(|event| event.data["message"] == format!("warning {warning}")));
    }
    // After a restart the journal has the same events.
    let dir = hive.stop().await;
    let hive = TestHive::start_in(dir, |config| config.jobs.log_events = 100).await;
    assert_eq!(typed(&hive.typed_stream(&id).await), before);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_job_narrates_what_it_waits_for() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let faults = Faults::new(move |_| {
        let gate = Arc::clone(&opened);
        async move {
            let _waiting = rbee_hive::narration::waiting_for("the gate to open");
            gate.acquire().await.expect("the gate stays").forget();
            Ok(())
        }
        .boxed()
    });
    let hive = TestHive::start_with(|config| {
        config.faults = faults;
        config.timers.silence = Duration::from_millis(30).into();
        config.timers.keep_alive = Duration::from_millis(10).into();
    })
    .await;
    let id = hive.submit(&list()).await;
    let mut answer = hive.get(&format!("/v1/jobs/{id}/stream?format=json")).await;
    let mut seen = String::new();
    soon("the job to break its silence", async {
        while !(seen.contains("Still waiting for the gate to open") && seen.contains(": keep-alive")) {
            seen += &String::from_utf8_lossy(&answer.chunk().await.expect("a chunk").expect("it goes on"));
        }
    })
    .await;
    gate.add_permits(1);
    answer.text().await.expect("a whole stream");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_hive_begin_with_a_snapshot_and_can_be_resumed() {
    let hive = TestHive::start().await;
    let mut answer = hive.get("/v1/events").await;
    let mut seen = String::new();
    let mut read_until = async |what: &str, answer: &mut reqwest::Response| {
        soon(what, async {
            while !seen.contains(what) {
                seen +=
                    &String::from_utf8_lossy(&answer.chunk().await.expect("a chunk").expect("it goes on"));
            }
        })
        .await;
        seen.clone()
    };
    read_until("event: snapshot", &mut answer).await;
    hive.fail(&json!({ "ModelUnload": { "id": "nothing" } })).await;
    hive.run(&list()).await;
    hive.fail(&json!({ "ModelDelete": { "id": "nothing" } })).await;
    let text = read_until("model_delete\",\"kind\":\"act\",\"state\":\"failed\"", &mut answer).await;
    assert!(!text.contains("model_list"), "reads stay off the hive's events");
    read_until("event: telemetry", &mut answer).await;
    let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    drop(answer);
    // Resumed after the first event of the first job: no snapshot, and the rest in order.
    let request = hive.client.get(format!("{}/v1/events", hive.url)).header("Last-Event-ID", ids[1]);
    let mut answer = soon("an answer", request.send()).await.expect("an answer");
    let mut again = String::new();
    soon("the rest", async {
        while !ids[2..].iter().all(|id| again.contains(&format!("id: {id}\n"))) {
            again += &String::from_utf8_lossy(&answer.chunk().await.expect("a chunk").expect("it goes on"));
        }
    })
    .await;
    assert!(!again.contains("event: snapshot"));
    assert!(!again.contains(&format!("id: {}\n", ids[1])));
    // An open stream of the hive's events ends with the hive.
    let (_, rest) = tokio::join!(hive.stop(), answer.text());
    rest.expect("a clean end");
}
