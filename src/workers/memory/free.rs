//! Measures the free memory of this machine and its GPUs, and what of it workers may take.

use std::sync::Arc;

use super::cgroup;
use crate::config::Memory;
use crate::workers::device::Device;
use crate::workers::gpus::{self, Gpu};
use crate::workers::handle::Handle;
use crate::workers::state::LifeStage;

/// The free memory of this machine at one moment, in bytes, and what of it workers may take.
#[derive(Clone, Debug, Default)]
pub(in crate::workers) struct FreeMemory {
    ram: u64,
    /// All memory of the machine.
    ram_total: u64,
    gpus: Vec<Gpu>,
    /// What the workers hold.
    held: Vec<(Device, u64)>,
    /// What workers that are still loading are expected to take beyond what they hold.
    promised: Vec<(Device, u64)>,
    settings: Memory,
}

/// The memory of one device, as measured, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceMemory {
    pub(crate) device: Device,
    pub(crate) capacity: u64,
    pub(crate) free: u64,
    /// What of it workers may not take: what the settings keep for other programs, and what is beyond the most
    /// that they let workers take.
    pub(crate) reserve: u64,
}

impl FreeMemory {
    /// Measures it, and sets aside what workers that are still loading are expected to take. Blocks.
    pub(in crate::workers) fn beside(workers: &[Arc<Handle>], settings: Memory) -> Self {
        let mut free = Self { settings, ..Self::now() };
        for worker in workers.iter().filter(|worker| worker.status().lives()) {
            let holds = worker.holds();
            if worker.stage() < LifeStage::Ready {
                free.promised.extend(
                    worker
                        .needs
                        .iter()
                        .map(|(device, bytes)| (*device, bytes.saturating_sub(on(&holds, *device)))),
                );
            }
            free.held.extend(holds);
        }
        free
    }

    fn now() -> Self {
        let (ram, ram_total) = free_ram();
        Self { ram, ram_total, gpus: gpus::sample(), ..Self::default() }
    }

    /// The memory of each device where it is known.
    pub(in crate::workers) fn devices(&self) -> Vec<DeviceMemory> {
        let known = std::iter::once(Device::CPU).chain(self.gpus.iter().map(|gpu| gpu.device));
        let memory = |device| {
            let free = self.free(device)?;
            let reserve = free.saturating_sub(self.allowed(device, free, on(&self.held, device)));
            Some(DeviceMemory { device, capacity: self.capacity(device)?, free, reserve })
        };
        known.filter_map(memory).collect()
    }

    /// The memory of a device that a worker may take now; `None` where it is unknown.
    pub(in crate::workers) fn on(&self, device: Device) -> Option<u64> {
        let promised = on(&self.promised, device);
        let held = on(&self.held, device).saturating_add(promised);
        Some(self.allowed(device, self.free(device)?.saturating_sub(promised), held))
    }

    /// The memory of a device that a worker could take if the other workers were gone; `None` where it is
    /// unknown.
    pub(in crate::workers) fn without_workers(&self, device: Device) -> Option<u64> {
        let free = self.free(device)?.saturating_add(on(&self.held, device));
        Some(self.allowed(device, free.min(self.capacity(device)?), 0))
    }

    /// The memory of a device that workers could take if nothing else ran; `None` where it is unknown.
    pub(in crate::workers) fn most(&self, device: Device) -> Option<u64> {
        Some(self.allowed(device, self.capacity(device)?, 0))
    }

    /// The whole memory of a device; `None` where it is unknown.
    pub(in crate::workers) fn capacity(&self, device: Device) -> Option<u64> {
        if device.is_cpu() {
            return Some(self.ram_total);
        }
        self.gpu(device).map(|gpu| gpu.memory_total_bytes)
    }

    fn free(&self, device: Device) -> Option<u64> {
        if device.is_cpu() {
            return Some(self.ram);
        }
        self.gpu(device).map(Gpu::memory_free_bytes)
    }

    /// What of these free bytes a worker may take, where others hold so many.
    fn allowed(&self, device: Device, free: u64, held: u64) -> u64 {
        let limit = self.settings.limit_on(device).unwrap_or(u64::MAX);
        free.saturating_sub(self.settings.reserve_on(device)).min(limit.saturating_sub(held))
    }

    pub(super) fn gpu(&self, device: Device) -> Option<&Gpu> {
        // Each interface to a GPU numbers GPUs in its own way; only the number of its maker's own
        // interface identifies one.
        self.gpus.iter().find(|gpu| gpu.device == device)
    }
}

#[cfg(test)]
impl FreeMemory {
    /// A machine with so much memory, all of it free, and these GPUs.
    pub(in crate::workers) fn of(ram: u64, gpus: Vec<Gpu>) -> Self {
        Self { ram, ram_total: ram, gpus, ..Self::default() }
    }
}

/// The bytes of one device in a list of bytes by device.
fn on(amounts: &[(Device, u64)], device: Device) -> u64 {
    amounts.iter().filter(|(on, _)| *on == device).fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

/// The free memory of this process, and all memory of the machine. Free is what the machine has
/// available, or less where the control group may take less.
pub(crate) fn free_ram() -> (u64, u64) {
    let mut system = sysinfo::System::new();
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    let available = system.available_memory();
    (cgroup::headroom().map_or(available, |headroom| headroom.min(available)), system.total_memory())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceKind;

    #[test]
    fn the_free_memory_is_within_the_machines() {
        let (free, total) = free_ram();
        assert!(free > 0 && free <= total);
    }

    #[test]
    fn what_workers_may_take_is_bounded_by_the_reserve_and_the_limit() {
        let gpu = |index| Device::Exact { kind: DeviceKind::Cuda, index };
        let card = |index| Gpu {
            device: gpu(index),
            memory_total_bytes: 100,
            memory_used_bytes: 40,
            ..Gpu::default()
        };
        let settings = "reserve = { \"cuda:0\" = 5 }\nlimit = { \"cuda:1\" = 50 }";
        let free = FreeMemory {
            gpus: vec![card(0), card(1)],
            held: vec![(gpu(0), 30), (gpu(1), 30)],
            promised: vec![(gpu(0), 10)],
            settings: toml::from_str(settings).unwrap(),
            ..FreeMemory::default()
        };
        let (first, second, none) = (gpu(0), gpu(1), gpu(2));
        assert_eq!([free.on(first), free.on(second), free.on(none)], [Some(45), Some(20), None]);
        assert_eq!([free.without_workers(first), free.without_workers(second)], [Some(85), Some(50)]);
        let reserves: Vec<_> = free.devices().iter().map(|memory| memory.reserve).collect();
        assert_eq!(reserves, [0, 5, 40], "60 are free, and workers may take 20 more of the second one");
        assert_eq!([free.most(first), free.most(second)], [Some(95), Some(50)]);
    }
}
