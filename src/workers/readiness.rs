//! A started worker on its way to being ready, and the ways in which it may not get there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::causes;
use super::exit::Exit;
use super::handle::{Control, Handle, Reason, Stage, State};
use super::health::Health;
use super::load_progress::LoadProgress;
use super::log_follow::{NarratedLog, tail};
use super::process::{End, oom_kills};
use super::report::{self, Report};
use super::socket_owner::{self, Doubt};
use super::supervisor::Shared;
use super::usage;
use crate::error::{Code, Failure, Result};
use crate::narration::{self, WaitGuard, waiting_for};
use crate::{n, spawn};

/// A worker that is not ready is looked at so often: often at first, less so the longer it takes. What
/// a look is late by, the worker is later than it could be; a look takes less than half a millisecond.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(25));
/// A worker that is not ready has nothing to finish: it gets at most so long to end.
pub(super) const ABANDON_GRACE: Duration = Duration::from_secs(2);
/// A worker that has reported its failure is about to end by itself; it gets so long.
const END_AFTER_REPORT: Duration = Duration::from_secs(2);
/// A worker whose socket is not there any more is likely to be ending; it gets so long.
const END_AFTER_CLOSE: Duration = Duration::from_millis(500);
/// The last lines of the log that go with a failure.
const TAIL_LINES: usize = 20;
/// What is loaded in this time needs no progress.
const SHORT_LOAD: Duration = Duration::from_secs(1);
/// The memory that a worker holds is looked at no more often than this: it takes a look at every process.
const HELD_LOOKS: Duration = Duration::from_millis(250);
/// So much more memory, in bytes, is a step forward.
const HELD_STEP: u64 = 4 << 20;

