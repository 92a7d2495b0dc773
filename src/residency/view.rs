//! What is in memory and why, as clients see it: the result of `ResidencyGet`, and the event `residency`.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::leases::LeaseEntry;
use super::ledger::LoadEntry;
use super::measure::Look;
use super::memory::on;
use super::parts::Parts;
use super::snapshot::{DeviceMemory, Keep, LeasePhase, LoadPhase, Resident, Snapshot};
use super::victims::is_up;
use crate::narration::Progress;
use crate::time::{Instant, in_words};
use crate::workers::{Device, ResidentWorker};

/// What is in memory, who waits, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResidencyView {
    pub(crate) memory: Vec<MemoryView>,
    residents: Vec<ResidentView>,
    pub(crate) loads: Vec<LoadView>,
    pub(crate) queue: Vec<QueueView>,
    pub(crate) queue_limit: usize,
    leases: Vec<LeaseView>,
}

/// The memory of one device.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemoryView {
    pub(crate) device: Device,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) free_bytes: Option<u64>,
    pub(crate) reserve_bytes: u64,
    pub(crate) leased_bytes: u64,
}

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
struct ResidentView {
    pid: u32,
    model: String,
    device: Device,
    held_bytes: u64,
    in_flight: usize,
    slots: u32,
    ready_at: Option<Instant>,
    last_used_at: Option<Instant>,
    keep: &'static str,
    unload_at: Option<Instant>,
    /// For whom it is to go; null where it stays.
    draining: Option<String>,
    outdated: bool,
    /// Why it is here.
    why: String,
}

/// A load that has not ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoadView {
    job_id: String,
    model: String,
    pub(crate) state: &'static str,
    since: Instant,
    because: String,
    waits_for: Option<String>,
    progress: Option<Progress>,
    eta_seconds: Option<u64>,
}

/// The requests that wait for one model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueView {
    pub(crate) model: String,
    pub(crate) waiting: usize,
    pub(crate) oldest_since: Instant,
    job_id: Option<String>,
    callers: Vec<CallerView>,
}

/// How many requests of one caller wait.
#[derive(Debug, Serialize, ToSchema)]
struct CallerView {
    caller: String,
    waiting: usize,
}

/// Memory that another program asked for.
#[derive(Debug, Serialize, ToSchema)]
struct LeaseView {
    lease_id: String,
    device: Device,
    bytes: u64,
    state: &'static str,
    holder: Option<String>,
    expires_at: Option<Instant>,
    /// What comes back when it ends.
    restores: Vec<String>,
}

impl ResidencyView {
    /// When the worker goes if it gets no request; `None` where nobody can say.
    pub(crate) fn unload_at(&self, pid: u32) -> Option<Instant> {
        self.residents.iter().find(|resident| resident.pid == pid)?.unload_at
    }

    pub(super) fn of(parts: &Parts, look: &Look) -> Self {
        let clock = Clock { now: look.now.now, wall: Instant::now() };
        let residents = look.workers.iter().zip(&look.now.workers);
        Self {
            memory: look.now.devices.iter().map(|device| memory(device, &look.now)).collect(),
            residents: residents
                .map(|(worker, resident)| self::resident(parts, &clock, worker, resident))
                .collect(),
            loads: look.loads.iter().map(|entry| load(&clock, entry)).collect(),
            queue: queue(parts),
            queue_limit: parts.admissions.limit(),
            leases: look.leases.iter().map(|entry| lease(&clock, entry)).collect(),
        }
    }
}

/// Tells when moments of a decision are by the wall clock.
struct Clock {
    now: Duration,
    wall: Instant,
}

impl Clock {
    fn at(&self, at: Duration) -> Instant {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Instant(self.wall.0.saturating_add(ms(at)).saturating_sub(ms(self.now)))
    }
}

fn memory(device: &DeviceMemory, now: &Snapshot) -> MemoryView {
    let leases = now.leases.iter().filter(|lease| lease.device == device.device);
    MemoryView {
        device: device.device,
        capacity_bytes: device.capacity,
        free_bytes: device.free,
        reserve_bytes: device.reserve,
        leased_bytes: leases
            .filter(|lease| matches!(lease.phase, LeasePhase::Held { .. }))
            .map(|lease| lease.bytes)
            .sum(),
    }
}

fn resident(parts: &Parts, clock: &Clock, worker: &ResidentWorker, resident: &Resident) -> ResidentView {
    let draining = parts.ledger.end_of(&worker.worker_id).0.map(|entry| entry.because);
    let unload_at = match resident.keep {
        Keep::For(idle) if is_up(resident) && worker.in_flight == 0 => {
            Some(clock.at(resident.last_used + idle))
        }
        _ => None,
    };
    let (keep, why) = match resident.keep {
        _ if worker.request.trial.is_some() => ("until_needed", "it tries an engine".to_owned()),
        Keep::For(Duration::ZERO) => ("idle", "it goes with the end of its last answer".to_owned()),
        Keep::For(idle) => ("idle", format!("it stays for {} after its last request", in_words(idle))),
        Keep::UntilNeeded => ("until_needed", "it stays until its room is needed".to_owned()),
        Keep::Pinned => ("pinned", "its settings pin it".to_owned()),
    };
    ResidentView {
        pid: worker.pid,
        model: worker.model.clone(),
        device: worker.device,
        held_bytes: on(&worker.holds, worker.device),
        in_flight: worker.in_flight,
        slots: worker.slots,
        ready_at: worker.ready_at.map(|_| clock.at(resident.ready_at)),
        last_used_at: worker.last_used.map(|_| clock.at(resident.last_used)),
        keep,
        unload_at,
        why: draining.as_ref().map_or(why, |because| format!("it is to go: {because}")),
        draining,
        outdated: resident.outdated,
    }
}

fn load(clock: &Clock, entry: &LoadEntry) -> LoadView {
    let state = match entry.phase {
        LoadPhase::Submitted => "submitted",
        LoadPhase::Asking { .. } => "waiting",
        LoadPhase::Granted { .. } => "loading",
    };
    let progress = entry.job.progress().filter(|_| state == "loading");
    LoadView {
        job_id: entry.job.id().to_string(),
        model: entry.model.to_string(),
        state,
        since: clock.at(entry.since),
        because: entry.because.clone(),
        waits_for: entry.waits_for.as_ref().map(ToString::to_string),
        eta_seconds: progress.as_ref().and_then(|progress| progress.eta_seconds),
        progress,
    }
}

fn lease(clock: &Clock, entry: &LeaseEntry) -> LeaseView {
    LeaseView {
        lease_id: entry.id.clone(),
        device: entry.request.device,
        bytes: entry.request.bytes,
        state: if entry.held.is_some() { "held" } else { "waiting" },
        holder: entry.request.holder.clone(),
        expires_at: entry.held.map(|held| clock.at(held.expires_at)),
        restores: entry.gone.iter().map(|gone| gone.model.clone()).collect(),
    }
}

fn queue(parts: &Parts) -> Vec<QueueView> {
    let lines = parts.admissions.lines().into_iter();
    lines
        .map(|line| QueueView {
            model: line.model.to_string(),
            waiting: line.waiting,
            oldest_since: line.oldest_since,
            job_id: line.job_id.map(|job_id| job_id.to_string()),
            callers: line
                .callers
                .into_iter()
                .map(|(caller, waiting)| CallerView { caller: caller.to_string(), waiting })
                .collect(),
        })
        .collect()
}
