//! The handle of a worker: what everything but the worker's owner holds of it.
//!
//! Through the handle, the others send the owner controls, watch the state that it publishes, and
//! count requests in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::device::Device;
use super::end::{GroupEnd, Remains};
use super::engines::Engine;
use super::folder::WorkerFolder;
use super::health::Counters;
use super::identity::{self, Identity};
use super::oom_killer;
use super::place::Share;
use super::record::WorkerRecord;
use super::request::StartRequest;
use super::secret::Secret;
use super::state::{Control, LifeStage, WorkerState};
use super::usage::GroupUsage;
use super::worker::{Status, Worker};
use crate::config::KeepAlive;
use crate::requests::Recent;
use crate::time::monotonic;

/// The requests to one worker. They share one cell with `open`, so that no request begins after the
/// worker was closed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Whether it can answer requests.
    pub(super) open: bool,
    /// Whether it is to go: it gets no more requests, unless that is taken back.
    pub(super) draining: bool,
    pub(super) in_flight: usize,
    /// All requests that it was ever sent.
    pub(super) sent: u64,
    /// When it became ready.
    pub(super) ready_at: Option<Instant>,
    /// When its last request ended.
    pub(super) last_used: Option<Instant>,
}

impl Traffic {
    /// Whether it accepts requests.
    pub(super) const fn accepts(&self) -> bool {
        self.open && !self.draining
    }
}

/// The last measurements of a worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Measurements {
    pub(super) usage: GroupUsage,
    pub(super) counters: Counters,
    /// Whether the slots are what its engine tells or was told.
    pub(super) knows_slots: bool,
}

impl Measurements {
    /// Takes over what the engine of a worker for `request` counts.
    pub(super) fn count(&mut self, mut counters: Counters, request: &StartRequest) {
        self.knows_slots |= counters.slots > 0;
        counters.slots = counters.slots.max(request.slots.unwrap_or(1));
        // Engines that count tokens only in their metrics answer 0.
        counters.tokens_generated = counters.tokens_generated.max(self.counters.tokens_generated);
        self.counters = counters;
    }
}

/// Where a worker comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// This daemon started it.
    Started {
        /// The port that it was told to listen on, where its engine does not report one.
        assigned_port: Option<u16>,
        /// How many workers in a row have crashed that this one replaces.
        crashes: u32,
        /// Whether the kernel holds it to what it needs.
        is_restricted: bool,
    },
    /// An earlier daemon started it; it is ready on this port.
    Adopted {
        /// The TCP port.
        port: u16,
    },
    /// An earlier daemon started it, and it ended while no daemon ran.
    Ended,
}

/// What is known of a worker when its handle is made.
#[derive(Debug)]
pub(super) struct NewWorker {
    pub(super) worker_id: String,
    pub(super) pid: u32,
    pub(super) request: StartRequest,
    /// Tokens of context of each slot, where the hive has planned it.
    pub(super) context_length: Option<u64>,
    pub(super) device: Device,
    /// Which part of the model is on which device; empty where all of it is on `device`.
    pub(super) split: Vec<Share>,
    /// The bytes that it is expected to take on each device; empty where that is unknown.
    pub(super) needs: Vec<(Device, u64)>,
    pub(super) engine: Arc<Engine>,
    pub(super) secret: Secret,
    pub(super) folder: WorkerFolder,
    pub(super) started_at: Timestamp,
    pub(super) origin: Origin,
}

