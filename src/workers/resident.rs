//! What the decision about residency needs to know of a worker.

use std::time::{Duration, Instant};

use super::device::Device;
use super::handle::Handle;
use super::request::StartRequest;
use super::state::LifeStage;
use crate::config::KeepAlive;

/// A worker that lives, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct ResidentWorker {
    pub(crate) worker_id: String,
    pub(crate) pid: u32,
    /// The id of what it serves.
    pub(crate) model: String,
    pub(crate) device: Device,
    pub(crate) phase: WorkerPhase,
    /// Whether it gets no more requests, because it is to go.
    pub(crate) draining: bool,
    pub(crate) in_flight: usize,
    /// Requests that it answers at once; 0 where that is not known.
    pub(crate) slots: u32,
    /// What it was started for.
    pub(crate) request: StartRequest,
    /// When it became ready.
    pub(crate) ready_at: Option<Instant>,
    /// When its last request ended.
    pub(crate) last_used: Option<Instant>,
    /// How long its load took.
    pub(crate) load_time: Duration,
    pub(crate) keep_alive: KeepAlive,
    /// The memory that it held when it was last measured, by device.
    pub(crate) holds: Vec<(Device, u64)>,
    /// The memory that it is expected to hold, by device.
    pub(crate) expected: Vec<(Device, u64)>,
}

/// What a worker that lives does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerPhase {
    Loading,
    Ready,
    Unresponsive,
    Stopping,
}

impl ResidentWorker {
    /// `None` where the worker has ended.
    pub(super) fn of(worker: &Handle) -> Option<Self> {
        let phase = match worker.stage() {
            LifeStage::Starting | LifeStage::Loading => WorkerPhase::Loading,
            LifeStage::Ready => WorkerPhase::Ready,
            LifeStage::Unresponsive => WorkerPhase::Unresponsive,
            LifeStage::Draining | LifeStage::Terminating | LifeStage::Killing | LifeStage::Reclaiming => {
                WorkerPhase::Stopping
            }
            LifeStage::Crashed | LifeStage::Stopped => return None,
        };
        let traffic = *worker.traffic.borrow();
        let measured = worker.measurements.lock().clone();
        let mut holds = worker.holds();
        if holds.iter().all(|(device, _)| !device.is_cpu()) {
            holds.push((Device::CPU, measured.usage.rss_bytes));
        }
        Some(Self {
            worker_id: worker.worker_id.clone(),
            pid: worker.pid,
            model: worker.model_id().to_owned(),
            device: worker.device,
            phase,
            draining: traffic.draining,
            in_flight: traffic.in_flight,
            slots: worker.known_slots().and_then(|slots| u32::try_from(slots).ok()).unwrap_or(0),
            request: worker.request.clone(),
            ready_at: traffic.ready_at,
            last_used: traffic.last_used,
            load_time: worker.load_time(),
            keep_alive: *worker.keep_alive.lock(),
            holds,
            expected: worker.needs.clone(),
        })
    }
}
