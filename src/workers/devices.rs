//! Devices: what a model computes on, how clients name it, and what this machine has.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::gpus;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// A kind of device, by the interface that engines reach it through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The processor.
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
    /// Apple's GPUs.
    Metal,
    /// AMD's GPUs.
    Rocm,
    /// GPUs through Vulkan.
    Vulkan,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Cpu, Self::Cuda, Self::Metal, Self::Rocm, Self::Vulkan];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A device as a client names it: `0`, `"0"`, `"cpu"`, `"cuda:0"`, `"auto"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// Whichever fits best.
    #[default]
    Auto,
    /// The device of that number, from 0, among those of the worker's kind (among the GPUs, where
    /// no kind is named).
    Index(u32),
    /// The device of that kind and number.
    Exact {
        /// Its kind.
        kind: Kind,
        /// Its number, from 0, among those of its kind.
        index: u32,
    },
}

impl Device {
    /// The processor.
    pub const CPU: Self = Self::Exact { kind: Kind::Cpu, index: 0 };

    /// Whether it is the processor.
    #[must_use]
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Exact { kind: Kind::Cpu, .. })
    }

    /// Whether a worker on `actual` is on the device that this names.
    #[must_use]
    pub fn fits(self, actual: Self) -> bool {
        match self {
            Self::Auto => true,
            Self::Index(asked) => {
                matches!(actual, Self::Exact { kind, index } if kind != Kind::Cpu && index == asked)
            }
            Self::Exact { .. } => self == actual,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Index(index) => write!(f, "{index}"),
            Self::Exact { kind: Kind::Cpu, index: 0 } => f.write_str("cpu"),
            Self::Exact { kind, index } => write!(f, "{kind}:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || format!("'{text}' is not a device: use auto, cpu, a number, or cuda:0");
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        if let Ok(index) = text.parse() {
            return Ok(Self::Index(index));
        }
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let kind = Kind::of(kind).ok_or_else(refused)?;
        Ok(Self::Exact { kind, index: index.parse().map_err(|_| refused())? })
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DeviceVisitor;
        impl Visitor<'_> for DeviceVisitor {
            type Value = Device;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a device: \"auto\", \"cpu\", a number from 0, or \"cuda:0\"")
            }

            fn visit_u64<E: de::Error>(self, index: u64) -> Result<Device, E> {
                u32::try_from(index)
                    .map(Device::Index)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(index), &self))
            }

            fn visit_i64<E: de::Error>(self, index: i64) -> Result<Device, E> {
                u64::try_from(index)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(index), &self))
                    .and_then(|index| self.visit_u64(index))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Device, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(DeviceVisitor)
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A device as `/v1/capabilities` describes it.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// `CPU-0`, `GPU-0`, ...
    pub id: String,
    /// What its maker calls it.
    pub name: String,
    /// `cpu` or `gpu`.
    pub device_type: &'static str,
    /// Its memory in GiB, rounded; RAM for a processor.
    pub vram_gb: u64,
    /// CUDA's compute capability, such as `8.9`.
    pub compute_capability: Option<String>,
    /// What of its instruction set matters for inference; empty for GPUs. Not on the wire.
    #[serde(skip)]
    pub features: Vec<&'static str>,
}

/// The extensions of the processor's instruction set that matter for inference.
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

/// Those of other processors are not told apart.
#[cfg(not(target_arch = "x86_64"))]
const fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

/// The devices of this machine, GPUs first. Found once: neither processors nor RAM come and go.
#[must_use]
pub fn detect() -> &'static [Description] {
    static FOUND: OnceLock<Vec<Description>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_cpu(CpuRefreshKind::nothing())
                .with_memory(MemoryRefreshKind::nothing().with_ram()),
        );
        let cores = system.cpus().len();
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        let brand = if brand.is_empty() { System::cpu_arch() } else { brand };
        let gpus = gpus::sample().into_iter().zip(0..).map(|(gpu, number)| Description {
            id: format!("GPU-{number}"),
            name: gpu.name,
            device_type: "gpu",
            vram_gb: (gpu.memory_total_bytes + (1 << 29)) >> 30,
            compute_capability: gpu.compute_capability,
            features: Vec::new(),
        });
        let cpu = Description {
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

    fn parse(json: &str) -> Result<Device, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn every_spelling_of_the_contract_is_understood() {
        assert_eq!(parse("0"), Ok(Device::Index(0)));
        assert_eq!(parse("\"0\""), Ok(Device::Index(0)));
        assert_eq!(parse("\"cpu\""), Ok(Device::CPU));
        assert_eq!(parse("\"auto\""), Ok(Device::Auto));
        assert_eq!(parse("\"cuda:0\""), Ok(Device::Exact { kind: Kind::Cuda, index: 0 }));
        assert_eq!(parse("\"Metal\""), Ok(Device::Exact { kind: Kind::Metal, index: 0 }));
        for refused in
            ["-1", "1.5", "4294967296", "\"\"", "\"cuda:\"", "\"cuda:-1\"", "\"tpu\"", "null", "[0]"]
        {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn what_is_printed_is_understood_again() {
        for text in ["auto", "cpu", "3", "cuda:0", "vulkan:2"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bare_number_means_a_gpu() {
        assert!(!Device::Index(0).fits(Device::CPU));
        assert!(Device::Index(1).fits(Device::Exact { kind: Kind::Cuda, index: 1 }));
        assert!(Device::Auto.fits(Device::CPU) && Device::CPU.fits(Device::CPU));
    }

    #[test]
    fn the_processor_is_found() {
        let cpu = detect().last().unwrap();
        assert_eq!((cpu.id.as_str(), cpu.device_type), ("CPU-0", "cpu"));
        assert!(cpu.name.contains("cores)"));
    }
}
