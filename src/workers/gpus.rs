//! The GPUs of this machine, as their drivers describe them: NVIDIA's through NVML, which is loaded at
//! the first use, AMD's through sysfs, Apple's from the machine that they are part of. Where a driver
//! is missing, the hive logs that once and lists no GPUs of that maker. All functions block.

use std::path::Path;
use std::sync::OnceLock;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use serde::Serialize;
use utoipa::ToSchema;

use super::device::Device;
use crate::config::DeviceKind;
use crate::files;

/// The folder in which the kernel lists devices (`sysfs(5)`).
const SYSFS: &str = "/sys/class";

/// One GPU and its current use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Gpu {
    /// `cuda:0`, `rocm:0`, ...
    pub id: String,
    /// The name that its maker gave it.
    pub name: String,
    /// The same as a device; always exact.
    #[serde(skip)]
    pub device: Device,
    /// All of its memory.
    pub memory_total_bytes: u64,
    /// Its memory that any process uses.
    pub memory_used_bytes: u64,
    /// The share of the last sampling period in which it was busy, in percent.
    pub utilization_percent: Option<u32>,
    /// CUDA's compute capability, such as `8.9`.
    pub compute_capability: Option<String>,
    /// The driver and its version.
    pub driver: String,
    /// The ids of the processes that hold memory of it, each with the bytes that it holds.
    #[serde(skip)]
    pub holders: Vec<(u32, u64)>,
}

impl Gpu {
    /// Its free memory.
    #[must_use]
    pub const fn memory_free_bytes(&self) -> u64 {
        self.memory_total_bytes.saturating_sub(self.memory_used_bytes)
    }
}

/// Every GPU, in the order of their numbers.
#[must_use]
pub fn sample() -> Vec<Gpu> {
    let mut gpus = nvidia();
    gpus.extend(amd(Path::new(SYSFS)));
    gpus.extend(apple());
    gpus
}

/// A description of each driver, for people.
#[must_use]
pub fn drivers() -> Vec<String> {
    let mut drivers = vec![match nvml() {
        Ok(nvml) => {
            let version = nvml.sys_driver_version().unwrap_or_else(|_| "of unknown version".to_owned());
            format!("NVIDIA driver {version}, {} GPU(s)", nvml.device_count().unwrap_or(0))
        }
        Err(why) => format!("no NVIDIA driver ({why})"),
    }];
    let amd = amd(Path::new(SYSFS)).len();
    if amd > 0 {
        drivers.push(format!("amdgpu driver, {amd} GPU(s)"));
    }
    drivers
}

/// Why a GPU runs slower than it could, for people; empty where it does not, `None` where its driver does not
/// tell.
#[must_use]
pub fn throttled_by(device: Device) -> Option<Vec<&'static str>> {
    let Device::Exact { kind: DeviceKind::Cuda, index } = device else { return None };
    let reasons = nvml().ok()?.device_by_index(index).ok()?.current_throttle_reasons().ok()?;
    let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    let power = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    let known = [
        (heat, "it is too hot"),
        (power, "it has reached its limit of power"),
        (ThrottleReasons::HW_SLOWDOWN, "its hardware slows it down"),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "its clocks are set lower"),
    ];
    Some(known.into_iter().filter(|(those, _)| reasons.intersects(*those)).map(|(_, why)| why).collect())
}

/// The newest CUDA that NVIDIA's driver supports, as `(major, minor)`. `None` where there is no such driver.
#[must_use]
pub fn newest_cuda() -> Option<(u32, u32)> {
    let version = nvml().ok()?.sys_cuda_driver_version().ok()?;
    let part = |part: i32| u32::try_from(part).ok();
    Some((part(cuda_driver_version_major(version))?, part(cuda_driver_version_minor(version))?))
}