/// One worker, live or crashed.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) worker_id: String,
    /// The process id of its leader, which is the id of its group.
    pub(super) pid: u32,
    /// What was requested; a restart requests the same.
    pub(super) request: StartRequest,
    /// The id under which requests name what it serves.
    served_id: String,
    /// Tokens of context of each slot, where the hive has planned it.
    context_length: Option<u64>,
    pub(super) device: Device,
    /// Which part of the model is on which device; empty where all of it is on `device`.
    pub(super) split: Vec<Share>,
    /// The bytes that it is expected to take on each device; empty where that is unknown.
    pub(super) needs: Vec<(Device, u64)>,
    pub(super) engine: Arc<Engine>,
    pub(super) secret: Secret,
    pub(super) folder: WorkerFolder,
    pub(super) origin: Origin,
    /// The count of the kernel's out-of-memory kills when the handle was made.
    oom_kills_before: u64,
    /// Cancelled when a crashed worker must not be restarted.
    pub(super) given_up: CancellationToken,
    /// Cancelled when another daemon owns it.
    pub(super) handed_over: CancellationToken,
    started_at: Timestamp,
    started: Instant,
    controls: mpsc::UnboundedSender<Control>,
    /// Only the owner sends.
    pub(super) state: watch::Sender<WorkerState>,
    pub(super) traffic: watch::Sender<Traffic>,
    /// How long it stays without a request: as requested, unless that was changed since.
    pub(super) keep_alive: Mutex<KeepAlive>,
    /// Its last answers.
    pub(super) recent: Arc<Recent>,
    /// Locked only to copy values in or out.
    pub(super) measurements: Mutex<Measurements>,
}

impl Handle {
    /// The handle of a worker, and the receiver of its controls for its owner.
    pub(super) fn new(worker: NewWorker) -> (Arc<Self>, mpsc::UnboundedReceiver<Control>) {
        let NewWorker {
            worker_id,
            pid,
            request,
            context_length,
            device,
            split,
            needs,
            engine,
            secret,
            folder,
            started_at,
            origin,
        } = worker;
        let (controls, inbox) = mpsc::unbounded_channel();
        let lived = Timestamp::now().duration_since(started_at);
        let lived = Duration::try_from(lived).unwrap_or_default();
        let (state, traffic, mut measurements) = match origin {
            Origin::Started { .. } => {
                (WorkerState::new(LifeStage::Starting, None), Traffic::default(), Measurements::default())
            }
            Origin::Adopted { port } => {
                // Until the worker is asked, and for engines that do not report their slots.
                let counters = Counters { slots: request.slots.unwrap_or(1), ..Counters::default() };
                (
                    WorkerState::new(LifeStage::Ready, Some(port)),
                    Traffic { open: true, ready_at: Some(monotonic()), ..Traffic::default() },
                    Measurements { counters, ..Measurements::default() },
                )
            }
            Origin::Ended => {
                let end = GroupEnd { exit: None, remains: Remains::Nothing };
                let crashed = WorkerState::new(LifeStage::Crashed, None);
                (
                    WorkerState { end: Some(end), ended_at: Some(monotonic()), ..crashed },
                    Traffic::default(),
                    Measurements::default(),
                )
            }
        };
        measurements.knows_slots = request.slots.is_some() || engine.takes("slots");
        let handle = Self {
            keep_alive: Mutex::new(request.keep_alive),
            worker_id,
            pid,
            served_id: request.served_id(),
            request,
            context_length,
            device,
            split,
            needs,
            engine,
            secret,
            folder,
            origin,
            oom_kills_before: oom_killer::kills(),
            given_up: CancellationToken::new(),
            handed_over: CancellationToken::new(),
            started_at,
            started: monotonic().checked_sub(lived).unwrap_or_else(monotonic),
            controls,
            state: watch::Sender::new(state),
            traffic: watch::Sender::new(traffic),
            recent: Arc::default(),
            measurements: Mutex::new(measurements),
        };
        (Arc::new(handle), inbox)
    }

    /// The id under which requests name what it serves: that of its model, or of a variant.
    pub(super) fn model_id(&self) -> &str {
        &self.served_id
    }

    /// Whether it serves what has that id, or a variant of it.
    pub(super) fn is_of(&self, id: &str) -> bool {
        self.served_id == id || self.request.model_id == id
    }

    /// Whether it tries an engine: no request can name what it serves.
    pub(super) const fn is_trial(&self) -> bool {
        self.request.trial.is_some()
    }

    /// Whether an earlier daemon started it.
    pub(super) fn is_adopted(&self) -> bool {
        matches!(self.origin, Origin::Adopted { .. })
    }

