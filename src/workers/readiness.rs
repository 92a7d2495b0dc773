//! Watches a started worker until it is ready or its start has failed.
//!
//! An engine either reports its port in a file or is assigned one. Once the worker's own group holds
//! that port, its health route is polled. The start fails when the worker ends, when it is ended, or
//! when it makes no progress for `timers.readiness`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::handle::Handle;
use super::health::Health;
use super::load_progress::LoadProgress;
use super::log_follow::{NarratedLog, tail};
use super::report::{self, ReadinessReport};
use super::shared::Shared;
use super::socket_owner::{self, UntrustedPort};
use super::start_error::{StartError, StartErrorKind};
use super::state::{Control, LifeStage, StopReason, WorkerState};
use super::{start_failure, usage};
use crate::error::Failure;
use crate::narration::{self, WaitGuard, waiting_for};
use crate::{n, spawn};

/// The shortest and the longest pause between two checks of a worker. The pause grows with the time
/// that the start takes; it delays the moment at which a ready worker is noticed. A check takes less
/// than half a millisecond.
const CHECK_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(25));
/// How long a worker that reported its failure may take to end by itself.
const END_AFTER_REPORT: Duration = Duration::from_secs(2);
/// How long a worker whose socket is gone may take to end by itself.
const END_AFTER_CLOSE: Duration = Duration::from_millis(500);
/// The last lines of the log that go with a failure.
const TAIL_LINES: usize = 20;
/// Loads shorter than this need no progress.
const SHORT_LOAD: Duration = Duration::from_secs(1);
/// The shortest pause between two measurements of a worker's memory: each reads every process.
const MEMORY_CHECK_PAUSE: Duration = Duration::from_millis(250);
/// So much more memory, in bytes, counts as progress.
const MEMORY_STEP: u64 = 4 << 20;

/// A worker that is not ready yet. Dropping it ends the worker.
pub(super) struct Starting {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    log: NarratedLog,
    /// Whether dropping the value ends the worker.
    stop_on_drop: bool,
    /// When it last made progress.
    progressed_at: Instant,
    progress: LoadProgress,
    /// The most memory that it was seen to hold, in bytes.
    held_bytes: u64,
    /// When that was last measured.
    memory_checked: Option<Instant>,
    /// Why it last did not answer.
    last_error: Option<anyhow::Error>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.stop_on_drop {
            self.request_stop();
        }
    }
}

impl Starting {
    pub(super) fn new(shared: Arc<Shared>, handle: Arc<Handle>) -> Self {
        let log = NarratedLog::new(
            handle.folder.log(),
            handle.engine.log_level,
            &handle.engine.name,
            handle.secret.clone(),
        );
        Self {
            shared,
            handle,
            log,
            stop_on_drop: true,
            progressed_at: Instant::now(),
            progress: LoadProgress::default(),
            held_bytes: 0,
            memory_checked: None,
            last_error: None,
        }
    }

    /// Waits until the worker is ready.
    pub(super) async fn until_ready(&mut self) -> Result<(), StartError> {
        let pid = self.handle.pid;
        let mut wait = waiting_for(format!("worker {pid} to report where it listens"));
        loop {
            let read = self.log.position();
            self.log.narrate_new().await;
            // An engine that is assigned its port reports no progress in its health route.
            if self.handle.assigned_port().is_some() {
                if self.log.position() != read {
                    self.progressed_at = Instant::now();
                }
                self.check_progress().await;
            }
            if self.handle.state.borrow().end.is_some() {
                return Err(self.ended_early().await);
            }
            match (self.handle.url(), self.handle.assigned_port()) {
                (None, None) => self.check_report(&mut wait).await?,
                (None, Some(port)) => self.check_assigned_port(port, &mut wait).await?,
                (Some(url), _) => {
                    if self.answers_ready(&url).await {
                        return self.open().await;
                    }
                }
            }
            let limit = *self.shared.timers.readiness;
            if self.progressed_at.elapsed() >= limit {
                return Err(start_failure::timed_out(&self.handle, limit, self.last_error.as_ref()));
            }
            tokio::select! {
                () = sleep((self.handle.uptime() / 20).clamp(CHECK_PAUSE.0, CHECK_PAUSE.1)) => {}
                _ = self.handle.ended() => {}
            }
        }
    }