fn nvml() -> Result<&'static Nvml, &'static str> {
    static LOADED: OnceLock<Result<Nvml, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        Nvml::init().map_err(|error| {
            let why = match error {
                // The error's own text is the dynamic linker's, which reads like a fault.
                NvmlError::LibloadingError(_) => "its library, libnvidia-ml, is not here".to_owned(),
                error => error.to_string(),
            };
            tracing::info!(why, "no NVIDIA driver was found; the hive lists no NVIDIA GPUs");
            why
        })
    });
    loaded.as_ref().map_err(String::as_str)
}

fn nvidia() -> Vec<Gpu> {
    let Ok(nvml) = nvml() else { return Vec::new() };
    let driver = nvml.sys_driver_version().map_or_else(|_| "NVIDIA".to_owned(), |v| format!("NVIDIA {v}"));
    (0..nvml.device_count().unwrap_or(0))
        .filter_map(|index| {
            let gpu = nvml.device_by_index(index).ok()?;
            // A GPU that does not report its memory cannot be used either.
            let memory = gpu.memory_info().ok()?;
            let processes =
                [gpu.running_compute_processes(), gpu.running_graphics_processes()].into_iter().flatten();
            let mut holders: Vec<(u32, u64)> = Vec::new();
            for process in processes.flatten() {
                // A process that computes and draws is in both lists, with the same memory.
                if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory
                    && !holders.iter().any(|(pid, _)| *pid == process.pid)
                {
                    holders.push((process.pid, bytes));
                }
            }
            let device = Device::Exact { kind: DeviceKind::Cuda, index };
            Some(Gpu {
                id: device.to_string(),
                name: gpu.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
                device,
                memory_total_bytes: memory.total,
                memory_used_bytes: memory.total.saturating_sub(memory.free),
                utilization_percent: gpu.utilization_rates().ok().map(|rates| rates.gpu),
                compute_capability: gpu
                    .cuda_compute_capability()
                    .ok()
                    .map(|capability| format!("{}.{}", capability.major, capability.minor)),
                driver: driver.clone(),
                holders,
            })
        })
        .collect()
}

/// The cards of the amdgpu driver (<https://docs.kernel.org/gpu/amdgpu/driver-misc.html>). `class` is
/// `/sys/class`.
fn amd(class: &Path) -> Vec<Gpu> {
    let Ok(entries) = std::fs::read_dir(class.join("drm")) else { return Vec::new() };
    let number = |name: &str| name.strip_prefix("card")?.parse::<u32>().ok();
    let mut cards: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((number(entry.file_name().to_str()?)?, entry.path().join("device")))
        })
        .collect();
    cards.sort_unstable();
    cards
        .into_iter()
        .filter_map(|(_, device)| {
            let text =
                |name: &str| files::read_text(device.join(name)).ok().map(|text| text.trim().to_owned());
            let bytes = |name: &str| text(name)?.parse::<u64>().ok();
            (text("vendor")? == "0x1002").then_some(())?;
            Some(Gpu {
                name: text("product_name").filter(|name| !name.is_empty()).unwrap_or("AMD GPU".to_owned()),
                memory_total_bytes: bytes("mem_info_vram_total")?,
                memory_used_bytes: bytes("mem_info_vram_used")?,
                utilization_percent: text("gpu_busy_percent").and_then(|percent| percent.parse().ok()),
                driver: "amdgpu".to_owned(),
                holders: holders_on_amd(&class.join("kfd/kfd"), &device),
                ..Gpu::default()
            })
        })
        .zip(0..)
        .map(|(gpu, index)| {
            let device = Device::Exact { kind: DeviceKind::Rocm, index };
            Gpu { id: device.to_string(), device, ..gpu }
        })
        .collect()
}

