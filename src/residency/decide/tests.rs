//! Single rules, each as a situation and what is decided in it.
//!
//! It is 1000 s after the start. There is one GPU, of 10 GiB, and a processor whose memory is not known. Workers
//! are ready since 900 s and have had no request since, unless they say otherwise.

use super::*;
use crate::config::DeviceKind;
use crate::residency::snapshot::{
    Amounts, Demand, DeviceMemory, Drain, Lease, Load, LoadPhase, Origin, Phase, Rules,
};
use crate::residency::testing::told;
use crate::workers::Device;

const NOW: Duration = Duration::from_secs(1000);
const GPU: Device = Device::Exact { kind: DeviceKind::Cuda, index: 0 };
const GIB: u64 = 1 << 30;

/// That many GiB of the GPU are free.
fn with_free(gib: u64) -> Snapshot {
    let gpu = DeviceMemory { device: GPU, capacity: Some(10 * GIB), free: Some(gib * GIB), reserve: 0 };
    let cpu = DeviceMemory { device: Device::CPU, capacity: None, free: None, reserve: 0 };
    Snapshot { now: NOW, devices: vec![gpu, cpu], ..Snapshot::default() }
}

fn gpu(gib: u64) -> Amounts {
    vec![(GPU, gib * GIB)]
}

fn worker(key: WorkerKey, model: &str, gib: u64) -> Resident {
    Resident {
        key,
        model: model.into(),
        holds: gpu(gib),
        expected: gpu(gib),
        phase: Phase::Ready,
        draining: None,
        in_flight: 0,
        ready_at: Duration::from_secs(900),
        last_used: Duration::from_secs(900),
        load_time: Duration::from_secs(5),
        keep: Keep::UntilNeeded,
        outdated: false,
    }
}

fn drained_for(load: u64, since: u64) -> Option<Drain> {
    Some(Drain { by: Beneficiary::Load(load), since: Duration::from_secs(since) })
}

/// A load by requests that asks for so much of the GPU.
fn asks(key: u64, model: &str, gib: u64) -> Load {
    load(key, model, vec![Placement { class: 0, needs: gpu(gib) }])
}

fn load(key: u64, model: &str, placements: Vec<Placement>) -> Load {
    let since = Duration::from_secs(990 + key);
    let phase = LoadPhase::Asking { since, placements, replaces: None };
    Load { key, model: model.into(), by: Origin::Requests, since, phase }
}

fn wait_for(model: &str) -> Demand {
    Demand { model: model.into(), waiting: 1, oldest: Duration::from_secs(990), not_before: None }
}

/// `a` asks for 4 GiB, for requests that wait, where so much is free beside the workers.
fn a_asks(free: u64, workers: Vec<Resident>) -> Snapshot {
    Snapshot { workers, loads: vec![asks(1, "a", 4)], demand: vec![wait_for("a")], ..with_free(free) }
}

/// The situation, and what is decided in it.
#[track_caller]
fn decided(now: &Snapshot, expected: &[&str]) {
    assert_eq!(told(&decide(now)), expected, "{now:?}");
}

// What is loaded.

#[test]
fn a_model_that_requests_wait_for_is_loaded() {
    let demand = vec![Demand { waiting: 3, ..wait_for("a") }];
    let asked = Snapshot { demand, ..with_free(10) };
    decided(&asked, &["load a: 3 requests wait for it"]);

    let off = Rules { on_demand: false, ..Rules::default() };
    decided(&Snapshot { rules: off, ..asked.clone() }, &[]);
    let submitted = Load { phase: LoadPhase::Submitted, ..asks(1, "a", 4) };
    decided(&Snapshot { loads: vec![submitted], ..asked.clone() }, &[]);
    for phase in [Phase::Ready, Phase::Unresponsive, Phase::Loading(None)] {
        decided(&Snapshot { workers: vec![Resident { phase, ..worker(41, "a", 4) }], ..asked.clone() }, &[]);
    }
    let ending = Resident { phase: Phase::Stopping, ..worker(41, "a", 4) };
    decided(&Snapshot { workers: vec![ending], ..asked }, &["load a: 3 requests wait for it"]);
}

#[test]
fn a_load_that_failed_is_tried_again_later() {
    let not_before = Some(Duration::from_secs(1003));
    let demand = vec![Demand { not_before, ..wait_for("a") }];
    decided(&Snapshot { demand, ..with_free(10) }, &["wake at 16 min 43 s"]);
    let demand = vec![Demand { not_before: Some(NOW), ..wait_for("a") }];
    decided(&Snapshot { demand, ..with_free(10) }, &["load a: a request waits for it"]);
}

