//! llama.cpp's server, built from its sources on this machine.
//!
//! The sources come from a folder, an archive, or a source distribution that the machine's pip fetches ([`fetched`]).
//! cmake configures and builds them ([`run`]) with what the wanted kind of device needs ([`options`]), in a folder of
//! the cache that belongs to these sources and options:
//!
//! ```text
//! CACHE/packages/HASH/NAME-VERSION.tar.gz         a source distribution
//! CACHE/VERSION-KIND-HASH/source                  the unpacked sources
//! CACHE/VERSION-KIND-HASH/out                     cmake's build
//! CACHE/VERSION-KIND-HASH/build.log               everything that the programs printed
//! CACHE/VERSION-KIND-HASH/unfinished              there while a build runs
//! ```
//!
//! Invariants:
//! - A build keeps its folder, however it ends, and the next one of the same sources and options goes on there: also
//!   one whose program was still to prove itself. Once it has, [`clean`] removes it.
//! - Where a build was killed, what a compiler was writing may be broken. So if the next one fails, it begins anew.

mod fetched;
mod run;
mod progress;
mod options;
mod hint;
mod request;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

pub use self::fetched::Fetched;
pub use self::request::{BuildRequest, Sources};

use self::fetched::remove_if_there;
use self::run::{Program, Runner};
use super::machine::Tools;
use crate::config::DeviceKind;
use crate::engine_store::remove_folder;
use crate::error::{Code, Failure, Result};
use crate::time::{in_words, monotonic};
use crate::workers::free_ram;
use crate::{disk, n, spawn, text};

/// The program that is built, and its target in cmake.
const PROGRAM: &str = "llama-server";
/// The compilers of one job may take this much memory.
const MEMORY_PER_JOB: u64 = 1 << 30;

/// A program that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The version of the sources.
    pub version: String,
    /// The program, in the draft's folder.
    pub program: PathBuf,
    /// The SHA-256 of the archive of the sources, in hexadecimal; `None` where they were in a folder.
    pub archive_sha256: Option<String>,
}

/// Brings the sources of a build to this machine, if it has what the build takes.
///
/// # Errors
/// [`Code::Cancelled`]; [`Code::EngineBuildFailed`] and others with the stage (`tools`, `sources`), and what to do.
pub async fn fetch(request: &BuildRequest, stop: &CancellationToken) -> Result<Fetched> {
    check_tools(&request.tools, request.kind)?;
    disk::create_private_dir(&request.cache)
        .map_err(|error| Failure::io("use the folder", &request.cache, &error))?;
    fetched::fetch(request, stop).await
}

/// Builds the sources. The program comes into `draft`, a folder on the cache's file system.
///
/// # Errors
/// [`Code::Cancelled`]; [`Code::EngineBuildFailed`] and others with the stage (`tools`, `sources`, `configure`,
/// `compile`), the last lines and what to do.
pub async fn build(
    request: &BuildRequest,
    sources: &Fetched,
    draft: &Path,
    stop: &CancellationToken,
) -> Result<Built> {
    let started = monotonic();
    let cmake = check_tools(&request.tools, request.kind)?;
    let mut options = options::options(
        request.kind,
        &request.compute_capabilities,
        &sources.version,
        &request.cmake_options,
    );
    if let Some(nvcc) = request.tools.nvcc.as_ref().filter(|_| request.kind == DeviceKind::Cuda) {
        options.insert(0, format!("-DCMAKE_CUDA_COMPILER={}", nvcc.display()));
    }
    if request.tools.ninja.is_some() {
        options.insert(0, "-GNinja".to_owned());
    }
    let folder = request.cache.join(folder_name(request.kind, sources, &options));
    disk::create_private_dir(&folder).map_err(|error| Failure::io("use the folder", &folder, &error))?;
    let runner = Runner::new(folder.join("build.log"), stop)?;
    Build { request, cmake, options, sources, folder: &folder, runner, stop }.run().await?;
    let program = hand_over(&folder, draft).await?;
    n!("worker_install_build", "Built llama-server {} in {}", sources.version, in_words(started.elapsed()));
    Ok(Built { version: sources.version.clone(), program, archive_sha256: sources.sha256.clone() })
}

