//! What every decision must keep to, said a second time and more simply than the decision says it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::residency::snapshot::{
    Action, Amounts, Beneficiary, Decision, Keep, LeasePhase, LoadPhase, LoadReason, Origin, Phase, Refusal,
    Resident, Snapshot, StopReason, Waiting, WorkerKey,
};
use crate::workers::Device;

/// What went wrong.
pub(super) type Check = Result<(), String>;

/// One who asks for memory: who, since when, with which placements of the best class, and which worker it replaces.
struct Asking {
    by: Beneficiary,
    since: Duration,
    model: Option<String>,
    places: Vec<(u8, Amounts)>,
    replaces: Option<WorkerKey>,
}

/// Checks one decision against the snapshot that it was made from.
pub(super) fn check(now: &Snapshot, decision: &Decision) -> Check {
    let asking = asking(now);
    ensure(decision.wake_at.is_none_or(|at| at > now.now), || "it wakes at a time that has passed".into())?;
    once_each(now, decision)?;
    looks_again(now, decision)?;
    grants(now, decision)?;
    for action in &decision.actions {
        match action {
            Action::Drain { worker, by, because } => leaves(now, decision, &asking, *worker, *by, because)?,
            Action::Stop { worker, because } => {
                let worker = find(now, *worker)?;
                let by = worker.draining.map(|drain| drain.by);
                ensure(by.is_some() && worker.in_flight == 0, || {
                    format!("stop {} cuts answers", worker.key)
                })?;
                if let Some(by) = by {
                    let others = going_for(now, decision, by).filter(|_| by != Beneficiary::Idle);
                    ensure(others.into_iter().all(|other| other.in_flight == 0), || {
                        format!("worker {} ends for one who may wait in vain for another", worker.key)
                    })?;
                    leaves(now, decision, &asking, worker.key, by, because)?;
                }
            }
            Action::Refuse { load, why } => refusal(now, &asking, Beneficiary::Load(*load), why)?,
            Action::RefuseLease { lease, why } => refusal(now, &asking, Beneficiary::Lease(*lease), why)?,
            Action::Cancel { load } => {
                let load = now
                    .loads
                    .iter()
                    .find(|known| known.key == *load)
                    .ok_or("an unknown load is cancelled")?;
                let is_granted = matches!(load.phase, LoadPhase::Granted { .. });
                ensure(load.by == Origin::Requests && !is_granted, || {
                    format!("load {} is cancelled", load.key)
                })?;
                let others =
                    now.loads.iter().filter(|other| other.key != load.key && other.model == load.model);
                let is_served =
                    now.workers.iter().any(|w| w.model == load.model && w.phase != Phase::Stopping);
                ensure(!is_wanted(now, &load.model) || is_served || others.count() > 0, || {
                    format!("load {} is cancelled, and requests wait for it", load.key)
                })?;
            }
            Action::Load { model, because } => load(now, model, *because)?,
            Action::Grant { load, placement } => {
                let claim = asking.iter().find(|claim| claim.by == Beneficiary::Load(*load));
                let best = claim.and_then(|claim| claim.places.iter().map(|(class, _)| *class).min());
                ensure(best == Some(placements(now, *load)[*placement].0), || {
                    format!("load {load} does not get the best class")
                })?;
            }
            Action::Wait { why, .. } | Action::WaitLease { why, .. } => waits(now, decision, why)?,
            _ => {}
        }
    }
    first_comes_first(now, decision, &asking)
}

/// A model is loaded once, if requests wait for it, and not soon after it failed; or if its settings have changed.
fn load(now: &Snapshot, model: &str, because: LoadReason) -> Check {
    ensure(now.loads.iter().all(|load| &*load.model != model), || format!("'{model}' is loaded twice"))?;
    let mut workers =
        now.workers.iter().filter(|worker| &*worker.model == model && worker.phase != Phase::Stopping);
    let is_due = match because {
        LoadReason::Requests(waiting) => {
            let demand = now.demand.iter().find(|demand| &*demand.model == model);
            workers.next().is_none()
                && demand.is_some_and(|demand| {
                    demand.waiting == waiting && demand.not_before.is_none_or(|at| at <= now.now)
                })
        }
        LoadReason::SettingsChanged => workers.any(|worker| {
            worker.outdated && idle_for(now, worker).is_some_and(|idle| idle >= now.rules.linger)
        }),
    };
    ensure(is_due, || format!("'{model}' is loaded for nothing"))
}

