//! What this machine has that an engine can be built for or with.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::config::DeviceKind;
use crate::error::Result;
use crate::workers::gpus::{self, Gpu};
use crate::workers::{Device, devices};
use crate::{files, paths, spawn};

/// How long Python may take to say whether it has pip.
const PYTHON_LIMIT: Duration = Duration::from_secs(15);
/// The loader of Vulkan, by which every program finds Vulkan's drivers.
const VULKAN_LOADER: &str = "libvulkan.so.1";
/// The most bytes of the dynamic linker's cache.
const MOST_OF_CACHE: u64 = 16 << 20;
/// The folders of libraries where the dynamic linker has no cache.
const LIBRARY_FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/lib64",
    "/lib",
    "/run/opengl-driver/lib",
];

/// A machine, as far as the choice of an engine depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `linux`, `macos` or `windows`.
    pub os: &'static str,
    /// `x86_64` or `aarch64`, as Rust names them.
    pub arch: &'static str,
    /// The C library that programs of others can use.
    pub libc: Libc,
    /// The kinds of devices that were found, the preferred one first; the processor is always the last.
    pub kinds: Vec<KindHere>,
    /// The programs and libraries to build an engine with.
    pub tools: Tools,
}

/// The C library of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// The GNU one.
    Glibc,
    /// musl alone, as on Alpine Linux.
    Musl,
    /// That of the system, which has only one.
    Own,
    /// Neither glibc nor musl is in its usual place.
    Unknown,
}

/// A kind of device that the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindHere {
    /// The kind.
    pub kind: DeviceKind,
    /// What was found, for people: `NVIDIA H200, driver 570.86, CUDA 12.8`.
    pub detail: String,
    /// The newest CUDA that the driver supports: `(12, 8)`. `None` for other kinds, and where the driver does not
    /// tell.
    pub cuda: Option<(u32, u32)>,
    /// The version of `ROCm` that is installed: `(7, 2)`. `None` for other kinds, and where none was found.
    pub rocm: Option<(u32, u32)>,
    /// CUDA's compute capabilities of its GPUs, such as `8.9`.
    pub compute_capabilities: Vec<String>,
}

/// What the machine has to build an engine with; `None` for what was not found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// cmake.
    pub cmake: Option<PathBuf>,
    /// ninja, which builds faster than make.
    pub ninja: Option<PathBuf>,
    /// A C++ compiler.
    pub cxx: Option<PathBuf>,
    /// The compiler of the CUDA toolkit.
    pub nvcc: Option<PathBuf>,
    /// The compiler of `ROCm`.
    pub hipcc: Option<PathBuf>,
    /// The compiler of Vulkan's shaders.
    pub glslc: Option<PathBuf>,
    /// Whether Vulkan's headers are here.
    pub has_vulkan_headers: bool,
    /// A Python that has pip.
    pub python: Option<PathBuf>,
}

impl Machine {
    /// This machine; `python` is the one of the settings.
    ///
    /// # Errors
    /// `internal`, where looking at it panicked.
    pub async fn here(python: &Path) -> Result<Self> {
        let with_pip = with_pip(python).await;
        let mut machine = spawn::blocking(Self::look).await?;
        machine.tools.python = with_pip;
        Ok(machine)
    }

    /// What was found of that kind, where the machine has it.
    #[must_use]
    pub fn kind(&self, kind: DeviceKind) -> Option<&KindHere> {
        self.kinds.iter().find(|here| here.kind == kind)
    }

    fn look() -> Self {
        let processor = devices::detect().last().map(|cpu| cpu.name.clone()).unwrap_or_default();
        let found = Found {
            gpus: gpus::sample(),
            cuda: gpus::newest_cuda(),
            rocm: rocm_version(Path::new("/opt/rocm")),
            vulkan: vulkan(Path::new("/etc/ld.so.cache"), Path::new("/dev/dri")),
            processor,
        };
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            libc: libc(Path::new("/")),
            kinds: found.kinds(),
            tools: Tools::look(),
        }
    }
}

/// What drivers and the system tell of devices.
struct Found {
    gpus: Vec<Gpu>,
    cuda: Option<(u32, u32)>,
    rocm: Option<(u32, u32)>,
    /// The render nodes, where Vulkan's loader is here.
    vulkan: Vec<String>,
    processor: String,
}

