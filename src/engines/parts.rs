//! What installs engines: its parts, and what is installed.

use std::sync::Arc;
use std::time::Duration;

use super::canary::Canary;
use super::fetch::Archives;
use super::machine::Machine;
use super::release::Releases;
use super::shown::{FailedEngine, InstalledEngine};
use crate::config::{Config, EngineBuilds};
use crate::engine_store::{EngineId, EngineStore, Installed};
use crate::error::{Code, Failure, Result};
use crate::models::Catalog;
use crate::requests::Ledger;
use crate::spawn;
use crate::turns::Turns;
use crate::workers::Supervisor;

/// The engines that the hive installs. Clones share them.
#[derive(Clone, Debug)]
pub struct Engines {
    pub(super) store: EngineStore,
    pub(super) workers: Supervisor,
    pub(super) settings: EngineBuilds,
    pub(super) releases: Releases,
    pub(super) archives: Archives,
    pub(super) canary: Canary,
    /// The engines that are being installed or removed: a second change of one waits for the first.
    pub(super) turns: Arc<Turns<String>>,
}

impl Engines {
    /// The engines of the store, which `workers` run.
    ///
    /// # Errors
    /// `internal`, which is a defect.
    pub(crate) fn new(
        config: &Config,
        store: EngineStore,
        workers: Supervisor,
        catalog: &Catalog,
        requests: Ledger,
    ) -> Result<Self> {
        Ok(Self {
            releases: Releases::new(config),
            archives: Archives::new(config, catalog, store.downloads()),
            canary: Canary::new(config, workers.clone(), catalog.clone(), requests)?,
            settings: config.engine_builds.clone(),
            turns: Arc::default(),
            store,
            workers,
        })
    }

    /// This machine, as far as engines depend on it.
    pub(super) async fn machine(&self) -> Result<Machine> {
        Machine::here(&self.settings.python).await
    }

    /// What is installed.
    pub(crate) async fn installed(&self) -> Result<Vec<InstalledEngine>> {
        let installed = self.on_disk(|store| Ok(store.installed())).await?;
        Ok(installed.into_iter().map(|installed| self.shown(installed)).collect())
    }

    /// What did not prove itself.
    pub(crate) async fn failed(&self) -> Result<Vec<FailedEngine>> {
        let failed = self.on_disk(|store| Ok(store.failures())).await?;
        Ok(failed.into_iter().map(Into::into).collect())
    }

    /// The installed engine of that id.
    ///
    /// # Errors
    /// [`Code::EngineNotFound`].
    pub(crate) async fn get(&self, worker_id: &str) -> Result<InstalledEngine> {
        let id = id_of(worker_id)?;
        let installed = self.on_disk(move |store| Ok(store.get(id))).await?;
        installed.map(|installed| self.shown(installed)).ok_or_else(|| {
            Failure::new(Code::EngineNotFound, format!("{id} is not installed"))
                .hint(format!("WorkerInstall {{\"worker_id\":\"{id}\"}} installs it"))
        })
    }

    /// Removes an engine, or one version of it. Returns the bytes that this frees.
    ///
    /// # Errors
    /// [`Code::EngineNotFound`]; [`Code::EngineInUse`] naming the workers that run it.
    pub(crate) async fn remove(&self, worker_id: &str, version: Option<String>) -> Result<(EngineId, u64)> {
        let id = id_of(worker_id)?;
        let _turn = self.turns.take(worker_id).await;
        if let Some(installed) = self.on_disk(move |store| Ok(store.get(id))).await? {
            let goes = |its: &str| version.as_ref().is_none_or(|version| version == its);
            let builds = std::iter::once(&installed.current).chain(&installed.previous);
            let folders =
                builds.filter(|build| goes(&build.version)).map(|build| self.store.folder_of(build));
            let workers: Vec<_> = folders
                .flat_map(|folder| self.workers.running_from(&folder))
                .map(|pid| pid.to_string())
                .collect();
            if !workers.is_empty() {
                let message = format!("{id} is run by worker(s) {}", workers.join(", "));
                return Err(Failure::new(Code::EngineInUse, message)
                    .hint("stop them first: ModelUnload, or WorkerProcessDelete for each"));
            }
        }
        let freed = self.on_disk(move |store| store.remove(id, version.as_deref())).await?;
        self.workers.look_again().await;
        Ok((id, freed))
    }

    /// Counts that the engines that workers run now were used for so long, and removes the versions that have had
    /// their time.
    pub(crate) async fn count_use(&self, time: Duration) {
        let (workers, keep) = (self.workers.clone(), *self.settings.keep_previous);
        let counted = self.on_disk(move |store| {
            for installed in store.installed() {
                let is_used = !workers.running_from(&store.folder_of(&installed.current)).is_empty();
                if is_used && installed.previous.is_some() {
                    store.note_use(installed.id, time)?;
                }
            }
            let retired = store.retire(keep)?;
            store.sweep(|folder| !workers.running_from(folder).is_empty());
            Ok(retired)
        });
        match counted.await {
            Ok(retired) => {
                for (id, build) in &retired {
                    let version = &build.version;
                    tracing::info!(engine = %id, version, "removed the version before: the current one has proved itself in use");
                }
                if !retired.is_empty() {
                    self.workers.look_again().await;
                }
            }
            Err(failure) => tracing::warn!(%failure, "could not count the use of engines"),
        }
    }

    /// Does something with the store, on the blocking pool.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&EngineStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        spawn::blocking(move || work(&store)).await?
    }

    pub(super) fn shown(&self, installed: Installed) -> InstalledEngine {
        let workers = self.workers.running_from(&self.store.folder_of(&installed.current));
        InstalledEngine::new(installed, workers)
    }
}

/// The engine of that id.
///
/// # Errors
/// [`Code::EngineNotFound`], naming those that there are.
pub(super) fn id_of(worker_id: &str) -> Result<EngineId> {
    worker_id.parse().map_err(|error: crate::engine_store::UnknownEngine| {
        let ids: Vec<_> = EngineId::ALL.iter().map(ToString::to_string).collect();
        Failure::new(Code::EngineNotFound, error.to_string()).hint(format!(
            "the hive installs {}; WorkerCatalogList says which fit this machine",
            ids.join(", ")
        ))
    })
}