/// What is waited for will come, or there is a time to look again.
fn waits(now: &Snapshot, decision: &Decision, why: &Waiting) -> Check {
    let is_sound = match why {
        Waiting::Workers(workers) => {
            !workers.is_empty() && workers.iter().all(|worker| find(now, *worker).is_ok())
        }
        Waiting::Stay { worker, until } => {
            find(now, *worker).is_ok() && *until > now.now && decision.wake_at.is_some_and(|at| at <= *until)
        }
        Waiting::Load(model) => {
            let loads = now.workers.iter().filter(|worker| is_loading(worker)).map(|worker| &worker.model);
            loads.chain(now.loads.iter().map(|load| &load.model)).any(|known| known == model)
        }
        Waiting::Lease(lease) => now.leases.iter().any(|known| known.key == *lease),
        Waiting::Memory { device, missing } => {
            let ending =
                |worker: &Resident| worker.phase == Phase::Stopping && on(&worker.holds, *device) > 0;
            *missing > 0 && now.workers.iter().any(ending)
        }
    };
    ensure(is_sound, || format!("it makes no sense to wait for {why}"))
}

/// Everyone who asks is told something, each worker has at most one action, and none stays drained for nobody.
fn once_each(now: &Snapshot, decision: &Decision) -> Check {
    let (mut told, mut workers, mut models) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for action in &decision.actions {
        let is_new = match action {
            Action::Grant { load, .. }
            | Action::Refuse { load, .. }
            | Action::Cancel { load }
            | Action::Wait { load, .. } => told.insert((0, *load)),
            Action::GrantLease { lease }
            | Action::RefuseLease { lease, .. }
            | Action::WaitLease { lease, .. } => told.insert((1, *lease)),
            Action::Drain { worker, .. } | Action::Stop { worker, .. } | Action::Reopen { worker } => {
                ensure(is_up(find(now, *worker)?), || format!("worker {worker} is not up"))?;
                workers.insert(*worker)
            }
            Action::Load { model, .. } => models.insert(model),
            Action::EndLease { .. } => true,
        };
        ensure(is_new, || format!("twice: {action:?}"))?;
    }
    for load in now.loads.iter().filter(|load| matches!(load.phase, LoadPhase::Asking { .. })) {
        ensure(told.contains(&(0, load.key)), || format!("load {} is told nothing", load.key))?;
    }
    for lease in now.leases.iter().filter(|lease| lease.phase == LeasePhase::Asking) {
        ensure(told.contains(&(1, lease.key)), || format!("lease {} is told nothing", lease.key))?;
    }
    let gone = |by| match by {
        Beneficiary::Load(load) => !now.loads.iter().any(|known| known.key == load),
        Beneficiary::Lease(lease) => !now.leases.iter().any(|known| known.key == lease),
        Beneficiary::Idle => false,
    };
    for worker in
        now.workers.iter().filter(|worker| is_up(worker) && worker.draining.is_some_and(|d| gone(d.by)))
    {
        ensure(workers.contains(&worker.key), || format!("worker {} is drained for nobody", worker.key))?;
    }
    Ok(())
}

/// Whoever waits for answers to end is looked at again when it has waited for long enough.
fn looks_again(now: &Snapshot, decision: &Decision) -> Check {
    let moved = |action: &Action| match action {
        Action::Reopen { worker } | Action::Drain { worker, .. } => Some(*worker),
        _ => None,
    };
    let moved: BTreeSet<_> = decision.actions.iter().filter_map(moved).collect();
    for worker in now.workers.iter().filter(|worker| is_up(worker) && worker.in_flight > 0) {
        let Some(drain) = worker.draining.filter(|_| !moved.contains(&worker.key)) else { continue };
        let is_in_time = |at| at <= drain.since + now.rules.drain_limit;
        ensure(decision.wake_at.is_some_and(is_in_time), || {
            format!("worker {} may stay drained", worker.key)
        })?;
    }
    Ok(())
}

