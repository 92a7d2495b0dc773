//! Which build an install brings, and from where.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::archive_name::ArchiveName;
use super::choose::{Chosen, Unfit, choose};
use super::fetch::{Archive, Place};
use super::harmless::harmless;
use super::machine::Machine;
use super::parts::Engines;
use super::release::LATEST;
use super::source;
use crate::config::DeviceKind;
use crate::engine_store::{EngineId, Provenance};
use crate::error::{Code, Failure, Result};
use crate::files::free_bytes;
use crate::{disk, n, spawn};

/// An install asks for the newest release: an `ETag` makes that cheap.
const FRESH: Duration = Duration::ZERO;
/// How many times as large as its archive an engine is.
const UNPACKED: u64 = 4;
/// About as many bytes as a build from source takes, for the processor and for a GPU.
const BUILT: [u64; 2] = [1 << 30, 4 << 30];

/// Where a caller wants an engine from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EngineSource)]
pub(crate) enum Wanted {
    /// From a release where one fits, else from sources.
    #[default]
    Auto,
    /// From a release, or the archive of the settings.
    Release,
    /// From sources.
    Source,
}

/// What an install would do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct InstallPlan {
    pub(super) id: EngineId,
    pub(super) version: String,
    pub(super) from: Provenance,
    /// The bytes to fetch; null where nobody says.
    pub(super) transfer_bytes: Option<u64>,
    /// About as many bytes as it takes on the disk.
    pub(super) needed_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) fits: bool,
    /// What of it is there already: `current`, or `previous` where it is gone back to.
    pub(super) installed: Option<&'static str>,
    /// Why it is this build, for people.
    pub(super) reason: String,
    #[serde(skip)]
    pub(super) way: Way,
}

/// What an install has to do.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// Nothing: it is the current version.
    Nothing,
    /// To go back to the previous version.
    RollBack,
    /// To fetch and unpack archives: that of the engine, and that of libraries beside it.
    Unpack(Box<Archive>, Option<Box<Archive>>),
    /// To build it from these sources.
    Build(SourcesFrom),
}

/// Where the sources of a build come from.
#[derive(Clone, Debug)]
pub(super) enum SourcesFrom {
    /// The archive of a release's sources.
    Release(Box<Archive>),
    /// A source distribution, as pip takes it.
    Package(String),
}

/// The bytes that an install fetches, where somebody says, and about as many as it takes on the disk.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    transfer: Option<u64>,
    needed: u64,
}

impl Sizes {
    const NOTHING: Self = Self { transfer: Some(0), needed: 0 };

    /// Those of an archive that is fetched and unpacked.
    const fn of_archive(size: Option<u64>) -> Self {
        let needed = match size {
            Some(size) => size.saturating_mul(1 + UNPACKED),
            None => 0,
        };
        Self { transfer: size, needed }
    }
}

impl Engines {
    /// Plans an install.
    ///
    /// # Errors
    /// Where there is no such build for this machine, naming what is missing.
    pub(super) async fn plan(&self, id: EngineId, version: &str, from: Wanted) -> Result<InstallPlan> {
        let version = if version == LATEST { self.settings.version.as_str() } else { version };
        if let Some(plan) = self.installed_already(id, version, from).await? {
            return Ok(plan);
        }
        let machine = self.machine().await?;
        if machine.kind(id.kind).is_none() && id.kind != DeviceKind::Cpu {
            return Err(missing(id, format!("this machine has no device of the kind {}", id.kind)));
        }
        if from == Wanted::Source {
            return self.of_sources(id, version, &machine, None).await;
        }
        if let Some(archive) = self.archive_of_settings(id) {
            return self.of_settings(id, archive?, version, from).await;
        }
        if from == Wanted::Auto && is_of_package(version) {
            return self.of_sources(id, version, &machine, None).await;
        }
        let known = self.releases.find(version, FRESH).await;
        let known = known.map_err(|failure| match (from, version) {
            (Wanted::Auto, LATEST) => or_from_source(failure, &machine, id),
            _ => failure,
        })?;
        let tag = known.release.tag.clone();
        if let Some(plan) = self.installed_already(id, &tag, from).await? {
            return Ok(plan);
        }
        match choose(&known.release, &machine, id.kind) {
            Ok(chosen) => self.of_release(id, tag, chosen).await,
            Err(unfit) if from == Wanted::Release => Err(missing(id, unfit.to_string())),
            Err(unfit) => self.of_sources(id, version, &machine, Some(unfit)).await,
        }
    }

    /// The archive that the settings name in the place of releases, if they do.
    ///
    /// # Errors
    /// Where it is none, or by its name for another kind of device.
    pub(super) fn archive_of_settings(&self, id: EngineId) -> Option<Result<Archive>> {
        let archive = Archive::of_settings(&self.settings)?;
        Some(archive.and_then(|archive| match ArchiveName::parse(&archive.name) {
            Some(name) if !name.is_for(id.kind) => {
                let message = format!("the settings name {}, which is for {}", archive.name, name.kind);
                Err(missing(id, message).hint(format!(
                    "install llama-server-{}, or name another archive in [engine_builds] archive",
                    name.kind
                )))
            }
            _ => Ok(archive),
        }))
    }

