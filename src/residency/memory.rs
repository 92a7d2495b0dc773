//! Memory as the decision counts it, on each device where the free memory is known. On the others everything
//! fits.

use std::sync::Arc;

use super::snapshot::{Amounts, DeviceMemory, LeasePhase, LoadPhase, Phase, Resident, Snapshot};
use crate::workers::Device;

/// What the devices have left for those who ask, in the order in which they are served.
pub(super) struct Room(Vec<DeviceRoom>);

/// Numbers below 0 mean that more is taken than there should be: other programs grow, and estimates are wrong.
struct DeviceRoom {
    device: Device,
    /// What other programs leave, at most.
    limit: i128,
    /// What was free at the beginning of the decision, neither kept for other programs nor promised to anyone.
    at_first: i128,
    /// What of it those who asked earlier neither get nor need.
    free: i128,
    /// What workers that end will bring, and those who asked earlier do not need.
    coming: i128,
}

impl Room {
    pub(super) fn of(now: &Snapshot) -> Self {
        let known = now.devices.iter().filter_map(|device| Some((device, device.free?)));
        Self(known.map(|(memory, free)| DeviceRoom::of(now, memory, free)).collect())
    }

    /// Whether so much is free now, and not needed by those who asked earlier.
    pub(super) fn has(&self, needs: &Amounts) -> bool {
        self.left_after(needs) >= 0
    }

    /// What stays free on the device that has the least left once the needs are met.
    pub(super) fn left_after(&self, needs: &Amounts) -> i128 {
        let needed = self.0.iter().filter(|room| on(needs, room.device) > 0);
        needed.map(|room| room.free - i128::from(on(needs, room.device))).min().unwrap_or(i128::MAX)
    }

    /// The device that has too little even once everything has gone that may go, and by how much. What loads
    /// may go, too, once it is ready, unless it is a load of the same model.
    pub(super) fn short_of(
        &self,
        now: &Snapshot,
        needs: &Amounts,
        model: Option<&Arc<str>>,
        may_go: impl Fn(&Resident) -> bool,
    ) -> Option<(Device, u64)> {
        let most = |room: &DeviceRoom| {
            let going = now.workers.iter().filter(|worker| worker.phase == Phase::Stopping || may_go(worker));
            let going = going.map(|worker| brings(worker, room.device));
            let granted = granted(now).filter(|load| model != Some(load.model));
            let granted = granted.map(|load| on(load.needs, room.device));
            let comes: i128 = going.chain(granted).map(i128::from).sum();
            room.limit.min(room.at_first + comes)
        };
        let short = self.0.iter().map(|room| (room.device, above(on(needs, room.device), most(room))));
        short.filter(|(_, missing)| *missing > 0).max_by_key(|(_, missing)| *missing)
    }

    /// What is missing now.
    pub(super) fn missing_now(&self, needs: &Amounts) -> Option<(Device, u64)> {
        let missing = self.0.iter().map(|room| (room.device, above(on(needs, room.device), room.free)));
        missing.max_by_key(|(_, missing)| *missing).filter(|(_, missing)| *missing > 0)
    }

    /// What is missing even once the workers that end have ended, and that one.
    pub(super) fn missing(&self, needs: &Amounts, going: Option<&Resident>) -> Amounts {
        let missing = self.0.iter().map(|room| {
            let brings = going.map_or(0, |worker| brings(worker, room.device));
            (room.device, above(on(needs, room.device), room.free + room.coming + i128::from(brings)))
        });
        missing.filter(|(_, missing)| *missing > 0).collect()
    }

    /// Gives what is free to one who asks.
    pub(super) fn give(&mut self, needs: &Amounts) {
        for room in &mut self.0 {
            room.free -= i128::from(on(needs, room.device));
        }
    }

    /// Keeps so much for one who waits: of what is coming, since it waits for that anyway, and else of what is free.
    pub(super) fn keep(&mut self, needs: &Amounts) {
        for room in &mut self.0 {
            let need = i128::from(on(needs, room.device));
            let of_coming = need.min(room.coming);
            room.coming -= of_coming;
            room.free -= need - of_coming;
        }
    }

    /// Counts on what a worker that goes will bring.
    pub(super) fn expect(&mut self, worker: &Resident) {
        for room in &mut self.0 {
            room.coming += i128::from(brings(worker, room.device));
        }
    }
}

impl DeviceRoom {
    fn of(now: &Snapshot, memory: &DeviceMemory, free: u64) -> Self {
        let device = memory.device;
        let leased = now.leases.iter().map(|lease| match lease.phase {
            LeasePhase::Held { untaken, .. } if lease.device == device => untaken,
            _ => 0,
        });
        let to_take = now.workers.iter().map(|worker| brings(worker, device) - on(&worker.holds, device));
        let granted = granted(now).map(|load| on(load.needs, device));
        let promised: i128 = leased.chain(to_take).chain(granted).map(i128::from).sum();
        let stopping = now.workers.iter().filter(|worker| worker.phase == Phase::Stopping);
        let coming: i128 = stopping.map(|worker| i128::from(brings(worker, device))).sum();
        let free = i128::from(free) - i128::from(memory.reserve) - promised;
        let limit = memory.capacity.map_or(i128::MAX, |all| i128::from(all) - i128::from(memory.reserve));
        Self { device, limit, at_first: free, free, coming }
    }
}

/// The bytes on that device.
pub(super) fn on(amounts: &Amounts, device: Device) -> u64 {
    amounts.iter().filter(|(known, _)| *known == device).map(|(_, bytes)| *bytes).sum()
}

/// What the worker's end brings: what it holds, or what it will hold where it loads.
pub(super) fn brings(worker: &Resident, device: Device) -> u64 {
    let holds = on(&worker.holds, device);
    if is_loading(worker) { holds.max(on(&worker.expected, device)) } else { holds }
}

pub(super) fn is_loading(worker: &Resident) -> bool {
    matches!(worker.phase, Phase::Loading(_))
}

/// A load whose memory is granted and that has no worker yet.
pub(super) struct GrantedLoad<'a> {
    pub(super) model: &'a Arc<str>,
    pub(super) needs: &'a Amounts,
}

pub(super) fn granted(now: &Snapshot) -> impl Iterator<Item = GrantedLoad<'_>> {
    let has_worker = |load| now.workers.iter().any(|worker| worker.phase == Phase::Loading(Some(load)));
    now.loads.iter().filter_map(move |load| match &load.phase {
        LoadPhase::Granted { needs } if !has_worker(load.key) => {
            Some(GrantedLoad { model: &load.model, needs })
        }
        _ => None,
    })
}

/// By how much the need is above what there is. Who needs nothing lacks nothing, even where less than nothing is left.
fn above(need: u64, there: i128) -> u64 {
    let missing = if need == 0 { 0 } else { i128::from(need) - there };
    u64::try_from(missing).unwrap_or(0)
}