    /// Narrates the progress in the worker's log or, where the log has none, the memory that the worker
    /// holds.
    async fn check_progress(&mut self) {
        let (pid, interval) = (self.handle.pid, *self.shared.timers.progress);
        if let Some(progress) = self.log.progress() {
            self.progress.report(pid, progress, interval);
            return;
        }
        if self.handle.uptime() < SHORT_LOAD
            || self.memory_checked.is_some_and(|at| at.elapsed() < interval.max(MEMORY_CHECK_PAUSE))
        {
            return;
        }
        self.memory_checked = Some(Instant::now());
        let Ok(usage) = spawn::blocking(move || usage::memory_of(pid)).await else { return };
        let held = usage.held_bytes();
        if held >= self.held_bytes.saturating_add(MEMORY_STEP) {
            self.held_bytes = held;
            self.progressed_at = Instant::now();
            self.progress.report_memory(pid, held, self.handle.expected_bytes());
        }
    }

    /// Reads the worker's report, if it has written one.
    async fn check_report(&mut self, wait: &mut WaitGuard) -> Result<(), StartError> {
        match self.read_report().await? {
            None => Ok(()),
            Some(ReadinessReport::Failed { failure }) => Err(self.reported(failure).await),
            Some(ReadinessReport::Listening { port }) => match self.verify_port(port).await {
                Ok(()) => {
                    self.listens(port, wait).await;
                    Ok(())
                }
                Err(problem) => Err(self.untrusted_report(port, &problem).await),
            },
        }
    }

    /// Checks whether the worker listens on the port that it was assigned.
    async fn check_assigned_port(&mut self, port: u16, wait: &mut WaitGuard) -> Result<(), StartError> {
        let mut verified = self.verify_port(port).await;
        if !matches!(verified, Ok(()) | Err(UntrustedPort::NoListener)) {
            // The sockets are read first and their holders second. A worker that ends in between holds
            // none of them, and its end is the reason; otherwise a second check decides.
            if timeout(END_AFTER_CLOSE, self.handle.ended()).await.is_ok() {
                return Err(self.ended_early().await);
            }
            verified = self.verify_port(port).await;
        }
        match verified {
            Ok(()) => self.listens(port, wait).await,
            Err(UntrustedPort::NoListener) => {}
            Err(UntrustedPort::OtherProcess) => {
                return Err(start_failure::assigned_port_taken(&self.handle, port));
            }
            Err(UntrustedPort::Other(problem)) => {
                return Err(start_failure::misused_port(&self.handle, port, &problem));
            }
        }
        Ok(())
    }

    /// Checks that the worker's own group holds a port.
    async fn verify_port(&self, port: u16) -> Result<(), UntrustedPort> {
        let pid = self.handle.pid;
        let verified = spawn::blocking(move || socket_owner::verify(pid, port)).await;
        verified.unwrap_or_else(|failure| Err(UntrustedPort::Other(failure.message)))
    }

    /// Notes that the worker listens on its own port.
    async fn listens(&mut self, port: u16, wait: &mut WaitGuard) {
        let pid = self.handle.pid;
        self.control_and_wait(Control::Listening(port), |state| state.port.is_some()).await;
        n!("worker_listen", "Worker {pid} listens on 127.0.0.1:{port} and loads the model");
        *wait = waiting_for(format!("worker {pid} to load the model"));
        self.progressed_at = Instant::now();
    }

    /// Why the worker's own group does not hold the port that it reported. A worker that fails early
    /// may close its socket during the check: then its report or its end tells why.
    async fn untrusted_report(&mut self, port: u16, problem: &UntrustedPort) -> StartError {
        let ended = timeout(END_AFTER_CLOSE, self.handle.ended()).await.is_ok();
        match self.read_report().await {
            Ok(Some(ReadinessReport::Failed { failure })) => self.reported(failure).await,
            _ if ended => self.ended_early().await,
            _ => start_failure::untrusted_report(&self.handle, port, &problem.to_string()),
        }
    }

    async fn read_report(&self) -> Result<Option<ReadinessReport>, StartError> {
        let path = self.handle.folder.report();
        let read = spawn::blocking(move || report::read(&path)).await?;
        read.map_err(|error| start_failure::unreadable_report(&self.handle, &error))
    }

    /// Asks the worker for its health; returns whether it is ready.
    async fn answers_ready(&mut self, url: &str) -> bool {
        let handle = Arc::clone(&self.handle);
        let answer = tokio::select! {
            answer = self.shared.client.health(url, &handle.engine.health_route) => answer,
            _ = handle.ended() => return false,
        };
        match answer {
            Ok(Health::Ready(counters)) => {
                self.handle.measurements.lock().count(counters, &self.handle.request);
                return true;
            }
            Ok(Health::Loading(progress)) => {
                self.last_error = None;
                let interval = *self.shared.timers.progress;
                if progress.is_some_and(|progress| self.progress.report(handle.pid, progress, interval)) {
                    self.progressed_at = Instant::now();
                }
            }
            Err(error) => self.last_error = Some(error),
        }
        false
    }