    async fn of_settings(
        &self,
        id: EngineId,
        archive: Archive,
        version: &str,
        from: Wanted,
    ) -> Result<InstallPlan> {
        let version = version_of_archive(&archive.name, version);
        if let Some(plan) = self.installed_already(id, &version, from).await? {
            return Ok(plan);
        }
        let reason = format!("the settings name the archive {}", archive.name);
        let size = self.archives.size_of(&archive).await?;
        let sizes = match &archive.place {
            // What is on this machine is not fetched.
            Place::Here(_) => {
                Sizes { transfer: Some(0), needed: size.unwrap_or_default().saturating_mul(UNPACKED) }
            }
            _ => Sizes::of_archive(size),
        };
        let archive = Archive { size, ..archive };
        let way = Way::Unpack(Box::new(archive), None);
        self.planned(id, version, Provenance::Archive, sizes, way, reason).await
    }

    async fn of_release(&self, id: EngineId, tag: String, chosen: Chosen) -> Result<InstallPlan> {
        let sizes = Sizes::of_archive(Some(chosen.size_bytes()));
        let archive = Archive::of_asset(&chosen.archive)?;
        let libraries = chosen.libraries.as_ref().map(Archive::of_asset).transpose()?;
        let reason = format!("{} of release {tag} is for this machine", archive.name);
        let way = Way::Unpack(Box::new(archive), libraries.map(Box::new));
        self.planned(id, tag, Provenance::Release, sizes, way, reason).await
    }

    /// The plan of a build from source: from a release's own sources, else from the package of the settings. `unfit`
    /// is why no archive of a release will do, where one was looked for.
    async fn of_sources(
        &self,
        id: EngineId,
        version: &str,
        machine: &Machine,
        unfit: Option<Unfit>,
    ) -> Result<InstallPlan> {
        let why = unfit.map(|unfit| unfit.to_string());
        source::check_tools(&machine.tools, id.kind).map_err(|failure| {
            let why = why.as_ref().map_or_else(String::new, |why| format!("{why}, and "));
            let message = format!("{id} cannot be installed here: {why}{}", failure.message);
            Failure { code: Code::EngineUnavailable, message, ..failure }
        })?;
        let release = match is_of_package(version) {
            true => None,
            false => self.release_with_sources(version, machine).await?,
        };
        let needed = BUILT[usize::from(id.kind != DeviceKind::Cpu)];
        let sizes = Sizes { transfer: None, needed };
        let (version, sources, of) = match release {
            Some((tag, archive)) => {
                let of = format!("the sources of release {tag}");
                (tag, SourcesFrom::Release(Box::new(archive)), of)
            }
            None => {
                let package = match version {
                    LATEST => self.settings.source_package.clone(),
                    version => {
                        let name = self.settings.source_package.split("==").next().unwrap_or_default();
                        format!("{name}=={version}")
                    }
                };
                let version = package.split_once("==").map_or(LATEST, |(_, version)| version).to_owned();
                let of = format!("the package {package}");
                (version, SourcesFrom::Package(package), of)
            }
        };
        if let Some(plan) = self.installed_already(id, &version, Wanted::Source).await? {
            return Ok(plan);
        }
        let why = why.map_or_else(String::new, |why| format!("{why}: "));
        let reason = format!("{why}it is built on this machine from {of}, which takes a while");
        self.planned(id, version, Provenance::Source, sizes, Way::Build(sources), reason).await
    }