    /// The port that it was told to listen on, where its engine does not report one.
    pub(super) fn assigned_port(&self) -> Option<u16> {
        match self.origin {
            Origin::Started { assigned_port, .. } => assigned_port,
            Origin::Adopted { .. } | Origin::Ended => None,
        }
    }

    /// Whether this daemon started it restricted to what it needs.
    pub(super) fn is_restricted(&self) -> bool {
        matches!(self.origin, Origin::Started { is_restricted: true, .. })
    }

    /// The memory that it is expected to take on all devices, in bytes; 0 where unknown.
    pub(super) fn expected_bytes(&self) -> u64 {
        self.needs.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// The bytes that it held on each of its devices when it was last measured. On a GPU whose driver does not list
    /// it, as in a container, they are what it needs there, once it is ready.
    pub(super) fn holds(&self) -> Vec<(Device, u64)> {
        let usage = self.measurements.lock().usage.clone();
        let devices = match self.split.is_empty() {
            true => vec![self.device],
            false => self.split.iter().map(|share| share.device).collect(),
        };
        let held = |device: Device| {
            if device.is_cpu() {
                return usage.rss_bytes;
            }
            let on_it = usage.gpus.iter().find(|(gpu, _)| *gpu == device).map(|(_, bytes)| *bytes);
            // An interface such as Vulkan has its own numbers for GPUs.
            let on_any = || if devices.len() == 1 { usage.vram_bytes() } else { None };
            let needs = || self.needs.iter().find(|(needed, _)| *needed == device).map(|(_, bytes)| *bytes);
            let unlisted = || needs().filter(|_| self.stage() >= LifeStage::Ready);
            on_it.or_else(on_any).or_else(unlisted).unwrap_or(0)
        };
        devices.iter().map(|device| (*device, held(*device))).collect()
    }

    /// Tokens of context of each slot, where the hive has planned it.
    pub(super) const fn planned_context(&self) -> Option<u64> {
        self.context_length
    }

    /// When its process was started.
    pub(super) const fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// How many workers in a row have crashed that this one replaces.
    pub(super) fn crashes(&self) -> u32 {
        match self.origin {
            Origin::Started { crashes, .. } => crashes,
            Origin::Adopted { .. } | Origin::Ended => 0,
        }
    }

    /// Sends the owner a control; an owner that has ended ignores it.
    pub(super) fn control(&self, control: Control) {
        if let Err(unheard) = self.controls.send(control) {
            tracing::trace!(pid = self.pid, control = ?unheard.0, "the worker has ended already");
        }
    }

    pub(super) fn stage(&self) -> LifeStage {
        self.state.borrow().stage
    }

    /// Waits for the end of the worker.
    pub(super) async fn ended(&self) -> GroupEnd {
        let mut states = self.state.subscribe();
        match states.wait_for(|state| state.end.is_some()).await.map(|state| state.end) {
            Ok(Some(end)) => end,
            // Impossible: `self` holds the sender, and the condition requires an end.
            _ => std::future::pending().await,
        }
    }

    /// The base URL, once the worker listens.
    pub(super) fn url(&self) -> Option<String> {
        self.state.borrow().port.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// How many requests it answers at once; `None` where neither its engine tells nor anybody told it.
    pub(super) fn known_slots(&self) -> Option<usize> {
        let Measurements { counters, knows_slots, .. } = *self.measurements.lock();
        knows_slots.then(|| counters.slots.max(1) as usize)
    }

    /// What it was started for, with how long it stays without a request now.
    pub(super) fn request_now(&self) -> StartRequest {
        StartRequest { keep_alive: *self.keep_alive.lock(), ..self.request.clone() }
    }

    /// How long it has run, or ran until its end.
    pub(super) fn uptime(&self) -> Duration {
        let ended_at = self.state.borrow().ended_at;
        ended_at.unwrap_or_else(monotonic).saturating_duration_since(self.started)
    }

    /// When it began to load and when it was ready; `None` where it is not, or an earlier daemon started it.
    pub(super) fn loaded_within(&self) -> Option<(Instant, Instant)> {
        let ready_at = self.traffic.borrow().ready_at.filter(|_| !self.is_adopted())?;
        Some((self.started, ready_at))
    }

    /// How long it took until it was ready; 0 where an earlier daemon started it.
    pub(super) fn load_time(&self) -> Duration {
        self.loaded_within().map_or(Duration::ZERO, |(from, to)| to.saturating_duration_since(from))
    }

    /// Whether the kernel killed any process because memory ran out since the handle was made.
    pub(super) fn saw_oom_kill(&self) -> bool {
        oom_killer::kills() > self.oom_kills_before
    }

    pub(super) fn status(&self) -> Status {
        match self.stage() {
            LifeStage::Starting => Status::Starting,
            LifeStage::Loading => Status::Loading,
            LifeStage::Ready => {
                let busy =
                    self.traffic.borrow().in_flight > 0 || self.measurements.lock().counters.busy_slots > 0;
                if busy { Status::Busy } else { Status::Ready }
            }
            LifeStage::Unresponsive => Status::Unresponsive,
            LifeStage::Draining | LifeStage::Terminating | LifeStage::Killing | LifeStage::Reclaiming => {
                Status::Stopping
            }
            LifeStage::Crashed => Status::Crashed,
            LifeStage::Stopped => Status::Stopped,
        }
    }

    /// The worker as clients see it at this moment.
    pub(super) fn worker(&self) -> Worker {
        let status = self.status();
        let state = *self.state.borrow();
        let Measurements { usage, counters, .. } = self.measurements.lock().clone();
        let usage = if status.lives() { usage } else { GroupUsage::default() };
        Worker {
            worker_id: self.worker_id.clone(),
            pid: self.pid,
            model: self.model_id().to_owned(),
            device: self.device.to_string(),
            port: state.port,
            url: self.url(),
            engine: self.engine.name.clone(),
            trial: self.is_trial(),
            status,
            started_at: format!("{:.3}", self.started_at),
            uptime_seconds: self.uptime().as_secs(),
            cpu_percent: usage.cpu_percent,
            rss_bytes: usage.rss_bytes,
            vram_bytes: usage.vram_bytes().or_else(|| self.device.is_cpu().then_some(0)),
            context_length: counters.context_length.or(self.context_length),
            slots: counters.slots,
            // Some engines do not count; the hive counts what it sends.
            requests: counters.requests.max(self.traffic.borrow().sent),
            tokens_generated: counters.tokens_generated,
            recent: self.recent.averages(),
            last_exit: self.last_exit(),
        }
    }

    /// How it ended, in words, once it has.
    pub(super) fn last_exit(&self) -> Option<String> {
        let state = *self.state.borrow();
        let end = state.end?;
        let mut how = match end.exit {
            Some(exit) => exit.to_string(),
            None if matches!(self.origin, Origin::Ended) => "unknown: it ended while no hive ran".to_owned(),
            None if end.processes_gone() => "unknown: an earlier run of the hive started it".to_owned(),
            None => "did not end within 5 s of being killed".to_owned(),
        };
        if state.hangs {
            how.push_str("; it had stopped responding");
        }
        Some(how)
    }

    /// The record for a later daemon; `None` where the worker has ended. Blocks.
    pub(super) fn record(&self, ready: bool) -> Option<WorkerRecord> {
        Some(WorkerRecord {
            worker_id: self.worker_id.clone(),
            boot_id: identity::boot_id(),
            process: Identity::of(self.pid)?,
            started_at: self.started_at,
            engine: self.engine.name.clone(),
            program: Some(self.engine.program.clone()),
            device: self.device,
            split: self.split.clone(),
            request: self.request_now(),
            context_length: self.context_length,
            secret: self.secret.expose().to_owned(),
            port: self.state.borrow().port,
            ready,
            trial: self.is_trial(),
        })
    }
}