impl Found {
    /// The kinds, the preferred one first: what a GPU's maker made for it comes before Vulkan.
    fn kinds(&self) -> Vec<KindHere> {
        let version = |name: &str, version: Option<(u32, u32)>| {
            version.map(|(major, minor)| format!("{name} {major}.{minor}")).unwrap_or_default()
        };
        let mut kinds = Vec::new();
        for (kind, extra) in [
            (DeviceKind::Cuda, version("CUDA", self.cuda)),
            (DeviceKind::Rocm, version("ROCm", self.rocm)),
            (DeviceKind::Metal, String::new()),
        ] {
            let is_of_kind =
                |gpu: &&Gpu| matches!(gpu.device, Device::Exact { kind: its, .. } if its == kind);
            let gpus: Vec<_> = self.gpus.iter().filter(is_of_kind).collect();
            let Some(first) = gpus.first() else { continue };
            let driver = first.driver.strip_prefix("NVIDIA ").unwrap_or(&first.driver);
            let mut compute_capabilities: Vec<_> =
                gpus.iter().filter_map(|gpu| gpu.compute_capability.clone()).collect();
            compute_capabilities.sort();
            compute_capabilities.dedup();
            let details = [counted(&gpus), format!("driver {driver}"), extra];
            kinds.push(KindHere {
                kind,
                detail: details
                    .into_iter()
                    .filter(|detail| !detail.is_empty())
                    .collect::<Vec<_>>()
                    .join(", "),
                cuda: self.cuda.filter(|_| kind == DeviceKind::Cuda),
                rocm: self.rocm.filter(|_| kind == DeviceKind::Rocm),
                compute_capabilities,
            });
        }
        if !self.vulkan.is_empty() {
            kinds.push(KindHere::plain(DeviceKind::Vulkan, format!("Vulkan, {}", self.vulkan.join(", "))));
        }
        kinds.push(KindHere::plain(DeviceKind::Cpu, self.processor.clone()));
        kinds
    }
}

impl KindHere {
    /// A kind of which nothing more is known.
    #[must_use]
    pub fn plain(kind: DeviceKind, detail: String) -> Self {
        Self { kind, detail, cuda: None, rocm: None, compute_capabilities: Vec::new() }
    }
}

/// `NVIDIA H200`, or `2 × NVIDIA H200, NVIDIA L4`.
fn counted(gpus: &[&Gpu]) -> String {
    let mut names: Vec<(&str, usize)> = Vec::new();
    for gpu in gpus {
        match names.iter_mut().find(|(name, _)| *name == gpu.name) {
            Some((_, count)) => *count += 1,
            None => names.push((&gpu.name, 1)),
        }
    }
    let named = |(name, count): (&str, usize)| {
        if count == 1 { name.to_owned() } else { format!("{count} × {name}") }
    };
    names.into_iter().map(named).collect::<Vec<_>>().join(", ")
}

/// The C library that programs of others can use, by the dynamic linkers below `root`.
fn libc(root: &Path) -> Libc {
    if !cfg!(target_os = "linux") {
        return Libc::Own;
    }
    let is_there = |path: &str| root.join(path).exists();
    if is_there("lib64/ld-linux-x86-64.so.2") || is_there("lib/ld-linux-aarch64.so.1") {
        return Libc::Glibc;
    }
    let is_musl = ["x86_64", "aarch64"].iter().any(|arch| is_there(&format!("lib/ld-musl-{arch}.so.1")));
    if is_musl { Libc::Musl } else { Libc::Unknown }
}

/// The version of the `ROCm` in that folder.
fn rocm_version(folder: &Path) -> Option<(u32, u32)> {
    let text = files::read_text(folder.join(".info/version")).ok()?;
    let mut numbers = text.trim().split(['.', '-']).map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next().unwrap_or(0)))
}

/// The render nodes, where Vulkan's loader is here: the dynamic linker's `cache` names it, or it is in a folder of
/// libraries.
fn vulkan(cache: &Path, devices: &Path) -> Vec<String> {
    let name = [VULKAN_LOADER.as_bytes(), b"\0"].concat();
    let is_cached = files::read(cache, MOST_OF_CACHE)
        .is_ok_and(|cache| cache.windows(name.len()).any(|window| window == name));
    let is_in_folder = || LIBRARY_FOLDERS.iter().any(|folder| Path::new(folder).join(VULKAN_LOADER).exists());
    if !is_cached && !is_in_folder() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(devices).into_iter().flatten();
    let mut nodes: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("renderD"))
        .collect();
    nodes.sort();
    nodes
}

impl Tools {
    /// All but Python, which has to be asked.
    fn look() -> Self {
        let first = |names: &[&str]| names.iter().find_map(paths::on_path);
        // Both toolkits are often installed without being on PATH.
        let or_at = |found: Option<PathBuf>, path: &str| {
            found.or_else(|| Some(PathBuf::from(path)).filter(|program| paths::is_executable(program)))
        };
        let include = ["/usr/include", "/usr/local/include", "/opt/homebrew/include"].map(Path::new);
        let sdk = std::env::var_os("VULKAN_SDK").map(|sdk| Path::new(&sdk).join("include"));
        let mut includes = include.into_iter().chain(sdk.as_deref());
        Self {
            cmake: first(&["cmake"]),
            ninja: first(&["ninja", "ninja-build"]),
            cxx: first(&["c++", "g++", "clang++"]),
            nvcc: or_at(first(&["nvcc"]), "/usr/local/cuda/bin/nvcc"),
            hipcc: or_at(first(&["hipcc"]), "/opt/rocm/bin/hipcc"),
            glslc: first(&["glslc"]),
            has_vulkan_headers: includes.any(|folder| folder.join("vulkan/vulkan.h").exists()),
            python: None,
        }
    }
}

