//! Looks at everything that a decision depends on.

use std::collections::HashSet;

use super::leases::LeaseEntry;
use super::ledger::LoadEntry;
use super::parts::Parts;
use super::snapshot::{DeviceMemory, Drain, Keep, LoadPhase, Phase, Resident, Snapshot};
use crate::config::KeepAlive;
use crate::workers::{self, ResidentWorker, Supervisor, WorkerPhase};

/// What was seen at one moment.
pub(super) struct Look {
    /// What a decision is made from.
    pub(super) now: Snapshot,
    /// The workers of `now`, in the same order.
    pub(super) workers: Vec<ResidentWorker>,
    pub(super) loads: Vec<LoadEntry>,
    pub(super) leases: Vec<LeaseEntry>,
}

/// Looks at everything. The memory is measured only if a load or a lease asks for some, or the caller does: that takes a while,
/// and a decision needs it for nothing else.
pub(super) async fn look(parts: &Parts, with_memory: bool) -> Look {
    let Parts { workers, ledger, leases, admissions, .. } = parts;
    // Read once, and first: what asks from now on must not be decided about without the memory.
    let (loads, leases) = (ledger.loads(), leases.all());
    let asks = loads.iter().any(asks) || leases.iter().any(|lease| lease.held.is_none());
    let (residents, devices) =
        if with_memory || asks { measured(workers).await } else { (workers.residents(), Vec::new()) };
    let ids: HashSet<&str> = residents.iter().map(|worker| &*worker.worker_id).collect();
    ledger.keep_drains(|worker_id| ids.contains(worker_id));
    let unfinished = || loads.iter().filter(|load| !has_its_worker(load, &residents));
    let is_unfinished = |load: &u64| unfinished().any(|other| other.key == *load);
    let resident = |worker: &ResidentWorker| {
        let (drained, is_stopping) = ledger.end_of(&worker.worker_id);
        let draining = drained.filter(|_| worker.draining).map(|entry| entry.drain);
        resident(parts, worker, draining, is_stopping, is_unfinished)
    };
    let workers: Vec<_> = residents.iter().map(resident).collect();
    let devices: Vec<_> = devices.iter().map(device).collect();
    let now = Snapshot {
        now: ledger.now(),
        rules: parts.rules(),
        demand: admissions.demand(ledger.epoch()),
        loads: unfinished().map(LoadEntry::load).collect(),
        leases: leases.iter().map(|lease| lease.lease(&devices, &workers)).collect(),
        devices,
        workers,
    };
    Look { now, workers: residents, loads, leases }
}

/// The workers, with what they hold, and the memory of each device. A worker that became ready during the
/// measurement counts as one that loads: it may have taken memory after that was measured as free. One that ended
/// meanwhile counts as one that ends: its memory may not have been measured as free.
async fn measured(workers: &Supervisor) -> (Vec<ResidentWorker>, Vec<workers::DeviceMemory>) {
    let before = workers.residents();
    let loaded = before.iter().filter(|worker| worker.phase != WorkerPhase::Loading);
    let loaded: HashSet<&str> = loaded.map(|worker| &*worker.worker_id).collect();
    let devices = workers.measure_memory().await;
    let mut residents = workers.residents();
    for worker in &mut residents {
        if worker.phase == WorkerPhase::Ready && !loaded.contains(&*worker.worker_id) {
            worker.phase = WorkerPhase::Loading;
        }
    }
    let ended: Vec<_> = before
        .iter()
        .filter(|worker| residents.iter().all(|other| other.worker_id != worker.worker_id))
        .map(|worker| ResidentWorker { phase: WorkerPhase::Stopping, ..worker.clone() })
        .collect();
    residents.extend(ended);
    (residents, devices)
}

fn asks(load: &LoadEntry) -> bool {
    matches!(load.phase, LoadPhase::Asking { .. })
}

/// Whether the worker of the load is ready: what it was granted is taken.
fn has_its_worker(load: &LoadEntry, residents: &[ResidentWorker]) -> bool {
    let is_ready = |worker: &ResidentWorker| {
        worker.request.load == Some(load.key) && worker.phase != WorkerPhase::Loading
    };
    matches!(load.phase, LoadPhase::Granted { .. }) && residents.iter().any(is_ready)
}

fn device(memory: &workers::DeviceMemory) -> DeviceMemory {
    let workers::DeviceMemory { device, capacity, free, reserve } = *memory;
    DeviceMemory { device, capacity: Some(capacity), free: Some(free), reserve }
}

fn resident(
    parts: &Parts,
    worker: &ResidentWorker,
    draining: Option<Drain>,
    is_stopping: bool,
    is_unfinished: impl Fn(&u64) -> bool,
) -> Resident {
    let ledger = &parts.ledger;
    let ready_at = worker.ready_at.map_or_else(|| ledger.now(), |at| ledger.at(at));
    Resident {
        key: worker.pid,
        model: worker.model.as_str().into(),
        holds: worker.holds.clone(),
        expected: worker.expected.clone(),
        phase: match worker.phase {
            _ if is_stopping => Phase::Stopping,
            WorkerPhase::Loading => Phase::Loading(worker.request.load.filter(is_unfinished)),
            WorkerPhase::Ready => Phase::Ready,
            WorkerPhase::Unresponsive => Phase::Unresponsive,
            WorkerPhase::Stopping => Phase::Stopping,
        },
        draining,
        in_flight: worker.in_flight,
        ready_at,
        last_used: worker.last_used.map_or(ready_at, |at| ledger.at(at).max(ready_at)),
        load_time: worker.load_time,
        keep: match worker.keep_alive {
            _ if parts.is_pinned(&worker.model) => Keep::Pinned,
            KeepAlive::For(idle) => Keep::For(idle),
            KeepAlive::Forever => Keep::UntilNeeded,
        },
        outdated: parts.is_outdated(worker),
    }
}
