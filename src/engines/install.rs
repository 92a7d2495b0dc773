//! The flow of an install. Each step may be stopped: what was fetched stays for the next try, everything else goes.

use serde::Serialize;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::canary::{Candidate, Proof};
use super::fetch::{Archive, LocalArchive};
use super::harmless::harmless;
use super::parts::{Engines, id_of};
use super::plan::{InstallPlan, SourcesFrom, Wanted, Way};
use super::shown::InstalledEngine;
use super::source::{self, BuildRequest, Fetched, Sources};
use super::unpack;
use crate::config::DeviceKind;
use crate::engine_store::{Build, BuildDraft, EngineId, Installed};
use crate::error::{Code, Failure, Result};
use crate::narration::waiting_for;
use crate::text::bytes;
use crate::{disk, n};

/// The key of the turn of builds from source.
const BUILDS: &str = "builds from source";

/// What a caller asks for.
#[derive(Clone, Debug)]
pub(crate) struct InstallRequest {
    pub(crate) worker_id: String,
    /// A release, or `latest`.
    pub(crate) version: String,
    pub(crate) from: Wanted,
}

/// The answer to an install.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = WorkerInstallResult)]
pub(crate) enum Installation {
    Done(Box<InstalledEngine>),
    Planned(Box<InstallPlan>),
}

/// A build in its draft, before it has proved itself.
struct Made {
    draft: BuildDraft,
    program: std::path::PathBuf,
    archive_sha256: Option<String>,
}

impl Engines {
    /// What an install would do.
    ///
    /// # Errors
    /// Where there is no such build for this machine.
    pub(crate) async fn plan_install(&self, request: &InstallRequest) -> Result<InstallPlan> {
        let plan = self.plan(id_of(&request.worker_id)?, &request.version, request.from).await?;
        n!("worker_install_plan", "{}", plan.in_words());
        Ok(plan)
    }

    /// Installs an engine, or another version of it.
    ///
    /// # Errors
    /// [`Code::EngineNotFound`], [`Code::EngineUnavailable`], [`Code::EngineRefused`], [`Code::EngineBuildFailed`],
    /// [`Code::EngineUnproven`],
    /// [`Code::DiskFull`], [`Code::Cancelled`], and why something could not be fetched. What was installed before is
    /// as it was.
    pub(crate) async fn install(
        &self,
        request: &InstallRequest,
        stop: &CancellationToken,
    ) -> Result<InstalledEngine> {
        let id = id_of(&request.worker_id)?;
        let _turn = self.turn(id.to_string(), format!("another install of {id}"), stop).await?;
        let plan = tokio::select! {
            () = stop.cancelled() => return Err(stopped()),
            plan = self.plan(id, &request.version, request.from) => plan?,
        };
        n!("worker_install_plan", "{}", plan.in_words());
        let installed = match &plan.way {
            Way::Nothing | Way::RollBack => self.use_what_is_here(id, &plan.way).await?,
            Way::Unpack(engine, libraries) => {
                check_room(&plan)?;
                self.install_archives(&plan, engine, libraries.as_deref(), stop).await?
            }
            Way::Build(sources) => {
                check_room(&plan)?;
                self.install_from_source(&plan, sources, stop).await?
            }
        };
        if !matches!(plan.way, Way::Nothing) {
            self.tell_installed(&installed).await;
            let workers = self.workers.clone();
            self.on_disk(move |store| {
                store.sweep(|folder| !workers.running_from(folder).is_empty());
                Ok(())
            })
            .await?;
        }
        Ok(self.shown(installed))
    }

    /// Waits until nobody else does what has that key.
    async fn turn(
        &self,
        key: String,
        waits_for: String,
        stop: &CancellationToken,
    ) -> Result<OwnedMutexGuard<()>> {
        let _waiting = waiting_for(waits_for);
        tokio::select! {
            () = stop.cancelled() => Err(stopped()),
            turn = self.turns.take(&key) => Ok(turn),
        }
    }

