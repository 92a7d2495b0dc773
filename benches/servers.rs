//! The servers that the benches measure: the real hive, and a minimal axum server that answers the
//! same requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures::{FutureExt, Stream, StreamExt, stream};
use rbee_hive::config::{Config, Faults};
use rbee_hive::daemon;
use rbee_hive::engine::sample_model::SampleModel;
use rbee_hive::spawn;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A server that runs until it is stopped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
    _dir: Option<TempDir>,
}

impl Server {
    /// A hive with this number of models in its catalog.
    pub(crate) fn hive(runtime: &Runtime, models: usize) -> Self {
        Self::start_hive(runtime, models, Faults::default())
    }

    /// A hive whose operations never end.
    pub(crate) fn stuck_hive(runtime: &Runtime) -> Self {
        Self::start_hive(runtime, 0, Faults::new(|_| std::future::pending().boxed()))
    }

    fn start_hive(runtime: &Runtime, models: usize, faults: Faults) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let models_dir = dir.path().join("models");
        write_models(&models_dir, models);
        let mut config = Config {
            port: 0,
            data_dir: dir.path().join("data"),
            models_dirs: vec![models_dir],
            // No hub cache: the machine's own must not be measured.
            hub_cache: Some(PathBuf::new()),
            worker_program: Some(PathBuf::from(env!("CARGO_BIN_EXE_rbee-hive"))),
            faults,
            ..Config::default()
        };
        config.timers.cancel_grace = Duration::from_millis(100).into();
        config.timers.drain = Duration::from_millis(100).into();
        let stop = CancellationToken::new();
        let (address, running) = runtime.block_on(async {
            let listener = bind().await;
            let address = listener.local_addr().expect("a bound listener");
            let hive = daemon::Hive::open(listener, config).expect("a hive");
            let until = stop.clone().cancelled_owned();
            let running = spawn::detached(async move {
                hive.run(until).await.expect("a clean run");
            });
            (address, running)
        });
        Self { address, stop, running, _dir: Some(dir) }
    }

    /// A minimal axum server. One route takes a POST and returns a stream's URL, another streams three
    /// events, and the route `/idle` sends one event and then nothing.
    pub(crate) fn bare(runtime: &Runtime) -> Self {
        let app = Router::new()
            .route("/v1/jobs", post(submit))
            .route("/v1/jobs/{job_id}/stream", get(async || Sse::new(three_events())))
            .route("/idle", get(async || Sse::new(one_event_then_silence())));
        let stop = CancellationToken::new();
        let (address, running) = runtime.block_on(async {
            let listener = bind().await;
            let address = listener.local_addr().expect("a bound listener");
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("an open socket"));
            let until = stop.clone().cancelled_owned();
            // Not `with_graceful_shutdown`: it would wait for streams that never end.
            let running = spawn::detached(async move {
                tokio::select! {
                    served = axum::serve(listener, app).into_future() => served.expect("it serves"),
                    () = until => {}
                }
            });
            (address, running)
        });
        Self { address, stop, running, _dir: None }
    }

    pub(crate) fn stop(self, runtime: &Runtime) {
        self.stop.cancel();
        runtime.block_on(self.running).expect("it did not panic");
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

fn write_models(dir: &Path, count: usize) {
    std::fs::create_dir_all(dir).expect("a temporary folder");
    let path = |index: usize| dir.join(format!("sample-{index}.gguf"));
    for index in 0..count {
        // Copies, not links: the catalog lists a file once, even if it has several names.
        if index == 0 {
            SampleModel::default().write(&path(0)).expect("a small model");
        } else {
            std::fs::copy(path(0), path(index)).expect("a copy of it");
        }
    }
}

async fn submit(Json(_operation): Json<serde_json::Value>) -> (StatusCode, Json<serde_json::Value>) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = format!("job-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let sse_url = format!("/v1/jobs/{id}/stream");
    (StatusCode::CREATED, Json(serde_json::json!({ "job_id": id, "sse_url": sse_url })))
}

fn three_events() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(["Listing models on hive 'localhost'", "[]", "[DONE]"])
        .map(|text| Ok(Event::default().data(text)))
}

fn one_event_then_silence() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::once(async { Ok(Event::default().data("here")) }).chain(stream::pending())
}