/// Has a build use no instructions that only new processors have. Returns false where the options of the request say
/// already what it uses.
pub fn make_portable(request: &mut BuildRequest) -> bool {
    let is_told = request.cmake_options.iter().any(|option| option.starts_with("-DGGML_NATIVE"));
    if !is_told {
        request.cmake_options.push("-DGGML_NATIVE=OFF".to_owned());
    }
    !is_told
}

/// Refuses a build for which a program is missing. Returns cmake.
///
/// # Errors
/// [`Code::EngineBuildFailed`], naming what is missing and how to get it.
pub fn check_tools(tools: &Tools, kind: DeviceKind) -> Result<&Path> {
    let missing = [
        (tools.cmake.is_none(), "cmake", "Debian, Ubuntu: apt install cmake; everywhere: pip install cmake"),
        (tools.cxx.is_none(), "a C++ compiler", "Debian, Ubuntu: apt install build-essential"),
        (kind == DeviceKind::Cuda && tools.nvcc.is_none(), "nvcc", "it comes with NVIDIA's CUDA toolkit"),
        (kind == DeviceKind::Rocm && tools.hipcc.is_none(), "hipcc", "it comes with ROCm's HIP SDK"),
        (kind == DeviceKind::Vulkan && tools.glslc.is_none(), "glslc", "Debian, Ubuntu: apt install glslc"),
        (
            kind == DeviceKind::Vulkan && !tools.has_vulkan_headers,
            "Vulkan's headers",
            "Debian, Ubuntu: apt install libvulkan-dev",
        ),
    ];
    let missing: Vec<_> = missing.iter().filter(|(is_missing, ..)| *is_missing).collect();
    match &tools.cmake {
        Some(cmake) if missing.is_empty() => Ok(cmake),
        _ => {
            let names: Vec<_> = missing.iter().map(|(_, name, _)| *name).collect();
            let hints: Vec<_> = missing.iter().map(|(_, name, hint)| format!("{name} ({hint})")).collect();
            let message =
                format!("building llama-server for {kind} needs {}, which is not here", names.join(", "));
            Err(Failure::new(Code::EngineBuildFailed, message)
                .hint(format!("install {}", hints.join(", ")))
                .stage("tools"))
        }
    }
}

/// The folder of the cache for these sources and options.
fn folder_name(kind: DeviceKind, sources: &Fetched, options: &[String]) -> String {
    let identity = sources.sha256.clone().unwrap_or_else(|| sources.path.display().to_string());
    let hash = Sha256::digest(format!("{identity}\n{}", options.join("\n")));
    format!("{}{}{}", sources.version, of_kind(kind), text::hex(&hash[..6]))
}

/// What the names of folders for that kind contain.
fn of_kind(kind: DeviceKind) -> String {
    format!("-{kind}-")
}

/// One build in its folder.
struct Build<'a> {
    request: &'a BuildRequest,
    cmake: &'a Path,
    options: Vec<String>,
    sources: &'a Fetched,
    folder: &'a Path,
    runner: Runner<'a>,
    stop: &'a CancellationToken,
}