/// What is granted is free, all of it together; and only so many load.
fn grants(now: &Snapshot, decision: &Decision) -> Check {
    let mut granted: Vec<Amounts> = Vec::new();
    let mut loads = 0;
    for action in &decision.actions {
        match action {
            Action::Grant { load, placement } => {
                granted.push(placements(now, *load)[*placement].1.clone());
                loads += 1;
            }
            Action::GrantLease { lease } => {
                let lease = now.leases.iter().find(|known| known.key == *lease).ok_or("an unknown lease")?;
                granted.push(vec![(lease.device, lease.bytes)]);
            }
            _ => {}
        }
    }
    for (device, free) in free(now) {
        let taken = sum(granted.iter().map(|needs| on(needs, device)));
        ensure(taken == 0 || taken <= free, || format!("{taken} granted on {device}, {free} free"))?;
    }
    let loading =
        now.workers.iter().filter(|worker| is_loading(worker)).count() + waiting_for_worker(now).count();
    ensure(loads == 0 || loading + loads <= now.rules.concurrent_loads, || {
        format!("{} load", loading + loads)
    })
}

/// A worker goes only for one who asks, could not be placed otherwise and needs it; and after its time.
fn leaves(
    now: &Snapshot,
    decision: &Decision,
    asking: &[Asking],
    worker: WorkerKey,
    by: Beneficiary,
    because: &StopReason,
) -> Check {
    let worker = find(now, worker)?;
    let idle = idle_for(now, worker);
    if by == Beneficiary::Idle {
        let limit = match worker.keep {
            Keep::For(limit) => Some(limit),
            Keep::UntilNeeded | Keep::Pinned => None,
        };
        let is_over = limit.is_some_and(|limit| idle.is_some_and(|idle| idle >= limit));
        return ensure(is_over && matches!(because, StopReason::Idle { .. }), || {
            format!("worker {} is not idle", worker.key)
        });
    }
    let claim = asking.iter().find(|claim| claim.by == by);
    let claim = claim.ok_or_else(|| format!("worker {} goes for one who does not ask", worker.key))?;
    if claim.replaces == Some(worker.key) {
        return Ok(());
    }
    ensure(worker.keep != Keep::Pinned, || format!("worker {} is pinned", worker.key))?;
    ensure(claim.model.as_deref() != Some(&*worker.model), || {
        format!("worker {} goes for itself", worker.key)
    })?;
    let had_its_time = worker.ready_at + now.rules.min_stay <= now.now;
    let is_idle = idle.is_some_and(|idle| idle >= now.rules.linger);
    ensure(had_its_time || is_idle, || format!("worker {} goes before its time", worker.key))?;

    // It would be placed without this worker, whatever those who came earlier take.
    let others = going_for(now, decision, by).filter(|other| other.key != worker.key);
    let going: Vec<_> = others.chain(now.workers.iter().filter(|w| w.phase == Phase::Stopping)).collect();
    let earlier =
        |device| sum(asking.iter().take_while(|other| other.by != by).map(|other| most(other, device)));
    let is_there =
        |device, free: i128| free + sum(going.iter().map(|w| on(&w.holds, device))) - earlier(device);
    let fits = |needs: &Amounts| {
        free(now).all(|(device, free)| on_i(needs, device) <= is_there(device, free).max(0))
    };
    let best = claim.places.iter().map(|(class, _)| *class).min();
    let needless =
        claim.places.iter().filter(|(class, _)| Some(*class) == best).any(|(_, needs)| fits(needs));
    ensure(!needless, || format!("worker {} goes for nothing", worker.key))
}

fn refusal(now: &Snapshot, asking: &[Asking], by: Beneficiary, why: &Refusal) -> Check {
    match why {
        Refusal::StillBusy { workers, .. } => {
            for worker in workers {
                let worker = find(now, *worker)?;
                let drain = worker.draining.filter(|drain| drain.by == by);
                let is_over = drain.is_some_and(|drain| drain.since + now.rules.drain_limit <= now.now);
                ensure(is_over && worker.in_flight > 0, || format!("worker {} has time yet", worker.key))?;
            }
            ensure(!workers.is_empty(), || "nobody is busy".into())
        }
        Refusal::DoesNotFit { .. } => {
            let claim =
                asking.iter().find(|claim| claim.by == by).ok_or("one is refused who does not ask")?;
            ensure(claim.places.is_empty(), || "one is refused that could be placed".into())
        }
    }
}

