//! What everyone but the owner holds of a worker.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::devices::Device;
use super::engines::Engine;
use super::folder::Folder;
use super::health::Counters;
use super::identity::{self, Identity};
use super::process::End;
use super::record::Record;
use super::start::StartRequest;
use super::usage::Usage;
use super::worker::{Status, Worker};

/// The secret of one worker: 32 random bytes in hexadecimal. Never printed.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    pub(super) fn random() -> Self {
        Self(crate::text::hex(&rand::random::<[u8; 32]>()).into())
    }

    /// A secret that was written down earlier.
    pub(super) fn recalled(secret: &str) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the `Authorization` header of a request to its worker.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A line of the worker's log without its secret, for readers.
    #[must_use]
    pub fn redact<'a>(&self, line: &'a str) -> Cow<'a, str> {
        if line.contains(&*self.0) { line.replace(&*self.0, "[secret]").into() } else { line.into() }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What an owner can be told.
#[derive(Debug)]
pub(super) enum Control {
    /// The worker listens on this port, and the socket is its own.
    Listening(u16),
    /// The worker answered that it is ready.
    Ready,
    /// End it. Told again, the shorter time counts.
    Stop {
        /// How long it may take before it is killed.
        grace: Duration,
        /// Who wants it.
        reason: Reason,
    },
    /// Leave it running, and forget it: a later daemon takes it over.
    Release,
}

/// Why a worker is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody asked for it.
    User,
    /// It could not be brought to serve, or whoever wanted it gave up.
    Load,
    /// The hive stops.
    Shutdown,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Starting,
    Loading,
    Ready,
    /// Takes no more requests, finishes the ones it has.
    Draining,
    /// Was sent SIGTERM.
    Terminating,
    /// Was sent SIGKILL.
    Killing,
    /// Its processes are gone, and a driver has yet to take back the memory of its GPU.
    Reclaiming,
    /// Ended without being asked to.
    Crashed,
    /// Ended because it was asked to.
    Stopped,
}

/// What an owner publishes.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) stage: Stage,
    pub(super) port: Option<u16>,
    /// Set at the end, whichever it was.
    pub(super) end: Option<End>,
    /// When it ended.
    pub(super) ended: Option<Instant>,
}

/// Requests to one worker. In one cell, so that none begins once the worker has been closed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) open: bool,
    pub(super) in_flight: usize,
    /// Those that it has been sent in all.
    pub(super) sent: u64,
}

/// What was last measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measures {
    pub(super) usage: Usage,
    pub(super) counters: Counters,
}

/// One worker, alive or crashed.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) worker_id: String,
    pub(super) pid: u32,
    pub(super) model_id: String,
    /// What was asked for; a restart asks for it again.
    pub(super) request: StartRequest,
    pub(super) device: Device,
    pub(super) engine: Arc<Engine>,
    /// The port that it was told to listen on, where it does not report one.
    pub(super) probed: Option<u16>,
    /// The memory that it is expected to take on its device, in bytes.
    pub(super) needs_bytes: u64,
    /// How often the kernel had killed for want of memory when it was started.
    pub(super) oom_kills_before: u64,
    /// Whether an earlier daemon started it.
    pub(super) adopted: bool,
    /// How often workers have crashed in whose place this one is.
    pub(super) crashes: u32,
    /// Cancelled when nobody wants a crashed worker back.
    pub(super) given_up: CancellationToken,
    pub(super) secret: Secret,
    pub(super) folder: Folder,
    pub(super) started_at: Timestamp,
    pub(super) started: Instant,
    pub(super) controls: mpsc::UnboundedSender<Control>,
    /// Only the owner sends.
    pub(super) state: watch::Sender<State>,
    pub(super) traffic: watch::Sender<Traffic>,
    /// Held for copies alone.
    pub(super) measures: Mutex<Measures>,
}

