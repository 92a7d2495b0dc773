//! `GET /v1/workers/{pid}/log`: a worker's log; with `?follow=true` also what it writes from then on.

mod redact;

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use tokio_util::sync::CancellationToken;

use super::path::Parameter;
use super::problem::Problem;
use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::event_stream;
use crate::readers::Stream;
use crate::workers::log_follow::Follower;
use redact::Redactor;

/// How often a followed log is checked for new bytes.
const CHECK_EVERY: Duration = Duration::from_millis(200);
/// The most bytes of a log that is not followed, however fast its worker writes.
const MOST_BYTES: usize = 64 << 20;

/// Reads a worker's log, with the worker's secret replaced.
#[utoipa::path(
    get,
    path = "/v1/workers/{pid}/log",
    operation_id = "read_worker_log",
    tag = "Hive",
    params(
        ("pid" = u32, Path, description = "The process id of the worker."),
        ("follow" = Option<bool>, Query, description = "Follow it until the worker is gone."),
    ),
    responses((status = 200, description = "The log.", body = String, content_type = "text/plain")),
    extensions(("x-errors" = json!([Code::WorkerNotFound])))
)]
pub(crate) async fn get(
    State(app): State<AppState>,
    Parameter(pid): Parameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let pid = pid.parse().map_err(|_| {
        Failure::new(Code::InvalidRequest, "the path needs the process id of a worker, a whole number")
            .hint("WorkerProcessList lists the workers")
    })?;
    let follow = wants_to_follow(query.as_deref().unwrap_or_default())?;
    let worker = app.workers.get(pid)?;
    let redactor = Redactor::new(app.workers.secret(pid)?.expose());
    let log = Follower::new(app.workers.log(pid)?);
    let workers = app.workers.clone();
    let counted = app.readers.of(Stream::WorkerLog);
    let gone = move || {
        let _counted = &counted;
        // The process id of a worker that is gone may belong to another one.
        !workers.get(pid).is_ok_and(|now| now.worker_id == worker.worker_id && now.status.lives())
    };
    Ok(respond(log, redactor, follow.then_some(gone), app.quiet.clone()))
}

/// Whether the query asks to follow the log. Unknown parameters are ignored.
fn wants_to_follow(query: &str) -> Result<bool> {
    let value = query.split('&').find_map(|pair| match pair.split_once('=').unwrap_or((pair, "true")) {
        ("follow", value) => Some(value),
        _ => None,
    });
    match value {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(Failure::new(Code::InvalidRequest, "follow is either true or false")
            .hint("leave it out for the log as it is now")),
    }
}

/// Streams a log as plain text. A followed log ends with the last byte that its worker wrote before `gone`,
/// or when the hive stops.
fn respond<G>(log: Follower, redactor: Redactor, gone: Option<G>, stop: CancellationToken) -> Response
where
    G: Fn() -> bool + Send + 'static,
{
    let reader = Reader { log, redactor, gone, stop, read: 0, ended: false };
    let chunks = stream::unfold(reader, |mut reader| async {
        if reader.ended {
            return None;
        }
        let chunk = reader.next().await;
        Some((chunk, reader))
    });
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    let headers = [(CONTENT_TYPE, content_type), event_stream::unbuffered()];
    (headers, Body::from_stream(chunks)).into_response()
}

struct Reader<G> {
    log: Follower,
    redactor: Redactor,
    /// Whether the worker is gone, for a followed log.
    gone: Option<G>,
    stop: CancellationToken,
    /// Bytes read so far.
    read: usize,
    ended: bool,
}

impl<G: Fn() -> bool> Reader<G> {
    /// The next bytes. Sets `ended` if they are the last ones.
    async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            // Asked before the log is read, so that everything that the worker wrote is read.
            let last = self.gone.as_ref().is_none_or(|gone| gone());
            let chunk = self.log.next().await.inspect_err(|_| self.ended = true)?;
            self.read += chunk.len();
            let enough = self.gone.is_none() && self.read > MOST_BYTES;
            if enough || self.stop.is_cancelled() || (last && chunk.is_empty()) {
                self.ended = true;
                let mut rest = self.redactor.pass(&chunk);
                rest.append(&mut self.redactor.finish());
                return Ok(rest.into());
            }
            let safe = self.redactor.pass(&chunk);
            if !safe.is_empty() {
                return Ok(safe.into());
            }
            if chunk.is_empty() {
                let pause = tokio::time::sleep(CHECK_EVERY);
                self.stop.run_until_cancelled(pause).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::Router;
    use axum::routing;

    use super::*;
    use crate::config::Timers;
    use crate::http::testing::{Served, read_until, status};

    /// A worker's log and a server that streams it.
    struct Scene {
        log: tempfile::NamedTempFile,
        gone: Arc<AtomicBool>,
        stop: CancellationToken,
        served: Served,
    }

    impl Scene {
        async fn new(follow: bool) -> Self {
            let log = tempfile::NamedTempFile::new().unwrap();
            let (gone, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
            let (path, asked, stopped) = (log.path().to_owned(), gone.clone(), stop.clone());
            let handler = routing::get(move || async move {
                let gone = follow.then_some(move || asked.load(Ordering::SeqCst));
                respond(Follower::new(path), Redactor::new("hidden"), gone, stopped)
            });
            let served = Served::start(Router::new().route("/", handler), Timers::default()).await;
            Self { log, gone, stop, served }
        }

        fn write(&self, text: &str) {
            self.log.as_file().write_all(text.as_bytes()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_log_is_streamed_to_its_end_without_the_secret() {
        let scene = Scene::new(false).await;
        scene.write("all of hidden it\nhid");
        let answer = scene.served.ask("GET / HTTP/1.1\nHost: x\n", "").await;
        assert!(status(&answer) == 200 && answer.contains("all of [secret] it\n"), "{answer}");
        assert!(answer.contains("hid\r\n") && answer.contains("content-type: text/plain"), "{answer}");
        scene.served.stop().await;
    }

    #[tokio::test]
    async fn a_followed_log_ends_with_the_last_bytes_of_its_worker() {
        let scene = Scene::new(true).await;
        scene.write("first\n");
        let mut reader = scene.served.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        read_until(&mut reader, "first\n").await;
        scene.write("second\n");
        read_until(&mut reader, "second\n").await;
        scene.write("last words\n");
        scene.gone.store(true, Ordering::SeqCst);
        let rest = read_until(&mut reader, "0\r\n\r\n").await;
        assert!(rest.contains("last words\n"), "{rest}");
        scene.served.stop().await;
    }

    #[tokio::test]
    async fn a_shutdown_ends_a_followed_log() {
        let scene = Scene::new(true).await;
        scene.write("first\n");
        let mut reader = scene.served.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        read_until(&mut reader, "first\n").await;
        scene.stop.cancel();
        read_until(&mut reader, "0\r\n\r\n").await;
        scene.served.stop().await;
    }

    #[test]
    fn the_query_says_whether_to_follow() {
        for (query, follow) in [
            ("", false),
            ("follow", true),
            ("follow=true", true),
            ("x=1&follow=1", true),
            ("follow=0", false),
        ] {
            assert_eq!(wants_to_follow(query).unwrap(), follow, "{query}");
        }
        assert!(wants_to_follow("follow=maybe").is_err());
    }
}
