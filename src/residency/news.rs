//! Tells readers of `/v1/events` what is in memory, and those who wait for a model what its load does.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::LoadNews;
use super::ledger::LoadEntry;
use super::measure::Look;
use super::parts::Parts;
use super::view::ResidencyView;
use crate::events::{Hub, Topic};
use crate::text::json;
use crate::time::monotonic;

/// The shortest time between two events.
const PAUSE: Duration = Duration::from_millis(500);

/// What was told.
pub(super) struct News {
    hub: Arc<Hub>,
    published: String,
    published_at: Option<Instant>,
    /// The models that had a load.
    loading: HashSet<Arc<str>>,
}

impl News {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, published: String::new(), published_at: None, loading: HashSet::new() }
    }

    /// Tells what is new. Returns after how long to come again, where nothing that happens may tell.
    pub(super) fn tell(&mut self, parts: &Parts, look: &Look) -> Option<Duration> {
        let loads = parts.ledger.loads();
        self.tell_those_who_wait(parts, &loads);
        let is_early = self.publish(parts, look);
        // A load makes progress without anything else that happens.
        is_early.or((!loads.is_empty()).then_some(PAUSE))
    }

    fn tell_those_who_wait(&mut self, parts: &Parts, loads: &[LoadEntry]) {
        let loading = loads.iter().map(|load| Arc::clone(&load.model)).collect();
        for ended in std::mem::replace(&mut self.loading, loading) {
            if !self.loading.contains(&ended) {
                parts.admissions.tell(&ended, None);
            }
        }
        // Of several loads of a model, the others wait for the first.
        let mut told = HashSet::new();
        for load in loads.iter().filter(|load| told.insert(&load.model)) {
            let doing = match &load.waits_for {
                Some(why) => format!("waiting for {why}"),
                None => format!("loading '{}'", load.model),
            };
            let (job_id, progress) = (load.job.id().as_str().into(), load.job.progress());
            parts.admissions.tell(&load.model, Some(LoadNews { job_id, doing, progress }));
        }
    }

    /// Publishes what is in memory if that has changed. Returns after how long to try again, where it is too early.
    fn publish(&mut self, parts: &Parts, look: &Look) -> Option<Duration> {
        let now = monotonic();
        let since = self.published_at.map(|at| now.saturating_duration_since(at));
        let early = since.and_then(|since| PAUSE.checked_sub(since)).filter(|early| !early.is_zero());
        if early.is_some() {
            return early;
        }
        self.published_at = Some(now);
        let view = ResidencyView::of(parts, look);
        let text = json(&view);
        if text != self.published {
            self.hub.publish(Topic::Residency, &view);
            self.published = text;
        }
        None
    }
}