/// The ids of the processes that hold memory of a card through `ROCm`, each with its bytes. The driver
/// has a file `proc/PID/vram_ID` under `kfd` for each process and card. A card's id is that of the
/// node with its render device.
fn holders_on_amd(kfd: &Path, device: &Path) -> Vec<(u32, u64)> {
    let text = |path: &Path| files::read_text(path).ok();
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let Some(render) = names(&device.join("drm"))
        .into_iter()
        .find_map(|name| Some(format!("drm_render_minor {}", name.strip_prefix("renderD")?)))
    else {
        return Vec::new();
    };
    let nodes = kfd.join("topology/nodes");
    let Some(id) = names(&nodes).into_iter().find_map(|node| {
        let node = nodes.join(node);
        text(&node.join("properties"))?.lines().any(|line| line.trim() == render).then_some(())?;
        Some(text(&node.join("gpu_id"))?.trim().to_owned())
    }) else {
        return Vec::new();
    };
    let processes = kfd.join("proc");
    let held = |process: String| {
        let held = text(&processes.join(&process).join(format!("vram_{id}")))?;
        Some((process.parse().ok()?, held.trim().parse().ok()?))
    };
    names(&processes).into_iter().filter_map(held).filter(|(_, bytes)| *bytes > 0).collect()
}

/// The GPU of an Apple machine, which shares the machine's memory.
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
fn apple() -> Vec<Gpu> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let device = Device::Exact { kind: DeviceKind::Metal, index: 0 };
    let total = system.total_memory();
    vec![Gpu {
        id: device.to_string(),
        name: "Apple GPU (unified memory)".to_owned(),
        device,
        memory_total_bytes: total,
        memory_used_bytes: total.saturating_sub(system.available_memory()),
        driver: "Metal".to_owned(),
        ..Gpu::default()
    }]
}

#[cfg(not(all(target_os = "macos", target_arch = "aarch64")))]
const fn apple() -> Vec<Gpu> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_amd_cards_are_read_from_sysfs() {
        let class = tempfile::tempdir().unwrap();
        let write = |folder: &str, files: &[(&str, &str)]| {
            let folder = class.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            for (file, text) in files {
                std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        };
        let card = |name: &str, files: &[(&str, &str)]| write(&format!("drm/{name}/device"), files);
        card("card0", &[("vendor", "0x8086")]);
        card(
            "card1",
            &[
                ("vendor", "0x1002"),
                ("mem_info_vram_total", "17163091968"),
                ("mem_info_vram_used", "1073741824"),
                ("gpu_busy_percent", "7"),
                ("product_name", ""),
            ],
        );
        card("card1-HDMI-A-1", &[("vendor", "0x1002")]);
        card("card2", &[("vendor", "0x1002"), ("mem_info_vram_total", "no number")]);
        write("drm/card1/device/drm/renderD129", &[]);
        write("drm/card1/device/drm/card1", &[]);
        write("kfd/kfd/topology/nodes/0", &[("gpu_id", "0"), ("properties", "cpu_cores_count 16")]);
        write("kfd/kfd/topology/nodes/1", &[("gpu_id", "7"), ("properties", "drm_render_minor 12")]);
        write("kfd/kfd/topology/nodes/2", &[("gpu_id", "9"), ("properties", "a 1\ndrm_render_minor 129")]);
        write("kfd/kfd/proc/4711", &[("vram_9", "734003200"), ("vram_7", "1")]);
        write("kfd/kfd/proc/4712", &[("vram_9", "0")]);
        write("kfd/kfd/proc/4713", &[("vram_7", "5")]);
        let gpus = amd(class.path());
        assert_eq!(gpus.len(), 1);
        let gpu = &gpus[0];
        assert_eq!((gpu.id.as_str(), gpu.name.as_str()), ("rocm:0", "AMD GPU"));
        assert_eq!((gpu.memory_free_bytes(), gpu.utilization_percent), (17_163_091_968 - (1 << 30), Some(7)));
        assert_eq!(gpu.holders, [(4711, 734_003_200)]);
        assert!(amd(Path::new("/no/such/folder")).is_empty());
    }

    #[test]
    fn a_missing_driver_is_described() {
        assert!(sample().iter().all(|gpu| gpu.memory_total_bytes > 0));
        assert!(drivers()[0].contains("NVIDIA driver"));
    }
}
