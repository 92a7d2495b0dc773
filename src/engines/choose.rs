//! Which archive of a release is the one for this machine.

use super::archive_name::ArchiveName;
use super::machine::{KindHere, Libc, Machine};
use super::release::{Asset, Release};
use crate::config::DeviceKind;

/// The oldest GPUs that CUDA 13 compiles for.
const OLDEST_OF_CUDA_13: (u32, u32) = (7, 5);
/// From these GPUs on (Blackwell), an engine must be built by CUDA 12.8 or later.
const BLACKWELL: (u32, u32) = (10, 0);
const FIRST_FOR_BLACKWELL: (u32, u32) = (12, 8);

/// An archive, and what its name says.
type Named<'a> = (ArchiveName, &'a Asset);

/// The archives of a release that make one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The engine.
    pub archive: Asset,
    /// The libraries that belong beside it.
    pub libraries: Option<Asset>,
}

impl Chosen {
    /// The bytes of all its archives.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.archive.size + self.libraries.as_ref().map_or(0, |libraries| libraries.size)
    }
}

/// Why no archive of a release fits; a sentence without its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The machine has no such device.
    #[error("this machine has no device of the kind {0}")]
    NoDevice(DeviceKind),
    /// The archives are built for the other C library.
    #[error("the archives of releases need glibc, and this machine has musl")]
    Musl,
    /// The release was not built for it.
    #[error("release {tag} has no archive for {kind} on {os} ({arch})")]
    NotBuilt {
        /// The release.
        tag: String,
        /// The kind of device.
        kind: DeviceKind,
        /// The system.
        os: &'static str,
        /// The architecture.
        arch: &'static str,
    },
    /// NVIDIA's driver is too old for every archive.
    #[error("the archives of release {tag} need a driver for CUDA {}, and the one here is for {}", dotted(.needed), .driver.as_ref().map_or_else(|| "an unknown version".to_owned(), dotted))]
    OldDriver {
        /// The release.
        tag: String,
        /// The oldest CUDA that an archive is built for.
        needed: (u32, u32),
        /// The newest that the driver supports.
        driver: Option<(u32, u32)>,
    },
    /// The archives that the driver can run have nothing for the machine's GPUs.
    #[error("the archives of release {tag} that the driver here can run are not for a GPU with the compute capability {}", .capabilities.join(" and "))]
    OtherGpu {
        /// The release.
        tag: String,
        /// What the machine's GPUs have.
        capabilities: Vec<String>,
    },
    /// The archive needs another `ROCm` than the machine's.
    #[error("the archive of release {tag} needs ROCm {}, and {}", .needed.0, .here.map_or_else(|| "none was found in /opt/rocm".to_owned(), |here| format!("{} is here", dotted(&here))))]
    OtherRocm {
        /// The release.
        tag: String,
        /// The version that it is built for.
        needed: (u32, u32),
        /// The one that is here.
        here: Option<(u32, u32)>,
    },
}

/// The archives of a release for a kind of device of this machine.
///
/// # Errors
/// Why none fits.
pub fn choose(release: &Release, machine: &Machine, kind: DeviceKind) -> Result<Chosen, Unfit> {
    let here = machine.kind(kind).ok_or(Unfit::NoDevice(kind))?;
    if machine.libc == Libc::Musl {
        return Err(Unfit::Musl);
    }
    let named = || release.assets.iter().filter_map(|asset| Some((ArchiveName::parse(&asset.name)?, asset)));
    let is_for_machine = |(name, _): &(ArchiveName, &Asset)| {
        !name.is_libraries && name.is_for(kind) && (name.os, name.arch) == (machine.os, machine.arch)
    };
    let archives: Vec<_> = named().filter(is_for_machine).collect();
    let tag = || release.tag.clone();
    let not_built = || Unfit::NotBuilt { tag: tag(), kind, os: machine.os, arch: machine.arch };
    let first = archives.first().ok_or_else(not_built)?;
    let (name, archive) = match kind {
        DeviceKind::Cuda => for_driver(&archives, here, tag())?,
        DeviceKind::Rocm if machine.os == "linux" => for_rocm(&archives, here.rocm, tag())?,
        _ => first,
    };
    let of_it = ArchiveName { is_libraries: true, ..name.clone() };
    let libraries = named().find(|(other, _)| *other == of_it).map(|(_, asset)| asset.clone());
    Ok(Chosen { archive: (*archive).clone(), libraries })
}

/// The archive with the newest CUDA that the driver runs and that compiles for the machine's GPUs.
fn for_driver<'a>(archives: &'a [Named<'a>], here: &KindHere, tag: String) -> Result<&'a Named<'a>, Unfit> {
    let built = |(name, _): &Named<'_>| name.version.unwrap_or_default();
    let driver = here.cuda.unwrap_or_default();
    // A driver runs what any CUDA of its own major version has compiled
    // (<https://docs.nvidia.com/deploy/cuda-compatibility/>).
    let mut runnable = archives.iter().filter(|archive| built(archive).0 <= driver.0).peekable();
    if runnable.peek().is_none() {
        let needed = archives.iter().map(built).min().unwrap_or_default();
        return Err(Unfit::OldDriver { tag, needed, driver: here.cuda });
    }
    let is_compiled = |archive: &&Named<'_>| {
        let capabilities = &here.compute_capabilities;
        capabilities.iter().all(|capability| is_compiled_for(built(archive), capability))
    };
    // All the same, one that is not newer than the driver is safer.
    let rank = |archive: &&Named<'_>| (built(archive) <= driver, built(archive));
    let capabilities = here.compute_capabilities.clone();
    runnable.filter(is_compiled).max_by_key(rank).ok_or(Unfit::OtherGpu { tag, capabilities })
}

/// The archive for the `ROCm` that is installed, whose libraries it needs.
fn for_rocm<'a>(
    archives: &'a [Named<'a>],
    here: Option<(u32, u32)>,
    tag: String,
) -> Result<&'a Named<'a>, Unfit> {
    let major = |version: Option<(u32, u32)>| version.map(|(major, _)| major);
    let is_same = |(name, _): &&Named<'_>| here.is_some() && major(name.version) == major(here);
    let newest =
        |archives: &mut dyn Iterator<Item = &'a Named<'a>>| archives.max_by_key(|(name, _)| name.version);
    let needed = newest(&mut archives.iter()).and_then(|(name, _)| name.version).unwrap_or_default();
    newest(&mut archives.iter().filter(is_same)).ok_or(Unfit::OtherRocm { tag, needed, here })
}

/// Whether that version of CUDA compiles for GPUs of that compute capability.
fn is_compiled_for(built: (u32, u32), capability: &str) -> bool {
    let parts = capability
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    // What is not understood is left to the engine's own trial.
    let Some(capability) = parts else { return true };
    (built.0 < 13 || capability >= OLDEST_OF_CUDA_13)
        && (capability < BLACKWELL || built >= FIRST_FOR_BLACKWELL)
}

fn dotted((major, minor): &(u32, u32)) -> String {
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests;
