//! Snapshots by chance, consistent or not: what no run of a world happens to lead to.

use std::sync::Arc;
use std::time::Duration;

use super::chance::Chance;
use super::setting::{Model, Setting};
use crate::residency::snapshot::{
    Amounts, Beneficiary, Demand, DeviceMemory, Drain, Keep, Lease, LeasePhase, Load, LoadPhase, Origin,
    Phase, Resident, Snapshot,
};

const NOW: Duration = Duration::from_secs(1000);

pub(super) fn snapshot(chance: &mut Chance) -> Snapshot {
    let setting = Setting::by_chance(chance);
    let devices = setting.devices.iter().map(|device| DeviceMemory {
        device: device.device,
        capacity: device.is_known.then_some(device.capacity),
        free: device.is_known.then(|| chance.number(0..device.capacity)),
        reserve: device.reserve,
    });
    let devices = devices.collect();
    let models = &setting.models;
    let loads: Vec<_> = (0..chance.number(0..4)).map(|key| load(chance, key, models)).collect();
    let workers = (0..chance.number(0..8)).map(|key| worker(chance, key, models, loads.len())).collect();
    let leases = (0..chance.number(0..3)).map(|key| {
        let bytes = chance.number(1..8 << 30);
        let held = LeasePhase::Held { untaken: chance.number(0..bytes), expires_at: time(chance) + NOW / 2 };
        let phase = if chance.percent(50) { LeasePhase::Asking } else { held };
        let device = setting.devices[chance.index(setting.devices.len())].device;
        Lease { key, device, bytes, since: time(chance), phase }
    });
    let leases = leases.collect();
    let wanted = models.iter().filter(|_| chance.percent(40)).collect::<Vec<_>>();
    let demand = wanted.into_iter().map(|model| Demand {
        model: Arc::clone(&model.name),
        waiting: chance.index(4),
        not_before: chance.percent(20).then(|| time(chance) + NOW / 2),
    });
    let demand = demand.collect();
    Snapshot { now: NOW, rules: setting.rules, devices, workers, demand, loads, leases }
}

/// Some time before now, often just before.
fn time(chance: &mut Chance) -> Duration {
    let ago = chance.pick(&[1, 300, 3000, 100_000]);
    NOW - chance.ms(0..ago)
}

fn needs(chance: &mut Chance, model: &Model) -> Amounts {
    let placement = chance.index(model.placements.len());
    model.placements[placement].needs.clone()
}

fn load(chance: &mut Chance, key: u64, models: &[Model]) -> Load {
    let model = &models[chance.index(models.len())];
    let replaces = chance.percent(20).then(|| u32::try_from(chance.index(8)).unwrap_or(0));
    let since = time(chance);
    let phase = match chance.index(4) {
        0 => LoadPhase::Submitted,
        1 => LoadPhase::Granted { needs: needs(chance, model) },
        _ => LoadPhase::Asking { placements: model.placements.clone(), replaces },
    };
    let by = chance.pick(&[Origin::Requests, Origin::Requests, Origin::Person, Origin::Settings]);
    Load { key, model: Arc::clone(&model.name), by, since, phase }
}

fn worker(chance: &mut Chance, key: u64, models: &[Model], loads: usize) -> Resident {
    let model = &models[chance.index(models.len())];
    let by = match chance.index(5) {
        0 => Beneficiary::Idle,
        1 => Beneficiary::Lease(chance.number(0..3)),
        _ => Beneficiary::Load(chance.number(0..4)),
    };
    let draining = chance.percent(30).then(|| Drain { by, since: time(chance) });
    let loading = Phase::Loading((loads > 0 && chance.percent(70)).then(|| chance.number(0..loads as u64)));
    let ready_at = time(chance);
    let keep = chance.pick(&[
        Keep::For(Duration::from_secs(3)),
        model.keep,
        Keep::UntilNeeded,
        Keep::For(Duration::MAX),
    ]);
    let expected = needs(chance, model);
    Resident {
        key: u32::try_from(key).unwrap_or(0),
        model: Arc::clone(&model.name),
        holds: expected.iter().map(|(device, bytes)| (*device, chance.number(0..*bytes))).collect(),
        expected,
        phase: chance.pick(&[
            Phase::Ready,
            Phase::Ready,
            Phase::Ready,
            Phase::Unresponsive,
            Phase::Stopping,
            loading,
        ]),
        draining,
        in_flight: chance.index(3),
        ready_at,
        last_used: time(chance).max(ready_at),
        load_time: chance.ms(0..9000),
        keep,
        outdated: chance.percent(10),
    }
}