/// Those who came first get what they wait for: what is granted to later ones is nothing that they need.
fn first_comes_first(now: &Snapshot, decision: &Decision, asking: &[Asking]) -> Check {
    let granted = |action: &Action| match action {
        Action::Grant { load, placement } => {
            Some((Beneficiary::Load(*load), placements(now, *load)[*placement].1.clone()))
        }
        _ => None,
    };
    let waits = |action: &Action| match action {
        Action::Wait { load, why } => Some((Beneficiary::Load(*load), matches!(why, Waiting::Stay { .. }))),
        Action::WaitLease { lease, why } => {
            Some((Beneficiary::Lease(*lease), matches!(why, Waiting::Stay { .. })))
        }
        _ => None,
    };
    let waiting: BTreeMap<_, _> = decision.actions.iter().filter_map(waits).collect();
    let first = asking.iter().find_map(|claim| Some((claim, *waiting.get(&claim.by)?)));
    // Where workers stay for now, they are to go later, and what they hold counts.
    let Some((first, false)) = first else { return Ok(()) };
    let later = |by| asking.iter().any(|claim| claim.by == by && claim.since > first.since);
    let taken: Vec<_> = decision
        .actions
        .iter()
        .filter_map(granted)
        .filter(|(by, _)| later(*by))
        .map(|(_, needs)| needs)
        .collect();
    if taken.is_empty() || first.places.len() != 1 {
        return Ok(());
    }
    let going = asking.iter().flat_map(|claim| going_for(now, decision, claim.by));
    let going: Vec<_> = going.chain(now.workers.iter().filter(|w| w.phase == Phase::Stopping)).collect();
    for (device, free) in free(now) {
        let there = free + sum(going.iter().map(|worker| on(&worker.holds, device)));
        let needs = on_i(&first.places[0].1, device);
        let taken = sum(taken.iter().map(|needs| on(needs, device)));
        ensure(needs == 0 || there < needs || there - taken >= needs, || {
            format!("{:?} needs {needs} of {there} on {device}, and later ones get {taken}", first.by)
        })?;
    }
    Ok(())
}

/// Those who ask, in their order.
fn asking(now: &Snapshot) -> Vec<Asking> {
    let mut asking = Vec::new();
    for load in &now.loads {
        if let LoadPhase::Asking { replaces, .. } = &load.phase {
            let all = placements(now, load.key);
            let by = Beneficiary::Load(load.key);
            asking.push(Asking {
                by,
                since: load.since,
                model: Some(load.model.to_string()),
                places: all,
                replaces: *replaces,
            });
        }
    }
    for lease in now.leases.iter().filter(|lease| lease.phase == LeasePhase::Asking) {
        let places = vec![(0, vec![(lease.device, lease.bytes)])];
        let by = Beneficiary::Lease(lease.key);
        asking.push(Asking { by, since: lease.since, model: None, places, replaces: None });
    }
    for claim in &mut asking {
        let (model, replaces) = (claim.model.clone(), claim.replaces);
        claim.places.retain(|(_, needs)| can_ever_fit(now, needs, model.as_deref(), replaces));
    }
    asking.sort_by_key(|claim| claim.since);
    asking
}

/// Whether it fits once everything has gone that is neither pinned nor of the same model.
fn can_ever_fit(now: &Snapshot, needs: &Amounts, model: Option<&str>, replaces: Option<WorkerKey>) -> bool {
    let all_go = |worker: &&Resident| {
        worker.phase == Phase::Stopping
            || replaces == Some(worker.key)
            || (worker.keep != Keep::Pinned && model != Some(&*worker.model))
    };
    free(now).all(|(device, free)| {
        let goes = sum(now.workers.iter().filter(all_go).map(|worker| will_hold(worker, device)));
        let others = waiting_for_worker(now).filter(|(of, _)| model != Some(of));
        let loads = sum(others.map(|(_, needs)| on(needs, device)));
        let known = now.devices.iter().find(|known| known.device == device);
        let limit = known.and_then(|known| Some(i128::from(known.capacity?) - i128::from(known.reserve)));
        on_i(needs, device) <= (free + goes + loads).min(limit.unwrap_or(i128::MAX)).max(0)
    })
}

