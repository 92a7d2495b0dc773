//! The memory that workers may use (`[memory]`).

use std::collections::HashMap;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::device::Device;
use super::size::{self, Size};

/// How much of each device's memory is left to other programs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// What stays free for other programs, by device.
    #[schema(value_type = HashMap<String, Size>)]
    #[serde(serialize_with = "size::by_device")]
    pub reserve: HashMap<Device, ByteSize>,
    /// The most that all workers together may take, by device.
    #[schema(value_type = HashMap<String, Size>)]
    #[serde(serialize_with = "size::by_device")]
    pub limit: HashMap<Device, ByteSize>,
}

impl Memory {
    /// The bytes that stay free for other programs.
    #[must_use]
    pub fn reserve_on(&self, device: Device) -> u64 {
        self.reserve.get(&device).map_or(0, ByteSize::as_u64)
    }

    /// The most bytes that all workers together may take; `None` where nothing limits them.
    #[must_use]
    pub fn limit_on(&self, device: Device) -> Option<u64> {
        self.limit.get(&device).map(ByteSize::as_u64)
    }

    /// The first setting that cannot work, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let vague = |amounts: &HashMap<Device, ByteSize>| {
            amounts.keys().find(|device| !matches!(device, Device::Exact { .. })).copied()
        };
        let named = vague(&self.reserve).map(|device| ("reserve", device));
        let (setting, device) = named.or_else(|| vague(&self.limit).map(|device| ("limit", device)))?;
        Some((
            setting,
            format!("names '{device}', which is not one device: use cpu, or a GPU such as cuda:0"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Device, DeviceKind};

    #[test]
    fn reserves_and_limits_are_read_by_device() {
        let gpu = |index| Device::Exact { kind: DeviceKind::Cuda, index };
        let text = "[memory]\nreserve = { cpu = \"1GiB\", \"cuda:1\" = 4096 }\nlimit = { cuda = \"2.5 GB\" }";
        let memory = toml::from_str::<Config>(text).unwrap().memory;
        assert_eq!(memory.reserve_on(Device::CPU), 1 << 30);
        assert_eq!((memory.reserve_on(gpu(1)), memory.reserve_on(gpu(0))), (4096, 0));
        assert_eq!((memory.limit_on(gpu(0)), memory.limit_on(Device::CPU)), (Some(2_500_000_000), None));
        for (wrong, named) in [
            ("reserve = { tpu = 1 }", "'tpu' is not a device"),
            ("limit = { cpu = \"much\" }", "much"),
            ("limit = { cpu = -1 }", "-1"),
            ("share = { cpu = 1 }", "share"),
        ] {
            let error = toml::from_str::<Config>(&format!("[memory]\n{wrong}")).unwrap_err().to_string();
            assert!(error.contains(named), "{wrong}: {error}");
        }
        let vague =
            toml::from_str::<Config>("[memory]\nlimit = { auto = 1 }").unwrap().validate().unwrap_err();
        assert!(vague.message.starts_with("[memory] limit names 'auto'"), "{vague}");
    }
}
