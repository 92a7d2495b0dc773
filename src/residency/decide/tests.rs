//! Single rules, each as a situation and what is decided in it.
//!
//! It is 1000 s after the start. There is one GPU, of 10 GiB, and a processor whose memory is not known. Workers
//! are ready since 900 s and have had no request since, unless they say otherwise.

use std::time::Duration;

use super::*;
use crate::config::DeviceKind;
use crate::residency::snapshot::{
    Amounts, Demand, DeviceMemory, Drain, Lease, Load, LoadPhase, Origin, Phase, Placement, Resident, Rules,
    WorkerKey,
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
    let phase = LoadPhase::Asking { placements, replaces: None };
    Load { key, model: model.into(), by: Origin::Requests, since, phase }
}

fn wait_for(model: &str) -> Demand {
    Demand { model: model.into(), waiting: 1, not_before: None }
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
    let two = vec![outdated.clone(), Resident { key: 42, ..outdated.clone() }];
    decided(
        &Snapshot { workers: two, ..with_free(2) },
        &["load a: its settings have changed, and its worker is idle"],
    );
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

#[test]
fn only_so_many_load_at_once() {
    let rules = Rules { concurrent_loads: 1, ..Rules::default() };
    let loads = vec![asks(1, "a", 2), asks(2, "b", 2)];
    let demand = vec![wait_for("a"), wait_for("b")];
    let two = Snapshot { rules, loads, demand, ..with_free(10) };
    let waits = "load 2 waits for the load of 'a', which came first";
    decided(&two, &["grant load 1 at 0", waits]);
    let loading = Resident { phase: Phase::Loading(Some(1)), ..worker(41, "a", 2) };
    let first = Load { phase: LoadPhase::Granted { needs: gpu(2) }, ..asks(1, "a", 2) };
    decided(
        &Snapshot { workers: vec![loading], loads: vec![first, asks(2, "b", 2)], ..two.clone() },
        &[waits],
    );
    // The place is kept for the one that came first, which waits for idle workers to end; but nothing stays idle
    // where it waits for answers.
    let drained = Resident { draining: drained_for(1, 999), ..worker(41, "c", 9) };
    let waits_for_it = "load 1 waits for worker 41 to finish answering and to end";
    let reason = "stop 41: idle for 1 min 40 s, and 'a' needs its room";
    let mut full =
        Snapshot { workers: vec![drained.clone()], loads: vec![asks(1, "a", 9), asks(2, "b", 1)], ..two };
    full.devices[0].free = Some(GIB);
    decided(&full, &[reason, waits_for_it, waits]);
    full.workers = vec![Resident { in_flight: 1, ..drained }];
    decided(&full, &[waits_for_it, "grant load 2 at 0", "wake at 18 min 39 s"]);
}

#[test]
fn a_load_gets_only_what_those_that_came_first_do_not_need() {
    let busy = Resident { in_flight: 1, draining: drained_for(1, 999), ..worker(41, "c", 6) };
    let loads = |gib| vec![asks(1, "big", 8), asks(2, "small", gib)];
    let demand = vec![wait_for("big"), wait_for("small")];
    let two = Snapshot { workers: vec![busy], loads: loads(2), demand, ..with_free(4) };
    let waits = "load 1 waits for worker 41 to finish answering and to end";
    decided(&two, &[waits, "grant load 2 at 0", "wake at 18 min 39 s"]);
    let behind = "load 2 waits for the load of 'big', which came first";
    decided(&Snapshot { loads: loads(3), ..two }, &[waits, behind, "wake at 18 min 39 s"]);
}

#[test]
fn the_best_place_that_can_be_had_is_taken() {
    const OTHER: Device = Device::Exact { kind: DeviceKind::Cuda, index: 1 };
    let place = |class, device, gib| Placement { class, needs: vec![(device, gib * GIB)] };
    let places = vec![place(0, GPU, 4), place(0, OTHER, 4), place(3, Device::CPU, 4)];
    let mut now = Snapshot { loads: vec![load(1, "a", places)], demand: vec![wait_for("a")], ..with_free(5) };
    now.devices.push(DeviceMemory { device: OTHER, free: Some(6 * GIB), ..now.devices[0].clone() });
    // Of two of one class, the one with more room.
    decided(&now, &["grant load 1 at 1"]);
    // One that is free rather than one that needs an eviction.
    now.devices[2].free = Some(0);
    now.workers = vec![Resident { holds: vec![(OTHER, 10 * GIB)], ..worker(41, "b", 0) }];
    decided(&now, &["grant load 1 at 0"]);
    // One of a better class is waited for, even where the processor is free.
    now.devices[0].free = Some(3 * GIB);
    now.workers[0].in_flight = 1;
    let drain = "drain 41: it had its time, and 'a' needs its room";
    decided(&now, &[drain, "load 1 waits for worker 41 to finish answering and to end"]);
    // But not one that can never be had.
    now.workers[0].keep = Keep::Pinned;
    decided(&now, &["grant load 1 at 2"]);
}

// Who goes.

/// What is decided if `a` asks for 4 GiB of a full GPU with these workers.
#[track_caller]
fn goes(workers: Vec<Resident>, expected: &[WorkerKey]) {
    let now = a_asks(0, workers);
    let decision = decide(&now);
    let drained = decision.actions.iter().filter_map(|action| match action {
        Action::Drain { worker, by: Beneficiary::Load(1), .. } => Some(*worker),
        _ => None,
    });
    assert_eq!(drained.collect::<Vec<_>>(), expected, "{:#?}", told(&decision));
}

#[test]
fn those_that_cost_the_least_go() {
    let used = |key, seconds_ago| Resident {
        last_used: NOW - Duration::from_secs(seconds_ago),
        ..worker(key, "b", 4)
    };
    // The one that was not used for longest.
    goes(vec![used(41, 60), used(42, 90), used(43, 30)], &[42]);
    // The one that loads faster.
    let slow = Resident { load_time: Duration::from_secs(60), ..used(41, 90) };
    goes(vec![slow, used(42, 60)], &[42]);
    // One that is idle rather than one with answers under way, and rather two of them.
    let busy = |key| Resident { in_flight: 1, ..used(key, 0) };
    goes(vec![busy(41), used(42, 10)], &[42]);
    let small = |key| Resident { holds: gpu(2), ..used(key, 50) };
    goes(vec![busy(41), small(42), small(43)], &[42, 43]);
    // One rather than two alike.
    goes(vec![small(41), small(42), used(43, 50)], &[43]);
    // One that brings enough, rather than one that is idle for longer and does not; and no more than needed.
    goes(vec![Resident { holds: gpu(1), ..used(41, 99) }, used(42, 20), used(43, 10)], &[42]);
    // With many of them, not all sets are tried; but none goes that is not needed.
    let large = (42..60).map(|key| used(key, 30));
    goes([Resident { holds: gpu(1), ..used(41, 60) }].into_iter().chain(large).collect(), &[42]);
    goes(
        (0..30).map(|key| Resident { holds: gpu(1), ..used(key, 60 + u64::from(key)) }).collect(),
        &[29, 28, 27, 26],
    );
}

#[test]
fn these_never_go() {
    let refused =
        "refuse load 1: 4.0 GiB of memory are missing on cuda:0, even if every worker goes that may go";
    decided(&a_asks(0, vec![Resident { keep: Keep::Pinned, ..worker(41, "b", 4) }]), &[refused]);
    let mut second = a_asks(0, vec![worker(41, "a", 4)]);
    second.loads[0].by = Origin::Person;
    decided(&second, &[refused]);
    let elsewhere = Resident { holds: vec![(Device::CPU, 99 * GIB)], ..worker(41, "b", 0) };
    decided(&a_asks(0, vec![elsewhere]), &[refused]);
    // Not even everything that there is would be enough.
    let fake = worker(41, "b", 99);
    let loads = vec![asks(1, "a", 11)];
    let refused =
        "refuse load 1: 1.0 GiB of memory are missing on cuda:0, even if every worker goes that may go";
    decided(&Snapshot { loads, ..a_asks(0, vec![fake]) }, &[refused]);
}

#[test]
fn a_worker_with_requests_stays_for_its_minimum_time() {
    let since = |seconds| NOW - Duration::from_secs(seconds);
    let fresh = Resident { ready_at: since(4), last_used: since(0), ..worker(41, "b", 10) };
    let stays = "load 1 waits for worker 41, which is new and stays until it is idle or had its time";
    let waiting = Snapshot { demand: vec![wait_for("a"), wait_for("b")], ..a_asks(0, vec![]) };
    let busy = Resident { in_flight: 1, ..fresh.clone() };
    decided(&a_asks(0, vec![busy.clone()]), &[stays, "wake at 16 min 46 s"]);
    decided(&Snapshot { workers: vec![fresh.clone()], ..waiting.clone() }, &[stays, "wake at 16 min 46 s"]);
    // After it, it finishes its answers and goes.
    let old = Resident { ready_at: since(10), ..busy };
    let drain = "drain 41: it had its time, and 'a' needs its room";
    let finish = "load 1 waits for worker 41 to finish answering and to end";
    decided(&Snapshot { workers: vec![old], ..waiting }, &[drain, finish]);
    // It goes earlier if no request has come for a moment.
    decided(&a_asks(0, vec![fresh.clone()]), &[stays, "wake at 16 min 41 s"]);
    let idle = Resident { last_used: since(1), ..fresh };
    decided(&a_asks(0, vec![idle]), &["drain 41: idle for 1 s, and 'a' needs its room", finish]);
}

#[test]
fn workers_go_together_once_none_of_them_answers_a_request() {
    let idle = Resident { draining: drained_for(1, 990), ..worker(41, "b", 2) };
    let busy = Resident { in_flight: 1, draining: drained_for(1, 990), ..worker(42, "c", 2) };
    let finish = "load 1 waits for workers 41 and 42 to finish answering and to end";
    decided(&a_asks(0, vec![idle.clone(), busy.clone()]), &[finish, "wake at 18 min 30 s"]);
    let done = Resident { in_flight: 0, ..busy };
    let reason = "idle for 1 min 40 s, and 'a' needs its room";
    decided(
        &a_asks(0, vec![idle, done]),
        &[&format!("stop 41: {reason}"), &format!("stop 42: {reason}"), finish],
    );
    let ending = Resident { phase: Phase::Stopping, ..worker(41, "b", 4) };
    decided(&a_asks(0, vec![ending]), &["load 1 waits for 4.0 GiB on cuda:0 that ended workers still hold"]);
}

#[test]
fn a_load_does_not_wait_for_answers_for_ever() {
    let busy = |since| Resident { in_flight: 1, draining: drained_for(1, since), ..worker(41, "b", 4) };
    let finish = "load 1 waits for worker 41 to finish answering and to end";
    decided(&a_asks(0, vec![busy(881)]), &[finish, "wake at 16 min 41 s"]);
    let refused = "refuse load 1: worker 41 did not finish answering within 2 min 0 s";
    decided(&a_asks(0, vec![busy(880)]), &[refused, "reopen 41"]);
}

#[test]
fn a_worker_that_was_drained_for_nothing_is_opened_again() {
    let drained = Resident { draining: drained_for(1, 990), ..worker(41, "b", 4) };
    // Its load has ended, was granted, or fits without it.
    decided(&Snapshot { workers: vec![drained.clone()], ..with_free(0) }, &["reopen 41"]);
    decided(&a_asks(4, vec![drained.clone()]), &["grant load 1 at 0", "reopen 41"]);
    let granted = Load { phase: LoadPhase::Granted { needs: gpu(4) }, ..asks(1, "a", 4) };
    let granted = Snapshot { loads: vec![granted], ..a_asks(4, vec![drained.clone()]) };
    decided(&granted, &["reopen 41"]);
    // Another one costs less by now.
    let busy = Resident { in_flight: 1, ..drained.clone() };
    let finish = "load 1 waits for worker 42 to finish answering and to end";
    let drain = "drain 42: idle for 1 min 40 s, and 'a' needs its room";
    decided(&a_asks(0, vec![busy, worker(42, "c", 4)]), &[drain, finish, "reopen 41"]);
    // Its time without requests was over, and now one waits for it.
    let idle = Drain { by: Beneficiary::Idle, since: NOW };
    let idle = Resident { keep: Keep::For(Duration::from_secs(60)), draining: Some(idle), ..drained };
    let wanted = Snapshot { workers: vec![idle], demand: vec![wait_for("b")], ..with_free(0) };
    decided(&wanted, &["reopen 41"]);
}

#[test]
fn an_idle_worker_goes_when_its_time_is_over() {
    let keep = |seconds| Resident { keep: Keep::For(Duration::from_secs(seconds)), ..worker(41, "a", 4) };
    let told =
        |worker, expected: &[&str]| decided(&Snapshot { workers: vec![worker], ..with_free(6) }, expected);
    let reason = "idle for 1 min 40 s, which is as long as it may be";
    told(keep(101), &["wake at 16 min 41 s"]);
    told(keep(100), &[&format!("drain 41: {reason}")]);
    told(keep(0), &[&format!("drain 41: {reason}")]);
    let draining = Some(Drain { by: Beneficiary::Idle, since: NOW });
    told(Resident { draining, ..keep(100) }, &[&format!("stop 41: {reason}")]);
    told(Resident { in_flight: 1, ..keep(100) }, &[]);
    told(Resident { keep: Keep::UntilNeeded, ..keep(0) }, &[]);
    told(Resident { keep: Keep::Pinned, ..keep(0) }, &[]);
    decided(&Snapshot { workers: vec![keep(100)], demand: vec![wait_for("a")], ..with_free(6) }, &[]);
}

// Leases.

#[test]
fn a_lease_gets_room_like_a_load_and_expires() {
    let asking = Lease {
        key: 7,
        device: GPU,
        bytes: 6 * GIB,
        since: Duration::from_secs(980),
        phase: LeasePhase::Asking,
    };
    let leases = vec![asking.clone()];
    decided(&Snapshot { leases: leases.clone(), ..with_free(6) }, &["grant lease 7"]);
    let refused =
        "refuse lease 7: 1.0 GiB of memory are missing on cuda:0, even if every worker goes that may go";
    decided(&Snapshot { leases: leases.clone(), ..with_free(5) }, &[refused]);
    let finish = "lease 7 waits for worker 41 to finish answering and to end";
    let drain = "drain 41: idle for 1 min 40 s, and another program needs its room";
    let occupied = Snapshot { workers: vec![worker(41, "b", 4)], leases: leases.clone(), ..with_free(5) };
    decided(&occupied, &[drain, finish]);
    // A load that came later gets what the lease leaves.
    let later = Snapshot { leases, ..a_asks(5, vec![worker(41, "b", 5)]) };
    let busy = Resident { in_flight: 1, ..worker(41, "b", 5) };
    decided(&later, &[drain, finish, "grant load 1 at 0"]);
    let later = Snapshot { loads: vec![asks(1, "a", 5)], workers: vec![busy], ..later };
    let drain = "drain 41: it had its time, and another program needs its room";
    decided(&later, &[drain, finish, "load 1 waits for another program, which asked for memory first"]);

    let held = |expires_at| LeasePhase::Held { untaken: 0, expires_at: Duration::from_secs(expires_at) };
    let leases = |at| vec![Lease { phase: held(at), ..asking.clone() }];
    decided(&Snapshot { leases: leases(1007), ..with_free(4) }, &["wake at 16 min 47 s"]);
    decided(&Snapshot { leases: leases(1000), ..with_free(4) }, &["end lease 7"]);
}
