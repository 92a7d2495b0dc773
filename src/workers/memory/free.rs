//! Measures the free memory of this machine and its GPUs.

use std::sync::Arc;

use super::cgroup;
use crate::workers::device::Device;
use crate::workers::gpus::{self, Gpu};
use crate::workers::handle::Handle;
use crate::workers::state::LifeStage;

/// The free memory of this machine at one moment, in bytes.
#[derive(Clone, Debug, Default)]
pub(in crate::workers) struct FreeMemory {
    pub(super) ram: u64,
    /// All memory of the machine.
    pub(super) ram_total: u64,
    pub(super) gpus: Vec<Gpu>,
}

/// The memory of one device, as measured, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceMemory {
    pub(crate) device: Device,
    pub(crate) capacity: u64,
    pub(crate) free: u64,
}

impl FreeMemory {
    /// Measures it, and sets aside what workers that are still loading are expected to take. Blocks.
    pub(in crate::workers) fn beside(workers: &[Arc<Handle>]) -> Self {
        let mut free = Self::now();
        free.set_aside(workers);
        free
    }

    /// Measures it. Blocks.
    pub(in crate::workers) fn now() -> Self {
        let (ram, ram_total) = free_ram();
        Self { ram, ram_total, gpus: gpus::sample() }
    }

    /// That of each device whose memory is known.
    pub(in crate::workers) fn devices(&self) -> Vec<DeviceMemory> {
        let processor = DeviceMemory { device: Device::CPU, capacity: self.ram_total, free: self.ram };
        let gpus = self.gpus.iter().map(|gpu| DeviceMemory {
            device: gpu.device,
            capacity: gpu.memory_total_bytes,
            free: gpu.memory_free_bytes(),
        });
        std::iter::once(processor).chain(gpus).collect()
    }

    /// The free memory of a device; `None` where it is unknown.
    pub(in crate::workers) fn on(&self, device: Device) -> Option<u64> {
        if device.is_cpu() {
            return Some(self.ram);
        }
        self.gpu(device).map(Gpu::memory_free_bytes)
    }

    /// The whole memory of a device; `None` where it is unknown.
    pub(in crate::workers) fn capacity(&self, device: Device) -> Option<u64> {
        if device.is_cpu() {
            return Some(self.ram_total);
        }
        self.gpu(device).map(|gpu| gpu.memory_total_bytes)
    }

    pub(super) fn gpu(&self, device: Device) -> Option<&Gpu> {
        // Each interface to a GPU numbers GPUs in its own way; only the number of its maker's own
        // interface identifies one.
        self.gpus.iter().find(|gpu| gpu.device == device)
    }

    fn set_aside(&mut self, workers: &[Arc<Handle>]) {
        for worker in workers.iter().filter(|worker| worker.stage() < LifeStage::Ready) {
            let held = worker.measurements.lock().usage;
            if worker.device.is_cpu() {
                self.ram = self.ram.saturating_sub(worker.expected_bytes().saturating_sub(held.rss_bytes));
            } else if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.device == worker.device) {
                let more = worker.expected_bytes().saturating_sub(held.vram_bytes.unwrap_or(0));
                gpu.memory_used_bytes = gpu.memory_used_bytes.saturating_add(more);
            }
        }
    }
}

/// The free memory of this process, and all memory of the machine. Free is what the machine has
/// available, or less where the control group may take less.
fn free_ram() -> (u64, u64) {
    let mut system = sysinfo::System::new();
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    let available = system.available_memory();
    (cgroup::headroom().map_or(available, |headroom| headroom.min(available)), system.total_memory())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_memory_is_within_the_machines() {
        let (free, total) = free_ram();
        assert!(free > 0 && free <= total);
    }
}