#[test]
fn a_load_that_no_request_waits_for_any_more_is_cancelled() {
    for phase in [LoadPhase::Submitted, asks(1, "a", 4).phase] {
        let nobody = Snapshot { loads: vec![Load { phase, ..asks(1, "a", 4) }], ..with_free(10) };
        decided(&nobody, &["cancel load 1"]);
    }
    let granted = Load { phase: LoadPhase::Granted { needs: gpu(4) }, ..asks(1, "a", 4) };
    decided(&Snapshot { loads: vec![granted], ..with_free(10) }, &[]);
    let person = Load { by: Origin::Person, ..asks(1, "a", 4) };
    decided(&Snapshot { loads: vec![person.clone()], ..with_free(10) }, &["grant load 1 at 0"]);
    // A person's load of the same model serves the requests, too.
    let two = vec![person, asks(2, "a", 4)];
    let both = Snapshot { loads: two, demand: vec![wait_for("a")], ..with_free(10) };
    decided(&both, &["cancel load 2", "grant load 1 at 0"]);
}

#[test]
fn a_worker_with_changed_settings_is_loaded_again_once_it_is_idle() {
    let outdated = Resident { outdated: true, ..worker(41, "a", 4) };
    let idle = Snapshot { workers: vec![outdated.clone()], ..with_free(6) };
    decided(&idle, &["load a: its settings have changed, and its worker is idle"]);
    let just_used = Resident { last_used: NOW - Duration::from_millis(300), ..outdated.clone() };
    decided(&Snapshot { workers: vec![just_used], ..with_free(6) }, &["wake at 16 min 40 s"]);
    let busy = Resident { in_flight: 1, ..outdated.clone() };
    decided(&Snapshot { workers: vec![busy], ..with_free(6) }, &[]);

    let mut reload = Load { by: Origin::Settings, ..asks(1, "a", 8) };
    let LoadPhase::Asking { replaces, .. } = &mut reload.phase else { unreachable!() };
    *replaces = Some(41);
    let pinned = Resident { keep: Keep::Pinned, ..outdated };
    let asking = Snapshot { workers: vec![pinned.clone()], loads: vec![reload], ..with_free(6) };
    let replaced = "another worker of its model replaces it";
    let waits = "load 1 waits for worker 41 to finish answering and to end";
    decided(&asking, &[&format!("drain 41: {replaced}"), waits]);
    let drained_worker = Resident { draining: drained_for(1, 999), ..pinned };
    let drained = Snapshot { workers: vec![drained_worker.clone()], ..asking.clone() };
    decided(&drained, &[&format!("stop 41: {replaced}"), waits]);
    let ending =
        Snapshot { workers: vec![Resident { phase: Phase::Stopping, ..drained_worker }], ..asking.clone() };
    decided(&ending, &["load 1 waits for 2.0 GiB on cuda:0 that ended workers still hold"]);
    decided(&Snapshot { workers: vec![], devices: with_free(8).devices, ..asking }, &["grant load 1 at 0"]);
}

// What is granted.

#[test]
fn what_fits_is_granted() {
    decided(&a_asks(4, vec![]), &["grant load 1 at 0"]);
    let unknown = vec![Placement { class: 0, needs: vec![] }];
    let load_of_unknown =
        Snapshot { loads: vec![load(1, "a", unknown)], demand: vec![wait_for("a")], ..with_free(0) };
    decided(&load_of_unknown, &["grant load 1 at 0"]);
    let on_cpu = vec![Placement { class: 0, needs: vec![(Device::CPU, 999 * GIB)] }];
    decided(&Snapshot { loads: vec![load(1, "a", on_cpu)], ..load_of_unknown }, &["grant load 1 at 0"]);
}

#[test]
fn memory_that_is_kept_or_promised_is_not_granted() {
    let refused = |missing| {
        format!(
            "refuse load 1: {missing} of memory are missing on cuda:0, even if every worker goes that may go"
        )
    };
    let mut reserved = a_asks(5, vec![]);
    reserved.devices[0].reserve = 2 * GIB;
    decided(&reserved, &[&refused("1.0 GiB")]);

    let phase = LeasePhase::Held { untaken: 3 * GIB, expires_at: NOW + Duration::from_secs(50) };
    let lease = Lease { key: 7, device: GPU, bytes: 6 * GIB, since: NOW, phase };
    let leased = Snapshot { leases: vec![lease], ..a_asks(5, vec![]) };
    decided(&leased, &[&refused("2.0 GiB"), "wake at 17 min 30 s"]);

    let waits = ["load 1 waits for the load of 'b', which came first"];
    let loading = Resident { holds: gpu(1), phase: Phase::Loading(None), ..worker(42, "b", 3) };
    decided(&a_asks(5, vec![loading]), &waits);
    let granted = Load { phase: LoadPhase::Granted { needs: gpu(2) }, ..asks(9, "b", 2) };
    let mut one_granted = a_asks(5, vec![]);
    one_granted.loads.push(granted);
    decided(&one_granted, &waits);
}
