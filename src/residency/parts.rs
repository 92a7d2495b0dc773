//! What the files of the residency share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::{AdmissionRules, Admissions};
use super::leases::Leases;
use super::ledger::Ledger;
use super::snapshot::Rules;
use crate::config::{self, Config, KeepAlive, ModelSettings};
use crate::workers::Supervisor;

/// The workers, the books, the queue and the settings of one hive.
pub(super) struct Parts {
    pub(super) workers: Supervisor,
    pub(super) ledger: Arc<Ledger>,
    pub(super) leases: Leases,
    pub(super) admissions: Admissions,
    pub(super) rules: Rules,
    settings: config::Residency,
    models: BTreeMap<String, ModelSettings>,
}

impl Parts {
    pub(super) fn new(config: &Config, workers: Supervisor) -> Self {
        let settings = config.residency.clone();
        let rules = Rules {
            on_demand: settings.on_demand,
            min_stay: *settings.min_stay,
            linger: *settings.linger,
            drain_limit: *settings.drain,
            concurrent_loads: config.jobs.concurrent_loads,
        };
        let ledger = Arc::new(Ledger::new(workers.activity()));
        let admission = AdmissionRules {
            on_demand: settings.on_demand,
            queue: settings.queue.get(),
            retry: *settings.retry,
        };
        let admissions = Admissions::new(workers.clone(), admission, workers.activity());
        Self {
            workers,
            ledger,
            leases: Leases::default(),
            admissions,
            rules,
            settings,
            models: config.models.clone(),
        }
    }

    /// Whether workers of the model never go by themselves.
    pub(super) fn is_pinned(&self, model: &str) -> bool {
        self.models.get(model).is_some_and(|settings| settings.pinned == Some(true))
    }

    /// How long a worker of the model that requests loaded stays without one.
    pub(super) fn idle(&self, model: &str) -> KeepAlive {
        self.models.get(model).and_then(|settings| settings.idle).unwrap_or(self.settings.idle)
    }

    /// The models that are loaded at the start, and how long each stays without a request.
    pub(super) fn preloaded(&self) -> impl Iterator<Item = (&str, KeepAlive)> {
        let preloaded = self.models.iter().filter(|(_, settings)| settings.preload == Some(true));
        preloaded.map(|(model, settings)| (&**model, settings.idle.unwrap_or(KeepAlive::Forever)))
    }
}