    /// Makes the owner open the worker for requests.
    async fn open(&mut self) -> Result<(), StartError> {
        self.log.finish().await;
        let state = self.control_and_wait(Control::Ready, |state| state.stage >= LifeStage::Ready).await;
        if state.stage == LifeStage::Ready { Ok(()) } else { Err(self.ended_early().await) }
    }

    /// Sends a control to the owner, and waits until the owner has acted on it or the worker has ended.
    async fn control_and_wait(&self, control: Control, acted: impl Fn(&WorkerState) -> bool) -> WorkerState {
        let mut states = self.handle.state.subscribe();
        self.handle.control(control);
        let seen = states.wait_for(|state| acted(state) || state.end.is_some()).await.map(|state| *state);
        // The sender lives as long as the handle.
        seen.unwrap_or_else(|_| *self.handle.state.borrow())
    }

    /// The worker's own report of its failure, with how its process ended.
    async fn reported(&self, failure: Failure) -> StartError {
        // Not stopped yet, because its exit code tells more than the signal of a stop.
        let end = timeout(END_AFTER_REPORT, self.handle.ended()).await.ok();
        start_failure::reported(&self.handle, failure, end)
    }

    /// Why the worker ended before it was ready.
    async fn ended_early(&mut self) -> StartError {
        let end = self.handle.ended().await;
        if self.handle.stage() == LifeStage::Stopped {
            return start_failure::stopped(&self.handle);
        }
        // The worker may have written its report after the last check.
        if let Ok(Some(ReadinessReport::Failed { failure })) = self.read_report().await {
            return self.reported(failure).await;
        }
        start_failure::ended_early(&self.handle, end.exit, &self.tail().await)
    }

    /// The last lines of its log.
    async fn tail(&self) -> Vec<String> {
        let (log, secret) = (self.handle.folder.log(), self.handle.secret.clone());
        spawn::blocking(move || tail(&log, TAIL_LINES, &secret)).await.unwrap_or_default()
    }

    /// The error of a start that its caller cancelled.
    pub(super) fn cancelled(&self) -> StartError {
        start_failure::cancelled(&self.handle)
    }

    /// Hands over the worker, which is ready: dropping this value no longer ends it.
    pub(super) fn release(mut self) -> Arc<Handle> {
        self.stop_on_drop = false;
        Arc::clone(&self.handle)
    }

    /// Ends the worker, and adds the end of its log to the error.
    pub(super) async fn abandon(mut self, mut error: StartError) -> StartError {
        let pid = self.handle.pid;
        if self.handle.state.borrow().end.is_none() {
            n!("worker_stop", "Stopping the half-started worker {pid}");
            self.request_stop();
        }
        let _wait = waiting_for(format!("worker {pid} to end"));
        let end = self.handle.ended().await;
        self.stop_on_drop = false;
        self.log.finish().await;
        match end.remains.sentence(pid) {
            None => n!("worker_gone", "Nothing is left of worker {pid}"),
            Some(remains) => n!(warn: "worker_gone", "{remains}"),
        }
        if error.kind != StartErrorKind::Cancelled {
            self.keep_log().await;
            if error.failure.log_tail.is_empty() {
                error.failure.log_tail = self.tail().await;
            }
        }
        error
    }

    fn request_stop(&self) {
        self.handle
            .control(Control::Stop { grace: self.shared.abandon_grace(), reason: StopReason::FailedStart });
    }

    /// Keeps the log of this start with its job, because the worker's folder is removed earlier.
    async fn keep_log(&self) {
        // A restart belongs to no job.
        let Some(job) = narration::current_job() else { return };
        let target = self.shared.jobs_dir.join(format!("{job}.{}.log", self.handle.worker_id));
        let (folder, path) = (self.handle.folder.clone(), target.clone());
        match spawn::blocking(move || folder.keep_log(&path)).await {
            Ok(Ok(())) => n!("worker_log", "The log of this attempt is kept: {}", target.display()),
            Ok(Err(error)) => tracing::warn!(path = %target.display(), %error, "could not keep a log"),
            Err(failure) => {
                tracing::error!(%failure, detail = ?failure.detail, "could not keep a log");
            }
        }
    }
}
