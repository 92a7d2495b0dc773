//! Who asks for memory, and in which order they are served.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::snapshot::{
    Beneficiary, Keep, LeasePhase, Load, LoadPhase, Origin, Phase, Placement, Resident, Snapshot, StopReason,
    Waiting, WorkerKey,
};

/// A load or a lease that asks for memory.
pub(super) struct Claim<'a> {
    pub(super) by: Beneficiary,
    /// When it was submitted.
    since: Duration,
    /// What is loaded; `None` for a lease.
    pub(super) model: Option<&'a Arc<str>>,
    pub(super) placements: Cow<'a, [Placement]>,
    /// The worker that goes first.
    pub(super) replaces: Option<WorkerKey>,
}

impl Claim<'_> {
    /// Whether the worker may ever go for it.
    pub(super) fn may_move(&self, worker: &Resident) -> bool {
        self.replaces == Some(worker.key)
            || (worker.keep != Keep::Pinned && self.model != Some(&worker.model))
    }

    /// Why the worker goes for it, which has had no request for that long.
    pub(super) fn reason_to_stop(&self, worker: &Resident, idle: Option<Duration>) -> StopReason {
        match self.model {
            _ if self.replaces == Some(worker.key) => StopReason::Replaced,
            Some(model) => StopReason::RoomForModel { model: model.clone(), idle },
            None => StopReason::RoomForLease { idle },
        }
    }

    /// What those who came later wait for.
    pub(super) fn as_reason_to_wait(&self) -> Waiting {
        match (self.by, self.model) {
            (_, Some(model)) => Waiting::Load(model.clone()),
            (Beneficiary::Lease(lease), None) => Waiting::Lease(lease),
            (Beneficiary::Load(_) | Beneficiary::Idle, None) => unreachable!("a load has a model"),
        }
    }
}

/// Those who ask, in the order in which they were submitted. A load is submitted when the first request waits for
/// a model that has no worker, so the model that has been without one for longest goes first. Had the age of the
/// requests counted instead, the waiting requests of a model that just made room would take the room back.
pub(super) fn claims(now: &Snapshot) -> Vec<Claim<'_>> {
    let loads =
        now.loads.iter().filter(|load| !is_needless(now, load)).filter_map(|load| match &load.phase {
            LoadPhase::Asking { placements, replaces, .. } => Some(Claim {
                by: Beneficiary::Load(load.key),
                since: load.since,
                model: Some(&load.model),
                placements: Cow::Borrowed(placements),
                replaces: *replaces,
            }),
            _ => None,
        });
    let leases = now.leases.iter().filter(|lease| lease.phase == LeasePhase::Asking).map(|lease| Claim {
        by: Beneficiary::Lease(lease.key),
        since: lease.since,
        model: None,
        placements: Cow::Owned(vec![Placement { class: 0, needs: vec![(lease.device, lease.bytes)] }]),
        replaces: None,
    });
    let mut claims: Vec<_> = loads.chain(leases).collect();
    claims.sort_by_key(|claim| claim.since);
    claims
}

/// Whether requests wait for the model.
pub(super) fn is_wanted(now: &Snapshot, model: &str) -> bool {
    now.demand.iter().any(|demand| &*demand.model == model && demand.waiting > 0)
}

/// Whether the model has a worker that serves it, or will. One that was drained counts, because it may be opened
/// again.
pub(super) fn has_worker(now: &Snapshot, model: &str) -> bool {
    now.workers.iter().any(|worker| &*worker.model == model && worker.phase != Phase::Stopping)
}

/// Whether a load of the model has been submitted.
pub(super) fn has_load(now: &Snapshot, model: &str) -> bool {
    now.loads.iter().any(|load| &*load.model == model)
}

/// Whether requests asked for the load and need it no more: none waits, or their model is loaded without it.
pub(super) fn is_needless(now: &Snapshot, load: &Load) -> bool {
    let is_ahead = |other: &Load| {
        other.key != load.key
            && other.model == load.model
            && (other.by != Origin::Requests || is_granted(other) || other.key < load.key)
    };
    load.by == Origin::Requests
        && !is_granted(load)
        && (!is_wanted(now, &load.model) || has_worker(now, &load.model) || now.loads.iter().any(is_ahead))
}

fn is_granted(load: &Load) -> bool {
    matches!(load.phase, LoadPhase::Granted { .. })
}
