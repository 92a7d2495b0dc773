//! Takes the snapshot that a decision is made from.

use std::collections::HashSet;

use super::ledger::{Ledger, LoadEntry};
use super::snapshot::{Demand, DeviceMemory, Keep, LoadPhase, Phase, Resident, Rules, Snapshot};
use crate::config::KeepAlive;
use crate::workers::{self, ResidentWorker, Supervisor, WorkerPhase};

/// Everything that a decision depends on, at this moment. The memory is measured only if something asks for some:
/// that takes a while, and a decision needs it for nothing else.
pub(super) async fn snapshot(
    workers: &Supervisor,
    ledger: &Ledger,
    rules: &Rules,
    is_pinned: impl Fn(&str) -> bool,
    demand: impl FnOnce() -> Vec<Demand>,
) -> Snapshot {
    let (residents, devices) = if ledger.loads().iter().any(asks) {
        measured(workers).await
    } else {
        (workers.residents(), Vec::new())
    };
    let ids: HashSet<&str> = residents.iter().map(|worker| &*worker.worker_id).collect();
    ledger.keep_drains(|worker_id| ids.contains(worker_id));
    let loads: Vec<_> =
        ledger.loads().iter().filter(|load| !has_its_worker(load, &residents)).map(LoadEntry::load).collect();
    let is_under_way = |load: &u64| loads.iter().any(|other| other.key == *load);
    let residents =
        residents.iter().map(|worker| resident(ledger, worker, &is_pinned, is_under_way)).collect();
    Snapshot {
        now: ledger.now(),
        rules: rules.clone(),
        devices: devices.iter().map(device).collect(),
        workers: residents,
        demand: demand(),
        loads,
        leases: Vec::new(),
    }
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
    let ended =
        before.iter().filter(|worker| residents.iter().all(|other| other.worker_id != worker.worker_id));
    let ended: Vec<_> =
        ended.map(|worker| ResidentWorker { phase: WorkerPhase::Stopping, ..worker.clone() }).collect();
    residents.extend(ended);
    (residents, devices)
}

fn asks(load: &LoadEntry) -> bool {
    matches!(load.phase, LoadPhase::Asking { .. })
}

/// Whether the worker of the load is ready: what it was granted is taken.
fn has_its_worker(load: &LoadEntry, residents: &[ResidentWorker]) -> bool {
    matches!(load.phase, LoadPhase::Granted { .. })
        && residents
            .iter()
            .any(|worker| worker.load == Some(load.key) && worker.phase != WorkerPhase::Loading)
}

fn device(memory: &workers::DeviceMemory) -> DeviceMemory {
    let workers::DeviceMemory { device, capacity, free, reserve } = *memory;
    DeviceMemory { device, capacity: Some(capacity), free: Some(free), reserve }
}

fn resident(
    ledger: &Ledger,
    worker: &ResidentWorker,
    is_pinned: impl Fn(&str) -> bool,
    is_under_way: impl Fn(&u64) -> bool,
) -> Resident {
    let (drained, is_stopping) = ledger.end_of(&worker.worker_id);
    let ready_at = worker.ready_at.map_or_else(|| ledger.now(), |at| ledger.at(at));
    Resident {
        key: worker.pid,
        model: worker.model.as_str().into(),
        holds: worker.holds.clone(),
        expected: worker.expected.clone(),
        phase: match worker.phase {
            _ if is_stopping => Phase::Stopping,
            WorkerPhase::Loading => Phase::Loading(worker.load.filter(is_under_way)),
            WorkerPhase::Ready => Phase::Ready,
            WorkerPhase::Unresponsive => Phase::Unresponsive,
            WorkerPhase::Stopping => Phase::Stopping,
        },
        draining: drained.map(|entry| entry.drain),
        in_flight: worker.in_flight,
        ready_at,
        last_used: worker.last_used.map_or(ready_at, |at| ledger.at(at).max(ready_at)),
        load_time: worker.load_time,
        keep: match worker.keep_alive {
            _ if is_pinned(&worker.model) => Keep::Pinned,
            KeepAlive::For(idle) => Keep::For(idle),
            KeepAlive::Forever => Keep::UntilNeeded,
        },
        outdated: false,
    }
}
