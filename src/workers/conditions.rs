//! What slows a worker down that is not its own work: other programs on its GPU, clocks that are held back,
//! memory that was swapped out.

use std::sync::Arc;

use super::device::Device;
use super::gpus;
use super::handle::Handle;
use super::memory::{ForeignProcess, FreeMemory, MemoryHolders};
use super::place::Share;
#[cfg(target_os = "linux")]
use super::process_group::members;
use crate::config::Memory;

/// What slows a worker down that is not its own work.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// The device that it computes on.
    pub device: Device,
    /// Which part of the model is on which device; empty where all of it is on one.
    pub split: Vec<Share>,
    /// The GPUs of this machine: id and name.
    pub gpus: Vec<(String, String)>,
    /// Other processes that hold memory of its GPU.
    pub foreign_processes: Vec<ForeignProcess>,
    /// Why its GPU runs slower than it could, for people; `None` where its driver does not tell.
    pub throttled_by: Option<Vec<&'static str>>,
    /// How much of its memory is swapped out; `None` where the system does not tell.
    pub swapped_bytes: Option<u64>,
}

impl Conditions {
    /// The conditions of a worker now. `workers` are all that the hive has. Blocks.
    pub(super) fn of(worker: &Handle, workers: &[Arc<Handle>], settings: Memory) -> Self {
        let (device, free) = (worker.device, FreeMemory::beside(workers, settings));
        let gpus = gpus::sample().into_iter().map(|gpu| (gpu.id, gpu.name)).collect();
        Self {
            device,
            split: worker.split.clone(),
            gpus,
            foreign_processes: MemoryHolders::of(device, &free, workers).foreign_processes,
            throttled_by: gpus::throttled_by(device),
            swapped_bytes: swapped_bytes(worker.pid),
        }
    }
}

/// How much memory of a process group is swapped out.
#[cfg(target_os = "linux")]
fn swapped_bytes(group: u32) -> Option<u64> {
    let swapped = |pid: u32| {
        let status = procfs::process::Process::new(pid.cast_signed()).ok()?.status().ok()?;
        Some(status.vmswap? * 1024)
    };
    members(group).into_iter().filter_map(swapped).reduce(u64::saturating_add)
}

#[cfg(not(target_os = "linux"))]
const fn swapped_bytes(_group: u32) -> Option<u64> {
    None
}
