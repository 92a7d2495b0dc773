//! The devices of this machine, as `/v1/capabilities` lists them.

use std::sync::OnceLock;

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use utoipa::ToSchema;

use super::gpus;

/// A device as `/v1/capabilities` describes it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = DeviceCard)]
pub struct DeviceDescription {
    /// `CPU-0`, `GPU-0`, ...
    pub id: String,
    /// The name that its maker gave it.
    pub name: String,
    /// `cpu` or `gpu`.
    pub device_type: &'static str,
    /// Its memory in GiB, rounded; RAM for a processor.
    pub vram_gb: u64,
    /// CUDA's compute capability, such as `8.9`.
    pub compute_capability: Option<String>,
    /// The extensions of its instruction set that speed up inference; empty for GPUs. Not on the wire.
    #[serde(skip)]
    pub features: Vec<&'static str>,
}

/// The extensions of the processor's instruction set that speed up inference.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let features = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
    ];
    features.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

/// Not detected on other processors.
#[cfg(not(target_arch = "x86_64"))]
const fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

/// The devices of this machine, GPUs first. Detected once: processors and RAM do not change while it
/// runs.
#[must_use]
pub fn detect() -> &'static [DeviceDescription] {
    static DEVICES: OnceLock<Vec<DeviceDescription>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_cpu(CpuRefreshKind::nothing())
                .with_memory(MemoryRefreshKind::nothing().with_ram()),
        );
        let cores = system.cpus().len();
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        let brand = if brand.is_empty() { System::cpu_arch() } else { brand };
        let gpus = gpus::sample().into_iter().zip(0..).map(|(gpu, number)| DeviceDescription {
            id: format!("GPU-{number}"),
            name: gpu.name,
            device_type: "gpu",
            vram_gb: (gpu.memory_total_bytes + (1 << 29)) >> 30,
            compute_capability: gpu.compute_capability,
            features: Vec::new(),
        });
        let cpu = DeviceDescription {
            id: "CPU-0".to_owned(),
            name: format!("{brand} ({cores} cores)"),
            device_type: "cpu",
            vram_gb: (system.total_memory() + (1 << 29)) >> 30,
            compute_capability: None,
            features: cpu_features(),
        };
        gpus.chain([cpu]).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_detected() {
        let cpu = detect().last().unwrap();
        assert_eq!((cpu.id.as_str(), cpu.device_type), ("CPU-0", "cpu"));
        assert!(cpu.name.contains("cores)"));
    }
}
