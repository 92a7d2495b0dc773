//! What installs engines: its parts, and what is installed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::canary::Canary;
use super::fetch::Archives;
use super::machine::Machine;
use super::release::Releases;
use super::shown::{FailedEngine, InstalledEngine};
use crate::config::{Config, EngineBuilds};
use crate::engine_store::{EngineId, EngineStore, Installed};
use crate::error::{Code, Failure, Result};
use crate::models::Catalog;
use crate::narration::waiting_for;
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
    /// The engines that are being installed or removed: a second change of one waits for the first, and so does a
    /// second build from source.
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
        let _turn = {
            let _waiting = waiting_for(format!("the install of {id} to end"));
            self.turns.take(worker_id).await
        };
        let installed = self.on_disk(move |store| Ok(store.get(id))).await?;
        let builds = installed.iter().flat_map(|it| std::iter::once(&it.current).chain(&it.previous));
        let goes = |its: &str| version.as_ref().is_none_or(|version| version == its);
        let folders: Vec<PathBuf> =
            builds.filter(|build| goes(&build.version)).map(|build| self.store.folder_of(build)).collect();
        let removal = self.workers.begin_removal(folders).map_err(|pids| in_use(id, &pids))?;
        let freed = self.change(move |store| {
            let freed = store.remove(id, version.as_deref());
            drop(removal);
            freed
        });
        Ok((id, freed.await?))
    }

    /// Counts that the engines that workers run now were used for so long, and removes the versions that have had
    /// their time. While nothing is installed, it also removes what earlier installs have left.
    pub(crate) async fn count_use(&self, time: Duration) {
        let (workers, keep) = (self.workers.clone(), *self.settings.keep_previous);
        let idle: Option<Vec<_>> =
            EngineId::ALL.iter().map(|id| self.turns.try_take(&id.to_string())).collect();
        let counted = self.on_disk(move |store| {
            for installed in store.installed() {
                let is_used = !workers.running_from(&store.folder_of(&installed.current)).is_empty();
                if is_used && installed.previous.is_some() {
                    store.note_use(installed.id, time)?;
                }
            }
            let retired = store.retire(keep)?;
            store.sweep(|folder| !workers.running_from(folder).is_empty());
            if idle.is_some() {
                store.drop_leftovers(SystemTime::now());
            }
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

    /// Changes what is installed, and has the workers look for engines again: to its end, even where the job that
    /// asked for it ends meanwhile.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&EngineStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let engines = self.clone();
        let changed = spawn::detached(async move {
            let changed = engines.on_disk(change).await?;
            engines.workers.look_again().await;
            Ok(changed)
        });
        changed.await.map_err(|error| Failure::internal("a change of the engines panicked").detail(error))?
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

fn in_use(id: EngineId, pids: &[u32]) -> Failure {
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    Failure::new(Code::EngineInUse, format!("{id} is run by worker(s) {}", pids.join(", ")))
        .hint("stop them first: ModelUnload, or WorkerProcessDelete for each")
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;
    use crate::engine_store::{Build, Provenance};

    const CPU: &str = "llama-server-cpu";

    fn engines(folder: &std::path::Path) -> Engines {
        let mut config = Config {
            data_dir: folder.join("data"),
            models_dirs: vec![folder.to_owned()],
            hub_cache: Some(PathBuf::new()),
            worker_program: Some("/no/such/program".into()),
            ..Config::default()
        };
        config.llama_server.enabled = false;
        let store = EngineStore::open(config.engines_dir());
        let workers = Supervisor::new(&config, store.clone()).unwrap();
        let catalog = Catalog::new(&config).unwrap();
        Engines::new(&config, store, workers, &catalog, Ledger::default()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_is_seen_by_the_workers_also_where_its_job_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let engines = engines(folder.path());
        let names = async || {
            let found = engines.workers.engines().await;
            found.iter().map(|engine| engine.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names().await, ["builtin"]);
        let id = id_of(CPU).unwrap();
        let draft = engines.store.draft(id).unwrap();
        let program = draft.path().join("llama-server");
        std::fs::write(&program, "#!/bin/sh\necho 'version: 1'\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let build = Build::new("b1".to_owned(), program, Provenance::Release);
        tokio::select! {
            biased;
            changed = engines.change(move |store| store.promote(draft, id, build)) => panic!("{changed:?}"),
            () = std::future::ready(()) => {}
        }
        let started = Instant::now();
        while names().await != [CPU, "builtin"] {
            assert!(started.elapsed() < Duration::from_secs(30), "{:?}", names().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
