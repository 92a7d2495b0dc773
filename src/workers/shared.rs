//! What everything that starts, owns, restarts or adopts workers shares.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::engines::Engine;
use super::engines::discover::{Described, EngineSearch, FoundEngines, NoAnswer};
use super::handle::Handle;
use super::health::WorkerClient;
use super::learned::Learned;
use super::registry::Registry;
use super::support::Support;
use crate::config::{Config, EngineOptions, Memory, Timers, Workers};
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
    pub(super) settings: Workers,
    pub(super) memory: Memory,
    /// What workers took of memory.
    pub(super) learned: Arc<Learned>,
    /// Which engines can run which models.
    pub(super) support: Arc<Support>,
    pub(super) registry: Registry,
    pub(super) client: WorkerClient,
    /// Cancelled when the hive stops.
    pub(super) closing: CancellationToken,
    /// What an owner does when its worker has crashed. It is passed in from above, because a restart
    /// starts a worker, and a start makes an owner.
    pub(super) after_crash: AfterCrash,
    engine_search: EngineSearch,
    /// Searched once: asking an engine for its version and its devices takes a while.
    engines: OnceCell<FoundEngines>,
}

impl Shared {
    /// # Errors
    /// Where the path of the built-in worker's program is unknown.
    pub(super) fn new(config: &Config, after_crash: AfterCrash) -> Result<Self> {
        Ok(Self {
            workers_dir: config.workers_dir(),
            jobs_dir: config.jobs_dir(),
            timers: config.timers.clone(),
            settings: config.workers.clone(),
            memory: config.memory.clone(),
            learned: Arc::new(Learned::new(config.memory_file())),
            support: Arc::new(Support::open(config.engine_support_file())),
            registry: Registry::default(),
            client: WorkerClient::new()?,
            closing: CancellationToken::new(),
            after_crash,
            engine_search: EngineSearch::new(config)?,
            engines: OnceCell::new(),
        })
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
    pub(super) async fn found_engines(&self) -> &FoundEngines {
        let search = || async {
            let found = self.engine_search.run().await;
            let (support, engines) = (Arc::clone(&self.support), found.installed.clone());
            if let Err(failure) = spawn::blocking(move || support.look(&engines)).await {
                tracing::error!(%failure, detail = ?failure.detail, "could not look at the engines' programs");
            }
            found
        };
        self.engines.get_or_init(search).await
    }

    /// The same, if they have been found.
    pub(super) fn known_engines(&self) -> Option<&FoundEngines> {
        self.engines.get()
    }

    /// The engines of this machine, with the options that a model's settings choose.
    pub(super) async fn engines_with(&self, options: &EngineOptions) -> Cow<'_, FoundEngines> {
        let found = self.found_engines().await;
        if *options == EngineOptions::default() {
            return Cow::Borrowed(found);
        }
        Cow::Owned(found.each(|engine| engine.with_options(options)))
    }

    /// The installed engines, the preferred one first.
    pub(super) async fn engines(&self) -> &[Arc<Engine>] {
        &self.found_engines().await.installed
    }
}
