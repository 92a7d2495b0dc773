//! What a load would have to wait for: a decision about a load that nobody has submitted.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::decide::decide;
use super::measure::{Look, look};
use super::parts::Parts;
use super::snapshot::{
    Action, Beneficiary, Load, LoadKey, LoadPhase, Origin, Placement, Rules, Snapshot, StopReason, WorkerKey,
};
use super::victims::idle_for;
use crate::text;

/// The number of the load that nobody has submitted.
const IMAGINED: LoadKey = LoadKey::MAX;

/// What a load would have to wait for.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Forecast {
    /// The workers that would go for it.
    pub(crate) evictions: Vec<Eviction>,
    /// What it would wait for, in words.
    pub(crate) waits_for: Option<String>,
    /// Why it would be refused.
    #[serde(skip)]
    pub(crate) refusal: Option<String>,
    /// Which of the placements it would get.
    #[serde(skip)]
    pub(crate) placement: Option<usize>,
}

/// A worker that would go.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Eviction {
    #[schema(value_type = u32)]
    pid: WorkerKey,
    model: String,
    held_bytes: u64,
    /// How long it has had no request; null while it has some.
    idle_seconds: Option<u64>,
    reason: String,
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = text::bytes(self.held_bytes);
        write!(f, "Worker {} of '{}', which holds {held}, would go: {}", self.pid, self.model, self.reason)
    }
}

pub(super) async fn forecast(
    parts: &Parts,
    model: &str,
    placements: Vec<Placement>,
    replaces: Option<WorkerKey>,
) -> Forecast {
    let Look { mut now, .. } = look(parts, true).await;
    let (since, model) = (now.now, model.into());
    let phase = LoadPhase::Asking { placements, replaces };
    now.loads.push(Load { key: IMAGINED, model, by: Origin::Person, since, phase });
    let mut forecast = Forecast::default();
    for action in decide(&now).actions {
        match action {
            Action::Wait { load: IMAGINED, why } => forecast.waits_for = Some(why.to_string()),
            Action::Refuse { load: IMAGINED, why } => forecast.refusal = Some(why.to_string()),
            _ => {}
        }
    }
    // Those that stay for their least time go after it, and loads under way end.
    now.rules = Rules { min_stay: Duration::ZERO, concurrent_loads: usize::MAX, ..now.rules };
    for action in decide(&now).actions {
        if let Action::Drain { worker, by: Beneficiary::Load(IMAGINED), because } = action {
            forecast.evictions.extend(eviction(&now, worker, &because));
        }
    }
    for eviction in &forecast.evictions {
        remove(&mut now, eviction.pid);
    }
    forecast.placement = decide(&now).actions.into_iter().find_map(|action| match action {
        Action::Grant { load: IMAGINED, placement } => Some(placement),
        _ => None,
    });
    forecast
}

/// Imagines that the worker has gone.
fn remove(now: &mut Snapshot, worker: WorkerKey) {
    let gone: Vec<_> = now.workers.extract_if(.., |resident| resident.key == worker).collect();
    for (device, held) in gone.into_iter().flat_map(|resident| resident.holds) {
        for memory in now.devices.iter_mut().filter(|memory| memory.device == device) {
            memory.free = memory.free.map(|free| free.saturating_add(held));
        }
    }
}

fn eviction(now: &Snapshot, worker: WorkerKey, because: &StopReason) -> Option<Eviction> {
    let resident = now.workers.iter().find(|resident| resident.key == worker)?;
    Some(Eviction {
        pid: worker,
        model: resident.model.to_string(),
        held_bytes: resident.holds.iter().map(|(_, held)| held).sum(),
        idle_seconds: idle_for(now, resident).map(|idle| idle.as_secs()),
        reason: because.to_string(),
    })
}
