//! Which build an install brings, and from where.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::choose::choose;
use super::fetch::Archive;
use super::machine::Machine;
use super::parts::Engines;
use super::release::{KnownRelease, LATEST};
use crate::config::DeviceKind;
use crate::engine_store::{EngineId, Provenance};
use crate::error::{Code, Failure, Result};
use crate::files::free_bytes;
use crate::{disk, spawn};

/// How old an answer of the releases may be for an install.
const FRESH: Duration = Duration::from_secs(60);
/// How many times as large as its archive an engine is.
const UNPACKED: u64 = 4;

/// Where a caller wants an engine from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Debug, Serialize)]
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
            return Err(missing(id, "engines are not built from source here yet".to_owned()));
        }
        if let Some(archive) = Archive::of_settings(&self.settings) {
            let archive = archive?;
            let version = version_of_archive(&archive.name, version);
            if let Some(plan) = self.installed_already(id, &version, from).await? {
                return Ok(plan);
            }
            let reason = format!("the settings name the archive {}", archive.name);
            let way = Way::Unpack(Box::new(archive), None);
            return self.planned(id, version, Provenance::Archive, None, way, reason).await;
        }
        let known = self.releases.find(version, FRESH).await?;
        let tag = known.release.tag.clone();
        if let Some(plan) = self.installed_already(id, &tag, from).await? {
            return Ok(plan);
        }
        self.of_release(id, &machine, known).await
    }

    async fn of_release(&self, id: EngineId, machine: &Machine, known: KnownRelease) -> Result<InstallPlan> {
        let KnownRelease { release, .. } = known;
        let chosen = choose(&release, machine, id.kind).map_err(|unfit| missing(id, unfit.to_string()))?;
        let size = chosen.size_bytes();
        let archive = Archive::of_asset(&chosen.archive)?;
        let libraries = chosen.libraries.as_ref().map(Archive::of_asset).transpose()?;
        let reason = format!("{} of release {} is for this machine", archive.name, release.tag);
        let way = Way::Unpack(Box::new(archive), libraries.map(Box::new));
        self.planned(id, release.tag, Provenance::Release, Some(size), way, reason).await
    }

    /// The plan where that version is installed already.
    async fn installed_already(
        &self,
        id: EngineId,
        version: &str,
        from: Wanted,
    ) -> Result<Option<InstallPlan>> {
        let Some(installed) = self.on_disk(move |store| Ok(store.get(id))).await? else { return Ok(None) };
        let matches = |its: &crate::engine_store::Build| {
            let is_as_wanted = from != Wanted::Source || its.from == Provenance::Source;
            its.version == version && is_as_wanted
        };
        let (way, build, reason) = if matches(&installed.current) {
            (Way::Nothing, &installed.current, "it is installed already")
        } else if let Some(previous) = installed.previous.as_ref().filter(|previous| matches(previous)) {
            (Way::RollBack, previous, "it is the version before, which is still here")
        } else {
            return Ok(None);
        };
        let plan =
            self.planned(id, build.version.clone(), build.from, Some(0), way, reason.to_owned()).await?;
        Ok(Some(plan))
    }

    async fn planned(
        &self,
        id: EngineId,
        version: String,
        from: Provenance,
        transfer_bytes: Option<u64>,
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
        let needed_bytes = transfer_bytes.unwrap_or(0).saturating_mul(1 + UNPACKED);
        let installed = match way {
            Way::Nothing => Some("current"),
            Way::RollBack => Some("previous"),
            Way::Unpack(..) => None,
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

/// The version of an archive that the settings name: the one that was asked for, else the release in its name, else
/// its name.
fn version_of_archive(name: &str, asked: &str) -> String {
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