    async fn install_archives(
        &self,
        plan: &InstallPlan,
        archive: &Archive,
        libraries: Option<&Archive>,
        stop: &CancellationToken,
    ) -> Result<Installed> {
        let id = plan.id;
        let local = self.bring(archive, stop).await?;
        let beside = match libraries {
            Some(libraries) => Some(self.bring(libraries, stop).await?),
            None => None,
        };
        let draft = self.on_disk(move |store| store.draft(id)).await?;
        let unpacked = unpack::engine(&local, beside.as_ref(), draft.path(), stop).await;
        if let Err(failure) = &unpacked
            && failure.code == Code::EngineRefused
        {
            self.discard([Some(&local), beside.as_ref()]).await;
        }
        let made = Made { draft, program: unpacked?.program, archive_sha256: Some(local.sha256.clone()) };
        let installed = self.prove_and_promote(plan, made, stop).await;
        if is_over(&installed) {
            self.discard([Some(&local), beside.as_ref()]).await;
        }
        installed
    }

    async fn install_from_source(
        &self,
        plan: &InstallPlan,
        sources: &SourcesFrom,
        stop: &CancellationToken,
    ) -> Result<Installed> {
        let (id, machine) = (plan.id, self.machine().await?);
        // They share sources, and one takes all processors.
        let _turn = self.turn(BUILDS.to_owned(), "another build from source".to_owned(), stop).await?;
        let (sources, local) = match sources {
            SourcesFrom::Release(archive) => {
                let local = self.bring(archive, stop).await?;
                let (path, version) = (local.path.clone(), plan.version.clone());
                (Sources::Archive { path, version }, Some(local))
            }
            SourcesFrom::Package(package) => (Sources::Package(package.clone()), None),
        };
        let mut request = BuildRequest {
            kind: id.kind,
            compute_capabilities: machine
                .kind(id.kind)
                .map(|here| here.compute_capabilities.clone())
                .unwrap_or_default(),
            sources,
            python: machine.tools.python.clone().unwrap_or_else(|| self.settings.python.clone()),
            tools: machine.tools,
            cmake_options: self.settings.cmake_options.clone(),
            cache: self.store.sources(),
        };
        let fetched = source::fetch(&request, stop).await?;
        // A package tells its version once it is here.
        if let Some(here) = self.installed_already(id, fetched.version(), Wanted::Source).await? {
            n!("worker_install_plan", "{}", here.in_words());
            return self.use_what_is_here(id, &here.way).await;
        }
        let mut installed = self.build_and_prove(plan, &request, &fetched, stop).await;
        if let Err(failure) = &installed
            && is_beyond_processor(failure)
            && source::make_portable(&mut request)
        {
            n!(
                warn: "worker_install_build",
                "This machine does not run every instruction that its processor claims to have: building again \
                 without those that only new processors have"
            );
            installed = self.build_and_prove(plan, &request, &fetched, stop).await;
        }
        if is_over(&installed) {
            self.discard([local.as_ref(), None]).await;
            source::clean(&request.cache, id.kind).await?;
        }
        installed
    }

    async fn build_and_prove(
        &self,
        plan: &InstallPlan,
        request: &BuildRequest,
        fetched: &Fetched,
        stop: &CancellationToken,
    ) -> Result<Installed> {
        let id = plan.id;
        let draft = self.on_disk(move |store| store.draft(id)).await?;
        let built = source::build(request, fetched, draft.path(), stop).await?;
        let plan = InstallPlan { version: built.version, ..plan.clone() };
        let made = Made { draft, program: built.program, archive_sha256: built.archive_sha256 };
        self.prove_and_promote(&plan, made, stop).await
    }

    /// Uses a version that is installed already: the current one, or the one before it.
    async fn use_what_is_here(&self, id: EngineId, way: &Way) -> Result<Installed> {
        if matches!(way, Way::RollBack) {
            return self.change(move |store| store.roll_back(id)).await;
        }
        let installed = self.on_disk(move |store| Ok(store.get(id))).await?;
        installed.ok_or_else(|| Failure::internal("an installed engine is gone"))
    }

    /// Fetches an archive into the folder for downloads.
    async fn bring(&self, archive: &Archive, stop: &CancellationToken) -> Result<LocalArchive> {
        let folder = self.store.downloads();
        self.on_disk(move |_| {
            disk::create_private_dir(&folder).map_err(|error| Failure::io("make", &folder, &error))
        })
        .await?;
        self.archives.bring(archive, stop).await
    }

