//! Tests of the supervisor against real processes: `fixtures/fake-worker.sh`, which misbehaves in every
//! way that workers do, and this test binary, which serves in place of an engine ([`fake_worker`]).

mod adoption;
mod crash;
mod endpoints;
mod engines;
mod fake_worker;
mod logs;
#[cfg(target_os = "linux")]
mod sandbox;
mod start;
mod stop;
mod telemetry;
mod trial;
mod unresponsive;

use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::process_group::gone;
use super::*;
use crate::config::{Config, Sandboxing};
use crate::engine_store::EngineStore;
use crate::error::Failure;
use crate::narration::{Entry, Narration, NarrationContext, with_narration_context};
use crate::testing::rounds;

/// Longer than anything in a test takes.
const LONG: Duration = Duration::from_secs(30);
/// The pause between two checks of a condition.
const POLL: Duration = Duration::from_millis(5);

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/workers/fixtures");

/// A supervisor of fake workers. At its end, every process that it started must be gone.
struct Hive {
    workers: Supervisor,
    store: EngineStore,
    config: Config,
    changes: broadcast::Receiver<WorkerChange>,
    folder: tempfile::TempDir,
}

impl Hive {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: folder.path().to_owned(),
            worker_program: Some(format!("{FIXTURES}/fake-worker.sh").into()),
            ..Config::default()
        };
        config.timers.progress = Duration::from_millis(20).into();
        config.workers.lifeline = true;
        // Fake workers and tests tell each other things by files elsewhere.
        config.workers.sandbox = Sandboxing::Off;
        config.llama_server.enabled = false;
        configure(&mut config);
        let store = EngineStore::open(config.engines_dir());
        let workers = Supervisor::new(&config, store.clone()).unwrap();
        let changes = workers.changes();
        Self { workers, store, config, changes, folder }
    }

    async fn start(&self, behaviour: &str) -> Result<Worker, Failure> {
        self.workers.start(request(behaviour), &CancellationToken::new()).await
    }

    /// Starts a worker that cannot become ready, and checks that no process of it remains.
    async fn fail_start(mut self, behaviour: &str) -> (Failure, Vec<Narration>) {
        let (result, narrations) = narrated(self.start(behaviour)).await;
        self.check_gone();
        (result.unwrap_err(), narrations)
    }

    async fn finish(mut self) {
        self.workers.stop_all(Duration::from_secs(5)).await;
        self.check_gone();
    }

    fn check_gone(&mut self) {
        assert!(self.workers.list().iter().all(|worker| worker.status == Status::Crashed));
        let mut pids = Vec::new();
        while let Ok(change) = self.changes.try_recv() {
            pids.push(change.worker.pid);
        }
        for pid in pids {
            assert!(gone(pid), "group {pid} is still there");
        }
    }

    /// Waits until a worker has a status.
    async fn worker_with(&self, status: Status) -> Worker {
        let mut changes = self.changes.resubscribe();
        if let Some(worker) = self.workers.list().into_iter().find(|worker| worker.status == status) {
            return worker;
        }
        change(&mut changes, |change| change.worker.status == status).await.worker
    }

    fn pids(&self) -> Vec<u32> {
        self.workers.list().iter().map(|worker| worker.pid).collect()
    }
}

/// Waits for a change that fulfils the condition.
async fn change(
    changes: &mut broadcast::Receiver<WorkerChange>,
    mut is_expected: impl FnMut(&WorkerChange) -> bool,
) -> WorkerChange {
    let expected = async {
        loop {
            let change = changes.recv().await.unwrap();
            if is_expected(&change) {
                return change;
            }
        }
    };
    tokio::time::timeout(LONG, expected).await.unwrap()
}

/// Waits until the condition holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < LONG, "waited in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Sends a signal to the leader of a worker from outside the hive.
fn signal(pid: u32, signal: rustix::process::Signal) {
    let leader = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(leader, signal).unwrap();
}

fn request(behaviour: &str) -> StartRequest {
    StartRequest {
        model_id: behaviour.to_owned(),
        model_path: std::env::current_exe().unwrap(),
        engine: "cpu".to_owned(),
        device: Device::Index(0),
        context_length: Some(512),
        ..StartRequest::default()
    }
}

/// Runs work in a job's narration context, and returns what it narrated.
async fn narrated<T>(work: impl Future<Output = T>) -> (T, Vec<Narration>) {
    let (sender, mut entries) = mpsc::unbounded_channel();
    let result = with_narration_context(NarrationContext::new("job-1".into(), "test", sender), work).await;
    let mut narrations = Vec::new();
    while let Ok(Entry::Narration(narration)) = entries.try_recv() {
        narrations.push(narration);
    }
    (result, narrations)
}

fn has_narration(narrations: &[Narration], action: &str, text: &str) -> bool {
    narrations.iter().any(|narration| narration.action == action && narration.message.contains(text))
}

/// The `done` of every progress narration.
fn progress(narrations: &[Narration]) -> Vec<u64> {
    narrations.iter().filter_map(|narration| Some(narration.progress.as_ref()?.done)).collect()
}

/// `few`, or `full` where `RBEE_HIVE_TEST_ROUNDS` asks for 20 rounds or more.
fn as_time_allows<T>(few: T, full: T) -> T {
    if rounds() >= 20 { full } else { few }
}