impl Build<'_> {
    async fn run(mut self) -> Result<()> {
        let source = self.sources.unpack(&self.folder.join("source"), self.stop).await?;
        let (out, unfinished) = (self.folder.join("out"), self.folder.join("unfinished"));
        let was_killed = unfinished.exists();
        let failed = |error: io::Error| Failure::io("use", &unfinished, &error);
        if out.exists() {
            n!("worker_install_build", "Going on with the build in {}", self.folder.display());
        }
        disk::write(&unfinished, "").map_err(failed)?;
        let mut built = self.once(&source, &out).await;
        if was_killed && built.as_ref().is_err_and(|failure| failure.code == Code::EngineBuildFailed) {
            n!("worker_install_build", "The build was interrupted before, and does not go on: building anew");
            remove_if_there(&out).map_err(|error| Failure::io("remove", &out, &error))?;
            built = self.once(&source, &out).await;
        }
        // One that was cancelled was killed, too.
        if built.as_ref().is_err_and(|failure| failure.code == Code::Cancelled) {
            n!(
                "worker_install_build",
                "Kept what was built so far: the next build from these sources goes on with it"
            );
        } else {
            disk::remove_file(&unfinished).map_err(failed)?;
        }
        built
    }

    async fn once(&mut self, source: &Path, out: &Path) -> Result<()> {
        let (version, kind) = (&self.sources.version, self.request.kind);
        let generator = if self.request.tools.ninja.is_some() { "ninja" } else { "make" };
        n!("worker_install_build", "Configuring llama.cpp {version} for {kind}, with cmake and {generator}");
        n!(debug: "worker_install_build", "cmake {}", self.options.join(" "));
        let mut arguments = vec!["-S".into(), source.into(), "-B".into(), out.into()];
        arguments.extend(self.options.iter().map(OsString::from));
        self.cmake("configure", "cmake could not configure llama.cpp", arguments).await?;
        let jobs = jobs();
        n!("worker_install_build", "Building llama-server {version} for {kind}, {jobs} job(s) at a time");
        let mut arguments = vec!["--build".into(), out.into()];
        arguments.extend(["--target", PROGRAM, "--parallel", &jobs.to_string()].map(OsString::from));
        self.cmake("compile", "llama-server could not be built", arguments).await
    }

    async fn cmake(&mut self, stage: &'static str, failed: &str, arguments: Vec<OsString>) -> Result<()> {
        let program =
            Program { stage, failed, program: self.cmake, arguments, folder: self.folder, is_pip: false };
        self.runner.run(program).await
    }
}

/// As many jobs as processors, unless memory is short.
fn jobs() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    processors.min(free_ram().0 / MEMORY_PER_JOB).max(1)
}

/// Moves the program and the log to the draft's folder. Returns the path of the program.
async fn hand_over(folder: &Path, draft: &Path) -> Result<PathBuf> {
    let (folder, draft) = (folder.to_owned(), draft.to_owned());
    let work = move || -> Result<PathBuf> {
        let program = draft.join(PROGRAM);
        let failed = |error: io::Error| Failure::io("put the built program at", &program, &error);
        disk::create_dir_all(&draft).map_err(failed)?;
        disk::rename(folder.join("out/bin").join(PROGRAM), &program).map_err(failed)?;
        disk::rename(folder.join("build.log"), draft.join("build.log")).map_err(failed)?;
        Ok(program)
    };
    spawn::blocking(work).await?
}

/// Removes what builds for that kind have left in the cache: nobody goes on with it, because the program of the last
/// one is used, or does not work.
///
/// # Errors
/// `internal`, which is a defect.
pub async fn clean(cache: &Path, kind: DeviceKind) -> Result<()> {
    let (cache, kind) = (cache.to_owned(), of_kind(kind));
    let work = move || {
        let entries = std::fs::read_dir(&cache).into_iter().flatten().filter_map(Result::ok);
        let obsolete = entries.filter(|entry| entry.file_name().to_string_lossy().contains(&kind));
        let mut freed = 0;
        for folder in obsolete.map(|entry| entry.path()) {
            match remove_folder(&folder) {
                Ok(bytes) => freed += bytes,
                // What stays takes room, and is in nobody's way.
                Err(error) => {
                    n!(warn: "worker_install_build", "{} could not be removed: {error}", folder.display());
                }
            }
        }
        n!("worker_install_build", "Removed what the build left: {}", text::bytes(freed));
    };
    spawn::blocking(work).await
}
