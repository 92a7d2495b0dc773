//! What a worker needs of the machine: the system's programs and libraries, its own program, the files that its command
//! names, devices, and the caches of their drivers.
//!
//! The lists name what is needed and no folder in which the user or the hive may have files of their own: `/etc` may
//! have the hive's token, and `/dev` has disks and terminals.

#![cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux can restrict a worker"))]

use std::path::{Path, PathBuf};

use crate::config::DeviceKind;
use crate::{disk, files};

/// Folders of the system's programs and libraries.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/snap",
    "/home/linuxbrew/.linuxbrew",
    "/run/opengl-driver",
    "/run/opengl-driver-32",
];
/// Settings of the system that its libraries read.
const SETTINGS: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/ld-musl-x86_64.path",
    "/etc/ld-musl-aarch64.path",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.alias",
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/machine-id",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/crypto-policies",
    "/etc/OpenCL",
    "/etc/vulkan",
    "/etc/glvnd",
    "/etc/egl",
    "/etc/drirc",
    "/etc/nvidia",
    "/etc/amd",
    "/etc/ascend_install.info",
    "/etc/nv_tegra_release",
];
/// Folders of the kernel, which a worker may read. The kernel keeps what is other processes' own from it there, too.
const KERNEL: &[&str] = &["/proc", "/sys"];
/// The beginnings of the names of devices in `/dev`.
const DEVICES: &[&str] = &[
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "nvidia",
    "nvhost",
    "nvmap",
    "nvgpu",
    "nvsci",
    "dri",
    "kfd",
    "dxg",
    "accel",
    "mali",
    "kgsl",
    "udmabuf",
    "dma_heap",
    "davinci",
    "devmm_svm",
    "hisi_hdc",
];
/// What drivers of GPUs share between processes.
const SHARED_BY_GPUS: &[&str] = &["/dev/shm", "/tmp/nvidia-mps"];
/// Folders beside that of a program in which its libraries may be, and what makes it a Python environment's.
const BESIDE_PROGRAMS: &[&str] = &["lib", "lib64", "libexec", "pyvenv.cfg"];
/// The cache of CUDA's compiler in the user's folder. Without it, each start compiles again.
const CUDA_CACHE: &str = ".nv";
/// Mesa's caches in the user's folder of caches; for Vulkan the same holds for them.
const MESA_CACHES: &[&str] = &["mesa_shader_cache", "mesa_shader_cache_db"];
/// Further caches of GPUs' drivers there.
const DRIVER_CACHES: &[&str] = &["radv_builtin_shaders", "nvidia", "AMD", "comgr"];
/// Variables that name files and folders of libraries and drivers.
const VARIABLES_OF_LIBRARIES: &[&str] = &[
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "GGML_BACKEND_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "ROCM_PATH",
    "HIP_PATH",
    "ROCBLAS_TENSILE_LIBPATH",
    "HIPBLASLT_TENSILE_LIBPATH",
    "LIBGL_DRIVERS_PATH",
    "OCL_ICD_VENDORS",
    "VK_ICD_FILENAMES",
    "VK_DRIVER_FILES",
    "VK_ADD_DRIVER_FILES",
    "VK_LAYER_PATH",
];
/// Variables that name folders into which drivers write.
const VARIABLES_OF_CACHES: &[&str] =
    &["CUDA_CACHE_PATH", "CUDA_MPS_PIPE_DIRECTORY", "MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"];
/// A longer script is not searched for what it runs, in bytes.
const LONGEST_SCRIPT: u64 = 64 << 10;
/// Programs that a script leads to. What is beyond is left out.
const MOST_PROGRAMS: usize = 32;

/// What a worker needs besides the system's own files.
#[derive(Clone, Debug, Default)]
pub(in crate::workers) struct Allowed {
    /// Its program.
    pub(in crate::workers) program: PathBuf,
    /// Files and folders that it reads.
    pub(in crate::workers) reads: Vec<PathBuf>,
    /// Words of the settings, which may name further ones.
    pub(in crate::workers) words: Vec<String>,
    /// Files and folders that it writes.
    pub(in crate::workers) writes: Vec<PathBuf>,
    /// The port on which it listens; `None` lets it take any.
    pub(in crate::workers) port: Option<u16>,
    /// The kind of its GPUs; `None` where it computes on the processor.
    pub(in crate::workers) gpus: Option<DeviceKind>,
}

impl Allowed {
    /// Files and folders to read and to run.
    pub(super) fn runs(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        for program in self.programs() {
            all.extend(libraries_beside(&program));
            let above = program.ancestors().nth(2);
            all.extend(
                above.into_iter().flat_map(|above| BESIDE_PROGRAMS.iter().map(|name| above.join(name))),
            );
            all.push(program);
        }
        all.extend(VARIABLES_OF_LIBRARIES.iter().flat_map(|name| set(name)));
        all
    }