    /// The release of that version and the archive of its sources; `None` where pip is to fetch the sources, because
    /// the newest release cannot be asked for.
    async fn release_with_sources(
        &self,
        version: &str,
        machine: &Machine,
    ) -> Result<Option<(String, Archive)>> {
        let known = match self.releases.find(version, FRESH).await {
            Ok(known) => known,
            Err(failure) if version == LATEST && machine.tools.python.is_some() => {
                let why = failure.to_string();
                n!("worker_install_release", "The newest release cannot be asked for ({})", harmless(&why));
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        let archive = Archive::of_sources(&known.release).transpose()?;
        Ok(archive.map(|archive| (known.release.tag, archive)))
    }

    /// The plan where that version is installed already.
    pub(super) async fn installed_already(
        &self,
        id: EngineId,
        version: &str,
        from: Wanted,
    ) -> Result<Option<InstallPlan>> {
        let Some(installed) = self.on_disk(move |store| Ok(store.get(id))).await? else { return Ok(None) };
        let matches = |its: &crate::engine_store::Build| {
            let is_as_wanted = from != Wanted::Source || its.from == Provenance::Source;
            // One whose files somebody has removed is installed anew.
            its.version == version && is_as_wanted && its.program.exists()
        };
        let (way, build, reason) = if matches(&installed.current) {
            (Way::Nothing, &installed.current, "it is installed already")
        } else if let Some(previous) = installed.previous.as_ref().filter(|previous| matches(previous)) {
            (Way::RollBack, previous, "it is the version before, which is still here")
        } else {
            return Ok(None);
        };
        let (version, from) = (build.version.clone(), build.from);
        self.planned(id, version, from, Sizes::NOTHING, way, reason.to_owned()).await.map(Some)
    }

    async fn planned(
        &self,
        id: EngineId,
        version: String,
        from: Provenance,
        sizes: Sizes,
        way: Way,
        reason: String,
    ) -> Result<InstallPlan> {
        let folder = self.store.folder().to_owned();
        let space = spawn::blocking(move || {
            disk::create_private_dir(&folder)?;
            free_bytes(&folder)
        });
        let free_bytes =
            space.await?.map_err(|error| Failure::io("look at the disk of", self.store.folder(), &error))?;
        let Sizes { transfer: transfer_bytes, needed: needed_bytes } = sizes;
        let installed = match way {
            Way::Nothing => Some("current"),
            Way::RollBack => Some("previous"),
            Way::Unpack(..) | Way::Build(_) => None,
        };
        let fits = needed_bytes <= free_bytes;
        Ok(InstallPlan {
            id,
            version,
            from,
            transfer_bytes,
            needed_bytes,
            free_bytes,
            fits,
            installed,
            reason,
            way,
        })
    }
}

/// Whether that is a version of the source distribution, and of no release.
fn is_of_package(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_digit())
}

/// The failure to ask for the newest release, with the way that goes without. No install takes that by itself, because
/// it takes long.
pub(super) fn or_from_source(mut failure: Failure, machine: &Machine, id: EngineId) -> Failure {
    if machine.tools.python.is_some() && source::check_tools(&machine.tools, id.kind).is_ok() {
        let hint = failure.hint.take().map_or_else(String::new, |hint| format!("{hint}; or: "));
        let install = serde_json::json!({ "worker_id": id, "from": "source" });
        failure.hint = Some(format!(
            "{hint}WorkerInstall {install} builds it on this machine, from sources that pip fetches"
        ));
    }
    failure
}

/// The version of an archive that the settings name: the one that was asked for, else the release in its name, else
/// its name.
pub(super) fn version_of_archive(name: &str, asked: &str) -> String {
    let is_release = |part: &&str| {
        part.strip_prefix('b')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
    };
    match name.split(['-', '.', '_']).find(is_release) {
        _ if asked != LATEST => asked.to_owned(),
        Some(release) => release.to_owned(),
        None => name.trim_end_matches(".zip").trim_end_matches(".tar.gz").to_owned(),
    }
}

fn missing(id: EngineId, why: String) -> Failure {
    Failure::new(Code::EngineUnavailable, format!("{id} cannot be installed here: {why}"))
        .hint("WorkerCatalogList says what fits this machine")
        .stage("preflight")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::machine::{Libc, Tools};

    #[test]
    fn who_cannot_ask_for_a_release_is_told_how_to_build_where_that_can_be_done() {
        let [cpu, cuda] = [DeviceKind::Cpu, DeviceKind::Cuda].map(|kind| EngineId { kind });
        let here = |name: &str| Some(std::path::PathBuf::from(name));
        let tools =
            Tools { cmake: here("cmake"), cxx: here("c++"), python: here("python3"), ..Tools::default() };
        let mut machine =
            Machine { os: "linux", arch: "x86_64", libc: Libc::Glibc, kinds: Vec::new(), tools };
        let lost = || Failure::new(Code::DownloadFailed, "no answer").hint("check the network");
        let hint = |machine: &Machine, id| or_from_source(lost(), machine, id).hint.unwrap();
        let told = hint(&machine, cpu);
        assert!(told.starts_with("check the network; or: WorkerInstall {"), "{told}");
        assert!(told.contains(r#""worker_id":"llama-server-cpu""#) && told.contains(r#""from":"source""#));
        assert_eq!(hint(&machine, cuda), "check the network", "there is no compiler of CUDA");
        machine.tools.python = None;
        assert_eq!(hint(&machine, cpu), "check the network", "there is no pip");
        assert!(is_of_package("0.3.36") && !is_of_package("b6789") && !is_of_package(LATEST));
    }

    #[test]
    fn an_archive_of_the_settings_has_a_version() {
        for (name, asked, version) in [
            ("llama-b6789-bin-ubuntu-x64.tar.gz", LATEST, "b6789"),
            ("llama-b6789-bin-ubuntu-x64.zip", "mine", "mine"),
            ("own-build.tar.gz", LATEST, "own-build"),
        ] {
            assert_eq!(version_of_archive(name, asked), version, "{name}");
        }
    }
}
