//! What the files of the residency share.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::admission::{AdmissionRules, Admissions};
use super::leases::Leases;
use super::ledger::Ledger;
use super::snapshot::{Rules, StopReason};
use crate::config::{self, Config, KeepAlive};
use crate::settings::Settings;
use crate::workers::{ResidentWorker, Supervisor};

/// The workers, the books, the queue and the settings of one hive.
pub(super) struct Parts {
    pub(super) workers: Supervisor,
    pub(super) ledger: Arc<Ledger>,
    pub(super) leases: Leases,
    pub(super) admissions: Admissions,
    settings: RwLock<config::Residency>,
    pub(super) models: Settings,
    /// The models that could not be loaded with their settings, and which change of these that was.
    unloadable: Mutex<HashMap<Arc<str>, u64>>,
    evictions: Mutex<Evictions>,
}

/// How many workers the owner has ended, by the reason.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evictions {
    /// A model needed their room.
    pub(crate) model: u64,
    /// Another program needed their room.
    pub(crate) lease: u64,
    /// Another worker of their model replaced them.
    pub(crate) replaced: u64,
    /// They had no request for as long as they might stay without one.
    pub(crate) idle: u64,
}

fn admission(settings: &config::Residency) -> AdmissionRules {
    AdmissionRules { on_demand: settings.on_demand, queue: settings.queue.get(), retry: *settings.retry }
}

impl Parts {
    pub(super) fn new(config: &Config, workers: Supervisor, models: Settings) -> Self {
        let settings = config.residency.clone();
        let ledger = Arc::new(Ledger::new(workers.activity()));
        let admissions = Admissions::new(workers.clone(), admission(&settings), workers.activity());
        Self {
            workers,
            ledger,
            leases: Leases::default(),
            admissions,
            settings: RwLock::new(settings),
            models,
            unloadable: Mutex::default(),
            evictions: Mutex::default(),
        }
    }

    /// What decisions keep to now.
    pub(super) fn rules(&self) -> Rules {
        let settings = self.settings.read();
        Rules {
            on_demand: settings.on_demand,
            min_stay: *settings.min_stay,
            linger: *settings.linger,
            drain_limit: *settings.drain,
            concurrent_loads: settings.loads.get(),
        }
    }

    /// Takes over settings, and has the owner decide with them.
    pub(super) fn reload(&self, settings: &config::Residency) {
        self.settings.write().clone_from(settings);
        self.admissions.reload(admission(settings));
        self.workers.activity().notify_one();
    }

    /// Whether workers of the model never go by themselves.
    pub(super) fn is_pinned(&self, model: &str) -> bool {
        self.models.of_served(model).pinned == Some(true)
    }

    /// How long a worker of the model that requests loaded stays without one.
    pub(super) fn idle(&self, model: &str) -> KeepAlive {
        self.models.of_served(model).idle.unwrap_or_else(|| self.settings.read().idle)
    }

    /// The models that are loaded at the start, and how long each stays without a request.
    pub(super) fn preloaded(&self) -> Vec<(String, KeepAlive)> {
        let preloaded = self.models.all().into_iter().filter(|(_, settings)| settings.preload == Some(true));
        preloaded.map(|(model, settings)| (model, settings.idle.unwrap_or(KeepAlive::Forever))).collect()
    }

    /// Whether the worker would be started otherwise now, unless a load with these settings has failed.
    pub(super) fn is_outdated(&self, worker: &ResidentWorker) -> bool {
        self.models.is_outdated(&worker.request)
            && self.unloadable.lock().get(&*worker.model) != Some(&self.models.version())
    }

    /// The version of the settings that count now.
    pub(super) fn settings_version(&self) -> u64 {
        self.models.version()
    }

    /// A load of the model has failed with the settings of that version: they are not tried again by themselves.
    pub(super) fn note_unloadable(&self, model: &Arc<str>, settings: u64) {
        self.unloadable.lock().insert(Arc::clone(model), settings);
    }

    /// The owner has ended a worker.
    pub(super) fn evicted(&self, because: &StopReason) {
        let mut evictions = self.evictions.lock();
        *match because {
            StopReason::RoomForModel { .. } => &mut evictions.model,
            StopReason::RoomForLease { .. } => &mut evictions.lease,
            StopReason::Replaced => &mut evictions.replaced,
            StopReason::Idle { .. } => &mut evictions.idle,
        } += 1;
    }

    pub(super) fn evictions(&self) -> Evictions {
        *self.evictions.lock()
    }
}