    /// Folders whose names may be listed: llama.cpp looks for its libraries in that of its program.
    pub(super) fn lists(&self) -> Vec<PathBuf> {
        self.programs().iter().filter_map(|program| Some(program.parent()?.to_owned())).collect()
    }

    /// Files and folders to read.
    pub(super) fn reads(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = KERNEL.iter().chain(SETTINGS).map(PathBuf::from).collect();
        for path in self.reads.iter().cloned().chain(named(&self.words)) {
            // A folder of the Hub's cache has links to files elsewhere.
            let entries = std::fs::read_dir(&path).into_iter().flatten();
            all.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_symlink()));
            all.push(path);
        }
        for (variable, usual) in [("XDG_DATA_HOME", ".local/share"), ("XDG_CONFIG_HOME", ".config")] {
            all.extend(of_user(variable, usual).map(|folder| folder.join("vulkan")));
        }
        all
    }

    /// Devices to use.
    pub(super) fn devices() -> Vec<PathBuf> {
        let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
        let is_wanted = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            DEVICES.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
        };
        entries.map(|entry| entry.path()).filter(is_wanted).collect()
    }

    /// Files and folders to write.
    pub(super) fn writes(&self) -> Vec<PathBuf> {
        let mut all = self.writes.clone();
        let Some(kind) = self.gpus else { return all };
        // Others may make a link in a folder that everybody shares.
        all.extend(SHARED_BY_GPUS.iter().map(PathBuf::from).filter(|path| !path.is_symlink()));
        all.extend(VARIABLES_OF_CACHES.iter().flat_map(|name| set(name)));
        let cuda = home().map(|home| home.join(CUDA_CACHE));
        let caches = of_user("XDG_CACHE_HOME", ".cache");
        let of = |names: &[&str]| -> Vec<PathBuf> {
            caches.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect()
        };
        let made = match kind {
            DeviceKind::Cuda => cuda.iter().cloned().collect(),
            DeviceKind::Vulkan => of(MESA_CACHES),
            _ => Vec::new(),
        };
        for cache in made {
            let _there = disk::create_private_dir(&cache);
        }
        all.extend(cuda);
        all.extend(of(MESA_CACHES));
        all.extend(of(DRIVER_CACHES));
        all
    }

    /// The program, the file that a link to it means, and what they run if they are scripts.
    fn programs(&self) -> Vec<PathBuf> {
        let mut all = vec![self.program.clone()];
        let mut at = 0;
        while at < all.len().min(MOST_PROGRAMS) {
            let further = all[at].canonicalize().into_iter().chain(named_by_script(&all[at]));
            for program in further.collect::<Vec<_>>() {
                if !all.contains(&program) {
                    all.push(program);
                }
            }
            at += 1;
        }
        all.truncate(MOST_PROGRAMS);
        all
    }
}

/// The files that a script names by their whole paths: its interpreter, the program that it runs.
fn named_by_script(program: &Path) -> Vec<PathBuf> {
    let text = files::read(program, LONGEST_SCRIPT).unwrap_or_default();
    if !text.starts_with(b"#!") {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&text);
    let words = text.split(|c: char| c.is_whitespace() || "\"'`=:;,(){}<>|&!".contains(c));
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).filter(|path| path.is_file()).collect()
}

/// The shared libraries in the folder of a program.
fn libraries_beside(program: &Path) -> Vec<PathBuf> {
    if SYSTEM.iter().any(|folder| program.starts_with(folder)) {
        return Vec::new();
    }
    let entries = program.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    let is_library = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")) && path.is_file()
    };
    entries.flatten().map(|entry| entry.path()).filter(is_library).collect()
}

/// The files and folders that words of the settings name: `/a/b`, `--adapter=/a/b`, `/a/b:/c`.
fn named(words: &[String]) -> Vec<PathBuf> {
    let parts = words.iter().flat_map(|word| std::iter::once(&**word).chain(word.split(['=', ':', ','])));
    let paths = parts.filter(|part| part.contains('/')).map(PathBuf::from);
    // A lone "/" is a route rather than all that there is.
    paths.filter(|path| path.parent().is_some() && path.exists()).collect()
}

/// The absolute paths that a variable of the hive's environment names, which its workers inherit.
fn set(variable: &str) -> Vec<PathBuf> {
    let value = std::env::var_os(variable).unwrap_or_default();
    std::env::split_paths(&value).filter(|path| path.is_absolute() && path.parent().is_some()).collect()
}

/// The user's folder, if there is one.
fn home() -> Option<PathBuf> {
    set("HOME").pop().filter(|home| home.is_dir())
}

/// A folder in the user's, which a variable may name instead.
fn of_user(variable: &str, usual: &str) -> Option<PathBuf> {
    set(variable).pop().or_else(|| Some(home()?.join(usual)))
}
