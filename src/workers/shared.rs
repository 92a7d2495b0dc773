//! What everything that starts, owns, restarts or adopts workers shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use super::engines::discover::{Described, EngineSearch, FoundEngines, NoAnswer};
use super::handle::Handle;
use super::health::WorkerClient;
use super::learned::Learned;
use super::registry::Registry;
use super::support::Support;
use super::trouble::Troubles;
use crate::config::{Config, EngineOptions, Memory, Timers, Workers};
use crate::engine_store::EngineStore;
use crate::error::Result;
use crate::spawn;

/// The longest grace period of a worker that is not ready: it has no requests to finish.
const ABANDON_GRACE: Duration = Duration::from_secs(2);

/// Called with a worker that crashed.
type AfterCrash = fn(Arc<Shared>, Arc<Handle>);

/// The settings, the list and the engines of one hive's workers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) workers_dir: PathBuf,
    /// The folder that keeps the logs of failed starts beside their jobs.
    pub(super) jobs_dir: PathBuf,
    pub(super) timers: Timers,
    settings: RwLock<Arc<Workers>>,
    memory: RwLock<Memory>,
    /// What workers took of memory.
    pub(super) learned: Arc<Learned>,
    /// Which engines can run which models.
    pub(super) support: Arc<Support>,
    pub(super) registry: Registry,
    /// Engines that fail since they were installed.
    pub(super) troubles: Troubles,
    pub(super) client: WorkerClient,
    /// Cancelled when the hive stops.
    pub(super) closing: CancellationToken,
    /// What an owner does when its worker has crashed. It is passed in from above, because a restart
    /// starts a worker, and a start makes an owner.
    pub(super) after_crash: AfterCrash,
    engine_search: EngineSearch,
    /// What was found. Asking an engine for its version and its devices takes a while, so it is kept until somebody
    /// [looks again](Self::look_again).
    found: Mutex<Option<Arc<FoundEngines>>>,
    /// The turn of the search.
    searching: AsyncMutex<()>,
}

impl Shared {
    /// # Errors
    /// Where the path of the built-in worker's program is unknown.
    pub(super) fn new(config: &Config, store: EngineStore, after_crash: AfterCrash) -> Result<Self> {
        Ok(Self {
            workers_dir: config.workers_dir(),
            jobs_dir: config.jobs_dir(),
            timers: config.timers.clone(),
            settings: RwLock::new(Arc::new(config.workers.clone())),
            memory: RwLock::new(config.memory.clone()),
            learned: Arc::new(Learned::new(config.memory_file())),
            support: Arc::new(Support::open(config.engine_support_file())),
            registry: Registry::default(),
            troubles: Troubles::default(),
            client: WorkerClient::new()?,
            closing: CancellationToken::new(),
            after_crash,
            engine_search: EngineSearch::new(config, store)?,
            found: Mutex::default(),
            searching: AsyncMutex::default(),
        })
    }

    /// How workers are run and restarted.
    pub(super) fn settings(&self) -> Arc<Workers> {
        Arc::clone(&self.settings.read())
    }

    /// The memory that they may use.
    pub(super) fn memory(&self) -> Memory {
        self.memory.read().clone()
    }

    /// Takes over settings, for what is decided from now on.
    pub(super) fn reload(&self, config: &Config) {
        *self.settings.write() = Arc::new(config.workers.clone());
        self.memory.write().clone_from(&config.memory);
    }

    /// Describes the llama.cpp server at `program` as an engine of that name, by what it says of itself.
    pub(super) async fn describe(
        &self,
        name: &str,
        program: PathBuf,
        limit: Duration,
    ) -> Result<Described, NoAnswer> {
        self.engine_search.describe(name, program, limit).await
    }

    /// The grace period of a worker whose start is abandoned.
    pub(super) fn abandon_grace(&self) -> Duration {
        ABANDON_GRACE.min(*self.timers.stop_grace)
    }

    /// The engines of this machine. The first call searches for them.
    pub(super) async fn found_engines(&self) -> Arc<FoundEngines> {
        if let Some(found) = self.known_engines() {
            return found;
        }
        let _turn = self.searching.lock().await;
        match self.known_engines() {
            Some(found) => found,
            None => self.search().await,
        }
    }

    /// Searches for the engines of this machine once more. What was found before counts until the search has ended.
    pub(super) async fn look_again(&self) {
        let _turn = self.searching.lock().await;
        self.search().await;
    }

    /// The caller has the turn.
    async fn search(&self) -> Arc<FoundEngines> {
        let found = Arc::new(self.engine_search.run().await);
        let (support, engines) = (Arc::clone(&self.support), found.installed.clone());
        if let Err(failure) = spawn::blocking(move || support.look(&engines)).await {
            tracing::error!(%failure, detail = ?failure.detail, "could not look at the engines' programs");
        }
        *self.found.lock() = Some(Arc::clone(&found));
        found
    }

    /// The engines of this machine, if they have been found.
    pub(super) fn known_engines(&self) -> Option<Arc<FoundEngines>> {
        self.found.lock().clone()
    }

    /// The engines of this machine, with the options that a model's settings choose.
    pub(super) async fn engines_with(&self, options: &EngineOptions) -> Arc<FoundEngines> {
        let found = self.found_engines().await;
        if *options == EngineOptions::default() {
            return found;
        }
        Arc::new(found.each(|engine| engine.with_options(options)))
    }
}