/// The path of `python`, if it has pip.
async fn with_pip(python: &Path) -> Option<PathBuf> {
    let program = if python.components().count() > 1 {
        Some(python.to_owned()).filter(|program| paths::is_executable(program))
    } else {
        paths::on_path(python)
    }?;
    let mut command = spawn::command(&program);
    command.args(["-c", "import pip"]).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PYTHON_LIMIT, command.status()).await;
    ended.is_ok_and(|status| status.is_ok_and(|status| status.success())).then_some(program)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn gpu(kind: DeviceKind, index: u32, name: &str, driver: &str, capability: Option<&str>) -> Gpu {
        Gpu {
            name: name.to_owned(),
            device: Device::Exact { kind, index },
            driver: driver.to_owned(),
            compute_capability: capability.map(str::to_owned),
            ..Gpu::default()
        }
    }

    #[test]
    fn the_makers_own_kinds_come_before_vulkan_and_the_processor_is_last() {
        let found = Found {
            gpus: vec![
                gpu(DeviceKind::Cuda, 0, "NVIDIA H200", "NVIDIA 570.86.10", Some("9.0")),
                gpu(DeviceKind::Cuda, 1, "NVIDIA H200", "NVIDIA 570.86.10", Some("9.0")),
                gpu(DeviceKind::Cuda, 2, "NVIDIA L4", "NVIDIA 570.86.10", Some("8.9")),
                gpu(DeviceKind::Rocm, 0, "Radeon", "amdgpu", None),
            ],
            cuda: Some((12, 8)),
            rocm: None,
            vulkan: vec!["renderD128".to_owned()],
            processor: "A CPU (2 cores)".to_owned(),
        };
        let kinds = found.kinds();
        let names: Vec<_> = kinds.iter().map(|here| here.kind.name()).collect();
        assert_eq!(names, ["cuda", "rocm", "vulkan", "cpu"]);
        assert_eq!(kinds[0].detail, "2 × NVIDIA H200, NVIDIA L4, driver 570.86.10, CUDA 12.8");
        assert_eq!((kinds[0].cuda, &*kinds[0].compute_capabilities.join(" ")), (Some((12, 8)), "8.9 9.0"));
        assert_eq!((&*kinds[1].detail, kinds[1].cuda), ("Radeon, driver amdgpu", None));
        assert_eq!(kinds[2].detail, "Vulkan, renderD128");
        let bare = Found { gpus: Vec::new(), vulkan: Vec::new(), ..found };
        assert_eq!(bare.kinds(), [KindHere::plain(DeviceKind::Cpu, "A CPU (2 cores)".to_owned())]);
    }

    #[test]
    fn vulkan_needs_its_loader_and_a_render_node() {
        let root = tempfile::tempdir().unwrap();
        let (cache, devices) = (root.path().join("ld.so.cache"), root.path().join("dri"));
        fs::create_dir(&devices).unwrap();
        fs::write(devices.join("card0"), "").unwrap();
        fs::write(&cache, b"glibc-ld.so.cache1.1\0libvulkan.so.1\0/usr/lib/libvulkan.so.1\0").unwrap();
        assert!(vulkan(&cache, &devices).is_empty(), "no render node");
        fs::write(devices.join("renderD129"), "").unwrap();
        fs::write(devices.join("renderD128"), "").unwrap();
        assert_eq!(vulkan(&cache, &devices), ["renderD128", "renderD129"]);
        assert!(vulkan(&cache, Path::new("/no/such/folder")).is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_c_library_is_told_by_its_linker() {
        let root = tempfile::tempdir().unwrap();
        let add = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        assert_eq!(libc(root.path()), Libc::Unknown);
        add("lib/ld-musl-aarch64.so.1");
        assert_eq!(libc(root.path()), Libc::Musl);
        add("lib/ld-linux-aarch64.so.1");
        assert_eq!(libc(root.path()), Libc::Glibc, "a machine may have both");
    }

    #[test]
    fn the_version_of_rocm_is_read() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(rocm_version(root.path()), None);
        fs::create_dir(root.path().join(".info")).unwrap();
        for (text, version) in
            [("7.2.1-43\n", Some((7, 2))), ("10.0.0", Some((10, 0))), ("6", Some((6, 0))), ("?", None)]
        {
            fs::write(root.path().join(".info/version"), text).unwrap();
            assert_eq!(rocm_version(root.path()), version, "{text}");
        }
    }

    #[tokio::test]
    async fn this_machine_has_a_processor() {
        let machine = Machine::here(Path::new("no-such-python")).await.unwrap();
        let last = machine.kinds.last().unwrap();
        assert_eq!(last.kind, DeviceKind::Cpu);
        assert!(last.detail.contains("cores)") && machine.tools.python.is_none());
        assert!(machine.kind(DeviceKind::Cpu).is_some());
    }
}