/// A worker on its way to being ready. Dropped before that, it has the worker ended.
pub(super) struct Starting {
    shared: Arc<Shared>,
    pub(super) handle: Arc<Handle>,
    log: NarratedLog,
    armed: bool,
    /// When it last came forward.
    moved: Instant,
    loading: LoadProgress,
    /// The most memory that it was seen to hold, in bytes, and when that was last looked at.
    held: u64,
    looked: Option<Instant>,
    /// Why it last did not say how it is.
    unanswered: Option<anyhow::Error>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.armed {
            self.handle.control(Control::Stop {
                grace: ABANDON_GRACE.min(*self.shared.timers.stop_grace),
                reason: Reason::Load,
            });
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
            armed: true,
            moved: Instant::now(),
            loading: LoadProgress::default(),
            held: 0,
            looked: None,
            unanswered: None,
        }
    }

    /// Looks at the worker again and again: at its log, whether it lives, and at what it says.
    pub(super) async fn until_ready(&mut self) -> Result<()> {
        let pid = self.handle.pid;
        let mut wait = waiting_for(format!("worker {pid} to report where it listens"));
        loop {
            let read = self.log.position();
            self.log.turn().await;
            // The signs of life of an engine whose health route does not tell how far it has come.
            if self.handle.probed.is_some() {
                if self.log.position() != read {
                    self.moved = Instant::now();
                }
                self.look_at_progress().await;
            }
            if self.handle.state.borrow().end.is_some() {
                return Err(self.ended_early().await);
            }
            match self.handle.url() {
                None => match self.handle.probed {
                    None => self.look_at_report(&mut wait).await?,
                    Some(port) => self.look_at_port(port, &mut wait).await?,
                },
                Some(url) => {
                    if self.ask(&url).await {
                        return self.confirm().await;
                    }
                }
            }
            if self.moved.elapsed() >= *self.shared.timers.readiness {
                return Err(self.timed_out());
            }
            tokio::select! {
                () = sleep((self.handle.uptime() / 20).clamp(LOOKS.0, LOOKS.1)) => {}
                _ = self.handle.ended() => {}
            }
        }
    }

    /// Looks how far an engine has come that does not say so itself: by its log, else by the memory that
    /// it has taken.
    async fn look_at_progress(&mut self) {
        let (pid, interval) = (self.handle.pid, *self.shared.timers.progress);
        if let Some(progress) = self.log.progress() {
            self.loading.take(pid, progress, interval);
            return;
        }
        if self.handle.uptime() < SHORT_LOAD
            || self.looked.is_some_and(|at| at.elapsed() < interval.max(HELD_LOOKS))
        {
            return;
        }
        self.looked = Some(Instant::now());
        let Ok((rss, vram)) = spawn::blocking(move || usage::held_bytes(pid)).await else { return };
        let held = rss.saturating_add(vram.unwrap_or(0));
        if held >= self.held.saturating_add(HELD_STEP) {
            self.held = held;
            self.moved = Instant::now();
            self.loading.held(pid, held, self.handle.needs_bytes);
        }
    }

    async fn look_at_report(&mut self, wait: &mut WaitGuard) -> Result<()> {
        match self.report().await? {
            None => Ok(()),
            Some(Report::Failed { failure }) => Err(self.reported(failure).await),
            Some(Report::Listening { port }) => match self.owner_of(port).await {
                Ok(()) => {
                    self.listens(port, wait).await;
                    Ok(())
                }
                Err(what) => Err(self.unverified(port, &what.to_string()).await),
            },
        }
    }

    /// Looks whether the worker listens on the port that it was given.
    async fn look_at_port(&mut self, port: u16, wait: &mut WaitGuard) -> Result<()> {
        let pid = self.handle.pid;
        let mut owner = self.owner_of(port).await;
        if !matches!(owner, Ok(()) | Err(Doubt::Nobody)) {
            // The sockets and who holds them are looked at one after the other, and a worker that ends in
            // between holds none: then its end says why. Otherwise a second look tells.
            if tokio::time::timeout(END_AFTER_CLOSE, self.handle.ended()).await.is_ok() {
                return Err(self.ended_early().await);
            }
            owner = self.owner_of(port).await;
        }
        match owner {
            Ok(()) => self.listens(port, wait).await,
            Err(Doubt::Nobody) => {}
            Err(Doubt::Stranger) => {
                return Err(Failure {
                    code: Code::PortInUse,
                    ..self.failed(format!(
                        "port {port}, which worker {pid} was given, was taken by another process"
                    ))
                });
            }
            Err(Doubt::Other(what)) => {
                return Err(self
                    .failed(format!("port {port}, which worker {pid} was given, {what}"))
                    .hint("an engine must listen on 127.0.0.1 alone: look at its arguments"));
            }
        }
        Ok(())
    }

    /// Checks who holds a port.
    async fn owner_of(&self, port: u16) -> Result<(), Doubt> {
        let pid = self.handle.pid;
        let verified = spawn::blocking(move || socket_owner::verify(pid, port)).await;
        verified.unwrap_or_else(|error| Err(Doubt::Other(error.to_string())))
    }

    async fn listens(&mut self, port: u16, wait: &mut WaitGuard) {
        let pid = self.handle.pid;
        self.tell(Control::Listening(port), |state| state.port.is_some()).await;
        n!("worker_listen", "Worker {pid} listens on 127.0.0.1:{port} and loads the model");
        *wait = waiting_for(format!("worker {pid} to load the model"));
        self.moved = Instant::now();
    }

    /// Why the socket that the worker reported is not its own. One that fails early closes it while
    /// it is being looked at: then its own words, or its end, say why.
    async fn unverified(&mut self, port: u16, what: &str) -> Failure {
        let ended = tokio::time::timeout(END_AFTER_CLOSE, self.handle.ended()).await.is_ok();
        match self.report().await {
            Ok(Some(Report::Failed { failure })) => self.reported(failure).await,
            _ if ended => self.ended_early().await,
            _ => self
                .failed(format!("port {port}, which worker {} reported, {what}", self.handle.pid))
                .hint("see whether another program serves on that port, then try again"),
        }
    }

    async fn report(&self) -> Result<Option<Report>> {
        let path = self.handle.folder.report();
        match spawn::blocking(move || report::read(&path)).await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) => Err(self
                .failed(format!("the report of worker {} could not be read: {error}", self.handle.pid))
                .hint("this is a defect of the engine: its log says more")),
            Err(error) => Err(Failure::internal("could not read a worker's report").detail(error)),
        }
    }

    /// Asks the worker how it is; tells whether it is ready.
    async fn ask(&mut self, url: &str) -> bool {
        let handle = Arc::clone(&self.handle);
        let answer = tokio::select! {
            answer = self.shared.client.ask(url, &handle.engine.health_route) => answer,
            _ = handle.ended() => return false,
        };
        match answer {
            Ok(Health::Ready(mut counters)) => {
                counters.slots = counters.slots.max(self.handle.request.slots.unwrap_or(1));
                self.handle.measures.lock().counters = counters;
                return true;
            }
            Ok(Health::Loading(progress)) => {
                self.unanswered = None;
                let interval = *self.shared.timers.progress;
                if progress.is_some_and(|progress| self.loading.take(handle.pid, progress, interval)) {
                    self.moved = Instant::now();
                }
            }
            Err(error) => self.unanswered = Some(error),
        }
        false
    }

    /// Has the owner open the worker for requests.
    async fn confirm(&mut self) -> Result<()> {
        self.log.finish().await;
        let state = self.tell(Control::Ready, |state| state.stage >= Stage::Ready).await;
        if state.stage == Stage::Ready { Ok(()) } else { Err(self.ended_early().await) }
    }

    /// Tells the owner, and waits until it has acted or the worker has ended.
    async fn tell(&self, control: Control, acted: impl Fn(&State) -> bool) -> State {
        let mut states = self.handle.state.subscribe();
        self.handle.control(control);
        let seen = states.wait_for(|state| acted(state) || state.end.is_some()).await.map(|state| *state);
        // The sender lives as long as the handle does.
        seen.unwrap_or_else(|_| *self.handle.state.borrow())
    }

    /// A failure of this worker at the stage that it has reached.
    fn failed(&self, message: String) -> Failure {
        let stage = if self.handle.url().is_some() { "load" } else { "start" };
        Failure::new(Code::WorkerFailed, message).stage(stage)
    }

    pub(super) fn cancelled(&self) -> Failure {
        Failure {
            code: Code::Cancelled,
            ..self.failed(format!("cancelled while worker {} started", self.handle.pid))
        }
    }

    fn timed_out(&self) -> Failure {
        let (pid, limit) = (self.handle.pid, self.shared.timers.readiness.as_secs_f64());
        let awaited = match self.handle.url() {
            None if self.handle.probed.is_some() => "it to listen".to_owned(),
            None => "its report of where it listens".to_owned(),
            Some(url) => format!("{url}{} to answer that it is ready", self.handle.engine.health_route),
        };
        let message = format!("worker {pid} made no progress for {limit} s, waiting for {awaited}");
        Failure {
            code: Code::Timeout,
            causes: self.unanswered.iter().flat_map(|error| error.chain()).map(ToString::to_string).collect(),
            ..self
                .failed(message)
                .hint("look at the end of its log; a slow disk needs a longer timers.readiness")
        }
    }

    /// The worker's own failure, with how the process ended.
    async fn reported(&self, failure: Failure) -> Failure {
        // Told to end while it does so by itself, it would end by a signal.
        let end = tokio::time::timeout(END_AFTER_REPORT, self.handle.ended()).await.ok();
        let stage = if failure.stage.is_some() { None } else { self.failed(String::new()).stage };
        let exit = end.and_then(|end| end.exit);
        Failure {
            stage: failure.stage.or(stage),
            exit_code: failure.exit_code.or_else(|| exit?.code),
            signal: failure.signal.or_else(|| exit?.signal()),
            ..failure
        }
    }

    /// Why the worker ended before it was ready.
    async fn ended_early(&mut self) -> Failure {
        let (pid, engine) = (self.handle.pid, &self.handle.engine.name);
        let End { exit, .. } = self.handle.ended().await;
        if self.was_stopped() {
            return self
                .failed(format!("worker {pid} was stopped by another request while it started"))
                .hint("start it again if it is still wanted");
        }
        // Its last words may have come after the last look.
        if let Ok(Some(Report::Failed { failure })) = self.report().await {
            return self.reported(failure).await;
        }
        let how = exit.map_or_else(|| "its end is unknown".to_owned(), |exit| exit.to_string());
        let tail = self.tail().await;
        let struck = oom_kills() > self.handle.oom_kills_before;
        let hint = match exit {
            Some(exit) if exit.killed() && struck => {
                "the kernel's out-of-memory killer struck while it started (its counter rose): try a smaller \
                 model or quantization, a shorter context, or unload another model"
            }
            Some(exit) if exit.killed() => {
                "the system likely killed it because memory ran out: try a smaller model or quantization, a \
                 shorter context, or unload another model"
            }
            exit => match causes::hint(&tail) {
                Some(hint) => hint,
                None if exit.is_some_and(Exit::faulted) => {
                    "this is a defect of the engine: please report it with the log"
                }
                None => "the last lines of its log say more",
            },
        };
        if self.handle.probed.is_some() && port_was_taken(&tail) {
            return Failure {
                code: Code::PortInUse,
                ..self.failed(format!("worker {pid} (engine '{engine}') found its port taken"))
            };
        }
        let mut failure = self
            .failed(format!("worker {pid} (engine '{engine}') ended before it was ready: {how}"))
            .hint(hint);
        failure.exit_code = exit.and_then(|exit| exit.code);
        failure.signal = exit.and_then(Exit::signal);
        failure
    }

    /// Keeps the attempt's log with its job, beyond the folder of the worker.
    async fn keep_log(&self) {
        let job = narration::current().map(|context| context.job_id().to_owned());
        // A restart belongs to no job.
        let Some(job) = job.filter(|job| !job.is_empty()) else { return };
        let target = self.shared.jobs_dir.join(format!("{job}.{}.log", self.handle.worker_id));
        let (folder, path) = (self.handle.folder.clone(), target.clone());
        match spawn::blocking(move || folder.keep_log(&path)).await {
            Ok(Ok(())) => n!("worker_log", "The log of this attempt is kept: {}", target.display()),
            Ok(Err(error)) => tracing::warn!(path = %target.display(), %error, "a log could not be kept"),
            Err(error) => tracing::error!(%error, "keeping a log panicked"),
        }
    }

    /// The last lines of its log.
    async fn tail(&self) -> Vec<String> {
        let (log, secret) = (self.handle.folder.log(), self.handle.secret.clone());
        spawn::blocking(move || tail(&log, TAIL_LINES, &secret)).await.unwrap_or_default()
    }

    /// Whether somebody else had it stopped.
    pub(super) fn was_stopped(&self) -> bool {
        self.handle.stage() == Stage::Stopped
    }

    /// The worker is ready: it is no longer this value's to end.
    pub(super) fn release(mut self) -> Arc<Handle> {
        self.armed = false;
        Arc::clone(&self.handle)
    }

    /// Makes sure that nothing is left of the worker, then gives the failure the end of its log.
    pub(super) async fn abandon(mut self, mut failure: Failure) -> Failure {
        let pid = self.handle.pid;
        if self.handle.state.borrow().end.is_none() {
            n!("worker_stop", "Stopping the half-started worker {pid}");
            let grace = ABANDON_GRACE.min(*self.shared.timers.stop_grace);
            self.handle.control(Control::Stop { grace, reason: Reason::Load });
        }
        let _wait = waiting_for(format!("worker {pid} to end"));
        let end = self.handle.ended().await;
        self.armed = false;
        self.log.finish().await;
        match end.left.sentence(pid) {
            None => n!("worker_gone", "Nothing is left of worker {pid}"),
            Some(left) => n!(warn: "worker_gone", "{left}"),
        }
        if failure.code != Code::Cancelled {
            self.keep_log().await;
        }
        if failure.log_tail.is_empty() && failure.code != Code::Cancelled {
            failure.log_tail = self.tail().await;
        }
        failure
    }
}

/// Whether the end of a log says that the address was in use.
fn port_was_taken(tail: &[String]) -> bool {
    let signs = ["address already in use", "couldn't bind", "eaddrinuse", "errno 98"];
    tail.iter().any(|line| {
        let line = line.to_lowercase();
        signs.iter().any(|sign| line.contains(sign))
    })
}