impl Handle {
    /// Tells the owner; one that has ended does not listen any more.
    pub(super) fn control(&self, control: Control) {
        if let Err(unheard) = self.controls.send(control) {
            tracing::trace!(pid = self.pid, control = ?unheard.0, "the worker has ended already");
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.state.borrow().stage
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) -> End {
        let mut states = self.state.subscribe();
        match states.wait_for(|state| state.end.is_some()).await.map(|state| state.end) {
            Ok(Some(end)) => end,
            // The sender is in `self`, and the predicate asked for an end.
            _ => std::future::pending().await,
        }
    }

    /// The base URL, once the worker listens.
    pub(super) fn url(&self) -> Option<String> {
        self.state.borrow().port.map(|port| format!("http://127.0.0.1:{port}"))
    }

    pub(super) fn uptime(&self) -> Duration {
        let ended = self.state.borrow().ended;
        ended.unwrap_or_else(Instant::now).saturating_duration_since(self.started)
    }

    pub(super) fn status(&self) -> Status {
        match self.stage() {
            Stage::Starting => Status::Starting,
            Stage::Loading => Status::Loading,
            Stage::Ready => {
                let busy =
                    self.traffic.borrow().in_flight > 0 || self.measures.lock().counters.busy_slots > 0;
                if busy { Status::Busy } else { Status::Ready }
            }
            Stage::Draining | Stage::Terminating | Stage::Killing | Stage::Reclaiming => Status::Stopping,
            Stage::Crashed => Status::Crashed,
            Stage::Stopped => Status::Stopped,
        }
    }

    /// The worker as clients see it now.
    pub(super) fn worker(&self) -> Worker {
        let status = self.status();
        let state = *self.state.borrow();
        let Measures { usage, counters } = *self.measures.lock();
        let usage = if status.lives() { usage } else { Usage::default() };
        Worker {
            worker_id: self.worker_id.clone(),
            pid: self.pid,
            model: self.model_id.clone(),
            device: self.device.to_string(),
            port: state.port,
            url: self.url(),
            engine: self.engine.name.clone(),
            status,
            started_at: format!("{:.3}", self.started_at),
            uptime_seconds: self.uptime().as_secs(),
            cpu_percent: usage.cpu_percent,
            rss_bytes: usage.rss_bytes,
            vram_bytes: usage.vram_bytes.or_else(|| self.device.is_cpu().then_some(0)),
            slots: counters.slots,
            // Engines that do not count leave it to the hive.
            requests: counters.requests.max(self.traffic.borrow().sent),
            tokens_generated: counters.tokens_generated,
            last_exit: self.last_exit(),
        }
    }

    /// How it ended, once it has, in words.
    pub(super) fn last_exit(&self) -> Option<String> {
        let end = self.state.borrow().end?;
        Some(match end.exit {
            Some(exit) => exit.to_string(),
            None if end.processes_gone() => {
                "unknown: it was started by an earlier run of the hive".to_owned()
            }
            None => "did not end within 5 s of being killed".to_owned(),
        })
    }

    /// What a later daemon needs to know of it; `None` where it has ended. Blocks.
    pub(super) fn record(&self, ready: bool) -> Option<Record> {
        Some(Record {
            worker_id: self.worker_id.clone(),
            boot_id: identity::boot_id(),
            process: Identity::of(self.pid)?,
            started_at: self.started_at,
            engine: self.engine.name.clone(),
            device: self.device,
            request: self.request.clone(),
            secret: self.secret.expose().to_owned(),
            port: self.state.borrow().port,
            ready,
        })
    }

    /// Lets a request in, unless the worker takes none.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Endpoint> {
        let url = self.url()?;
        let entered = self.traffic.send_if_modified(|traffic| {
            traffic.in_flight += usize::from(traffic.open);
            traffic.sent += u64::from(traffic.open);
            traffic.open
        });
        entered.then(|| Endpoint {
            pid: self.pid,
            url,
            secret: self.secret.clone(),
            chat_route: self.engine.chat_route.clone(),
            guard: InFlight(Arc::clone(self)),
        })
    }
}

/// Where to send one request.
#[derive(Debug)]
pub struct Endpoint {
    /// The process id of the worker.
    pub pid: u32,
    /// Its base URL, without a slash at the end.
    pub url: String,
    /// Its secret, to be sent as a bearer token.
    pub secret: Secret,
    /// The path under which its engine answers chat completions.
    pub chat_route: String,
    /// Keeps the request counted. Hold it until the last byte of the answer.
    pub guard: InFlight,
}

/// Counts one request as in flight until it is dropped: a worker that is being stopped waits for
/// it.
#[derive(Debug)]
#[must_use = "the request counts as ended when the guard is dropped"]
pub struct InFlight(Arc<Handle>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.traffic.send_modify(|traffic| traffic.in_flight -= 1);
    }
}
