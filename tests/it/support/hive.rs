//! The daemon in the test's own process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rbee_hive::app::AppState;
use rbee_hive::config::{Config, LlamaServer};
use rbee_hive::daemon::{self, Hive};
use rbee_hive::narration;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{executable, soon};

/// A running hive. Every test must end with [`TestHive::stop`], which checks that no job and no child process
/// is left, and that every narration reached its job.
pub(crate) struct TestHive {
    pub(crate) app: AppState,
    pub(crate) client: Client,
    pub(crate) url: String,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
    dir: TempDir,
}

/// Settings with short timers, independent of the machine that runs the tests.
pub(crate) fn quick(dir: &Path) -> Config {
    let mut config = Config {
        port: 0,
        data_dir: dir.join("data"),
        models_dirs: vec![dir.join("models")],
        // None: the machine's own cache must not matter.
        hub_cache: Some(PathBuf::new()),
        worker_program: Some(executable()),
        ..Config::default()
    };
    // Nor the machine's token, nor the network: nothing listens at these addresses.
    config.hub.endpoint = Some(super::nowhere());
    config.hub.token_file = Some(PathBuf::new());
    config.hub.offline = Some(false);
    config.ollama.endpoint = super::nowhere();
    config.engine_builds.releases = format!("{}/releases", super::nowhere());
    // The built-in engine is tested, whatever else the machine has.
    config.llama_server.enabled = false;
    // A fleet is made by tests of fleets alone.
    config.fleet.server = Some(PathBuf::from("/nonexistent/nats-server"));
    // No worker outlives a test that is killed.
    config.workers.lifeline = true;
    // On a busy machine a healthy connection is silent for long: no test's connection is stalled
    // unless the test says so.
    config.timers.stall = super::PATIENCE.into();
    config.timers.cancel_grace = Duration::from_millis(200).into();
    config.timers.stop_grace = Duration::from_secs(5).into();
    config.timers.progress = Duration::from_millis(20).into();
    config.timers.retry = Duration::from_millis(5).into();
    config.timers.retry_after = Duration::from_millis(100).into();
    config.timers.telemetry = Duration::from_millis(100).into();
    config.timers.drain = Duration::from_secs(1).into();
    config
}

impl TestHive {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with the [`quick`] settings, changed by `change`.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), change).await
    }

    /// Starts on a folder that an earlier hive may have used.
    pub(crate) async fn start_in(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = quick(dir.path());
        std::fs::create_dir_all(&config.models_dirs[0]).expect("a folder for models");
        change(&mut config);
        let listener = daemon::bind(&config).await.expect("a free port");
        let hive = Hive::open(listener, config).expect("a hive");
        let (app, url, stop) = (hive.app().clone(), hive.url(), CancellationToken::new());
        let stopped = stop.clone();
        let running = rbee_hive::spawn::detached(async move {
            hive.run(stopped.cancelled_owned()).await.expect("a clean run");
        });
        Self { app, client: super::client(), url, stop, running: Some(running), dir }
    }

    /// Starts with the real llama-server that the environment names; `None` where it names none.
    pub(crate) async fn with_llama_server(tune: impl FnOnce(&mut LlamaServer)) -> Option<Self> {
        let program = super::llama_server()?;
        let hive = Self::start_with(|config| {
            config.llama_server.enabled = true;
            config.llama_server.program = Some(PathBuf::from(program));
            tune(&mut config.llama_server);
        });
        Some(hive.await)
    }

    pub(crate) fn models_dir(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    /// Its TCP address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.app.address.tcp().expect("it serves over TCP")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        soon(path, self.client.get(format!("{}{path}", self.url)).send()).await.expect("an answer")
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        soon(path, self.client.delete(format!("{}{path}", self.url)).send()).await.expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        soon(path, self.client.post(format!("{}{path}", self.url)).json(body).send())
            .await
            .expect("an answer")
    }

    /// Submits an operation and gives the job's id.
    pub(crate) async fn submit(&self, operation: &Value) -> String {
        let response = self.post("/v1/jobs", operation).await;
        let status = response.status();
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(status, 201, "{operation} was refused: {body}");
        body["job_id"].as_str().expect("a job_id").to_owned()
    }

    /// The plain stream of a job, to its end.
    pub(crate) async fn stream(&self, job_id: &str) -> String {
        let response = self.get(&format!("/v1/jobs/{job_id}/stream")).await;
        assert_eq!(response.status(), 200);
        super::read_all(response).await
    }

    /// The typed stream of a job, to its end.
    pub(crate) async fn typed_stream(&self, job_id: &str) -> String {
        let response = self.get(&format!("/v1/jobs/{job_id}/stream?format=json")).await;
        assert_eq!(response.status(), 200);
        super::read_all(response).await
    }

    /// Submits an operation and gives its plain stream.
    pub(crate) async fn run(&self, operation: &Value) -> String {
        let id = self.submit(operation).await;
        self.stream(&id).await
    }

    /// Runs an operation that must succeed and gives its result.
    pub(crate) async fn succeed(&self, operation: &Value) -> Value {
        let stream = self.run(operation).await;
        let lines = super::data_lines(&stream);
        assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{operation}:\n{stream}");
        serde_json::from_str(&lines[lines.len() - 2]).expect("a result line before the end")
    }

    /// Runs an operation that must fail and gives its failure.
    pub(crate) async fn fail(&self, operation: &Value) -> Value {
        let id = self.submit(operation).await;
        let stream = self.stream(&id).await;
        let last = super::data_lines(&stream).pop().unwrap_or_default();
        assert!(last.starts_with("[ERROR] "), "{operation}:\n{stream}");
        self.job(&id).await["failure"].clone()
    }

    /// `GET /v1/jobs/{id}`
    pub(crate) async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await.json().await.expect("JSON")
    }

    /// What is in memory.
    pub(crate) async fn residency(&self) -> Value {
        self.succeed(&json!({ "ResidencyGet": {} })).await
    }

    /// Loads a model and gives its worker.
    pub(crate) async fn load(&self, id: &str) -> Value {
        self.succeed(&json!({ "ModelLoad": { "id": id } })).await
    }

    /// Stops the hive, checks that nothing is left, and gives back the folder.
    pub(crate) async fn stop(mut self) -> TempDir {
        let pids: Vec<u32> = self.app.workers.list().iter().map(|worker| worker.pid).collect();
        assert_eq!(narration::outside_jobs(), 0, "a narration was made outside its job");
        self.stop.cancel();
        let running = self.running.take().expect("it is stopped once");
        soon("the hive to stop", running).await.expect("the hive did not panic");
        assert!(self.app.jobs.running().is_empty(), "no job outlives the hive");
        for pid in pids {
            assert!(!super::process_exists(pid), "worker {pid} outlived the hive");
        }
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temporary folder"))
    }
}

impl Drop for TestHive {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.running.is_some() && !std::thread::panicking() {
            panic!("stop() the hive at the end of the test");
        }
    }
}