/// The workers that are, or will be, drained for that one.
fn going_for<'a>(
    now: &'a Snapshot,
    decision: &'a Decision,
    by: Beneficiary,
) -> impl Iterator<Item = &'a Resident> {
    now.workers.iter().filter(move |worker| {
        let mut drained = is_up(worker) && worker.draining.is_some_and(|drain| drain.by == by);
        for action in &decision.actions {
            match action {
                Action::Drain { worker: of, by: now_by, .. } if *of == worker.key => drained = *now_by == by,
                Action::Reopen { worker: of } if *of == worker.key => drained = false,
                _ => {}
            }
        }
        drained
    })
}

/// What is free on each device where that is known, less what is kept and promised.
fn free(now: &Snapshot) -> impl Iterator<Item = (Device, i128)> {
    now.devices.iter().filter_map(move |memory| {
        let device = memory.device;
        let leased = now.leases.iter().map(|lease| match lease.phase {
            LeasePhase::Held { untaken, .. } if lease.device == device => untaken,
            _ => 0,
        });
        let loading = now.workers.iter().map(|worker| will_hold(worker, device) - on(&worker.holds, device));
        let granted = waiting_for_worker(now).map(|(_, needs)| on(needs, device));
        Some((
            device,
            i128::from(memory.free?) - i128::from(memory.reserve) - sum(leased.chain(loading).chain(granted)),
        ))
    })
}

fn placements(now: &Snapshot, load: u64) -> Vec<(u8, Amounts)> {
    let load = now.loads.iter().find(|known| known.key == load);
    match load.map(|load| &load.phase) {
        Some(LoadPhase::Asking { placements, .. }) => {
            placements.iter().map(|p| (p.class, p.needs.clone())).collect()
        }
        _ => Vec::new(),
    }
}

/// The granted loads without a worker: their models and needs.
fn waiting_for_worker(now: &Snapshot) -> impl Iterator<Item = (&str, &Amounts)> {
    now.loads.iter().filter_map(|load| match &load.phase {
        LoadPhase::Granted { needs }
            if !now.workers.iter().any(|w| w.phase == Phase::Loading(Some(load.key))) =>
        {
            Some((&*load.model, needs))
        }
        _ => None,
    })
}

/// The most that it may take of the device.
fn most(claim: &Asking, device: Device) -> u64 {
    claim.places.iter().map(|(_, needs)| on(needs, device)).max().unwrap_or(0)
}

fn will_hold(worker: &Resident, device: Device) -> u64 {
    let holds = on(&worker.holds, device);
    if is_loading(worker) { holds.max(on(&worker.expected, device)) } else { holds }
}

fn idle_for(now: &Snapshot, worker: &Resident) -> Option<Duration> {
    (worker.in_flight == 0 && !is_wanted(now, &worker.model)).then(|| now.now - worker.last_used)
}

fn is_wanted(now: &Snapshot, model: &str) -> bool {
    now.demand.iter().any(|demand| &*demand.model == model && demand.waiting > 0)
}

fn is_loading(worker: &Resident) -> bool {
    matches!(worker.phase, Phase::Loading(_))
}

fn is_up(worker: &Resident) -> bool {
    matches!(worker.phase, Phase::Ready | Phase::Unresponsive)
}

fn find(now: &Snapshot, worker: WorkerKey) -> Result<&Resident, String> {
    now.workers.iter().find(|known| known.key == worker).ok_or_else(|| format!("there is no worker {worker}"))
}

fn on(amounts: &Amounts, device: Device) -> u64 {
    amounts.iter().filter(|(known, _)| *known == device).map(|(_, bytes)| bytes).sum()
}

fn on_i(amounts: &Amounts, device: Device) -> i128 {
    i128::from(on(amounts, device))
}

fn sum(bytes: impl Iterator<Item = u64>) -> i128 {
    bytes.map(i128::from).sum()
}

pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(otherwise()) }
}