    /// Makes a build the current version, once it has proved itself. One that fails is kept aside.
    async fn prove_and_promote(
        &self,
        plan: &InstallPlan,
        made: Made,
        stop: &CancellationToken,
    ) -> Result<Installed> {
        let (id, Made { draft, program, archive_sha256 }) = (plan.id, made);
        let before = self.on_disk(move |store| Ok(store.get(id))).await?.map(|installed| installed.current);
        let has_device = id.kind == DeviceKind::Cpu || self.machine().await?.kind(id.kind).is_some();
        let candidate = Candidate { id, version: plan.version.clone(), program: program.clone(), has_device };
        let proven =
            self.canary.prove_draft(&self.store, draft, plan.from, &candidate, before.as_ref(), stop);
        let (draft, proof) = proven.await?;
        let Proof { reported_version, measured, .. } = proof;
        if stop.is_cancelled() {
            return Err(stopped());
        }
        let build = Build::new(plan.version.clone(), program, plan.from);
        let build = Build { reported_version, archive_sha256, measured, ..build };
        self.change(move |store| store.promote(draft, id, build)).await
    }

    /// Says what becomes of an engine that was installed.
    async fn tell_installed(&self, installed: &Installed) {
        let (id, version) = (installed.id, &installed.current.version);
        let name = id.to_string();
        if let Some((_, why)) = self.workers.unusable_engines().await.iter().find(|(own, _)| *own == name) {
            n!(warn: "worker_install", "{id} {version} cannot be used: {}", harmless(why));
            return;
        }
        let engines = self.workers.engines().await;
        let first = engines.iter().take_while(|engine| engine.name != name);
        let first: Vec<_> = first.map(|engine| format!("'{}'", engine.name)).collect();
        let use_of_it = match &first[..] {
            [] => "is used from now on".to_owned(),
            first => format!("is installed, and is used where {} cannot be", first.join(" and ")),
        };
        let before = installed.previous.as_ref().map_or_else(String::new, |previous| {
            format!("; version {} stays for a while, and WorkerInstall with it goes back", previous.version)
        });
        n!("worker_install", "✅ {id} {version} {use_of_it}{before}");
    }

    /// Removes archives that are not needed any more. One that stays is replaced by the next install of that version.
    async fn discard(&self, archives: [Option<&LocalArchive>; 2]) {
        for archive in archives.into_iter().flatten() {
            if let Err(failure) = self.archives.discard(archive).await {
                n!(warn: "worker_install", "The archive stays: {failure}");
            }
        }
    }
}

impl InstallPlan {
    fn in_words(&self) -> String {
        let Self { id, version, reason, .. } = self;
        let to_fetch = match self.transfer_bytes {
            Some(0) => String::new(),
            Some(transfer) => format!("; {} to fetch", bytes(transfer)),
            None => "; nobody says how much there is to fetch".to_owned(),
        };
        format!("{id} {version}: {reason}{to_fetch}")
    }
}

/// Whether what an install fetched is not needed again.
fn is_over(installed: &Result<Installed>) -> bool {
    installed.as_ref().err().is_none_or(|failure| failure.code == Code::EngineUnproven)
}

/// Whether a build was killed by an instruction that the processor does not run.
fn is_beyond_processor(failure: &Failure) -> bool {
    failure.code == Code::EngineUnproven && failure.signal.as_deref() == Some("SIGILL")
}

fn check_room(plan: &InstallPlan) -> Result<()> {
    if plan.fits {
        return Ok(());
    }
    let (needed, free) = (bytes(plan.needed_bytes), bytes(plan.free_bytes));
    let message = format!("{} needs about {needed} on the disk, and {free} are free", plan.id);
    Err(Failure::new(Code::DiskFull, message)
        .hint("free some space on that disk, then try again")
        .stage("preflight"))
}

fn stopped() -> Failure {
    Failure::new(Code::Cancelled, "the install was stopped; what was installed before is as it was")
}
