//! Lists the processes that hold memory of a device: workers that could be stopped, and others.

use std::cmp::Reverse;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::free::FreeMemory;
use crate::text;
use crate::workers::device::Device;
use crate::workers::handle::Handle;
use crate::workers::process_group::members;
use crate::workers::usage::process_name;
use crate::workers::worker::Status;

/// A worker of this hive that holds memory of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StoppableWorker {
    /// The process id, which `WorkerProcessDelete` stops.
    pub pid: u32,
    /// The id of its model.
    pub model: String,
    /// What it is doing.
    pub status: Status,
    /// The device's memory that it held when it was last measured.
    pub held_bytes: u64,
}

/// A process outside this hive that holds memory of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ForeignProcess {
    /// The process id, as the driver knows it.
    pub pid: u32,
    /// Its name; unset where the hive cannot see the process, as in another container.
    pub name: Option<String>,
    /// The device's memory that it holds.
    pub held_bytes: u64,
}

/// The processes that hold memory of a device, those with the most first.
#[derive(Clone, Debug, Default)]
pub(in crate::workers) struct MemoryHolders {
    pub(in crate::workers) stoppable_workers: Vec<StoppableWorker>,
    pub(in crate::workers) foreign_processes: Vec<ForeignProcess>,
}

impl MemoryHolders {
    /// Lists them. Blocks.
    pub(in crate::workers) fn of(device: Device, free: &FreeMemory, workers: &[Arc<Handle>]) -> Self {
        let mut stoppable_workers: Vec<_> = workers
            .iter()
            .filter(|worker| worker.status().lives())
            .filter_map(|worker| {
                let (_, held_bytes) = worker.holds().into_iter().find(|(on, _)| *on == device)?;
                Some(StoppableWorker {
                    pid: worker.pid,
                    model: worker.model_id().to_owned(),
                    status: worker.status(),
                    held_bytes,
                })
            })
            .collect();
        stoppable_workers.sort_by_key(|worker| Reverse(worker.held_bytes));
        let holders = free.gpu(device).map(|gpu| gpu.holders.as_slice()).unwrap_or_default();
        // Listing the members of groups reads all of /proc.
        let own: Vec<u32> = if holders.is_empty() {
            Vec::new()
        } else {
            workers.iter().flat_map(|worker| members(worker.pid)).collect()
        };
        let mut foreign_processes: Vec<_> = holders
            .iter()
            .filter(|(pid, _)| !own.contains(pid))
            .map(|(pid, bytes)| ForeignProcess { pid: *pid, name: process_name(*pid), held_bytes: *bytes })
            .collect();
        foreign_processes.sort_by_key(|process| Reverse(process.held_bytes));
        Self { stoppable_workers, foreign_processes }
    }

    /// A sentence about each.
    pub(super) fn sentences(&self, device: Device) -> Vec<String> {
        let workers = self.stoppable_workers.iter().map(|worker| {
            let activity = match worker.status {
                Status::Ready => "idle",
                Status::Busy => "busy",
                Status::Unresponsive => "not responding",
                Status::Stopping => "about to end",
                _ => "loading",
            };
            let held = text::bytes(worker.held_bytes);
            format!(
                "worker {} of '{}' ({activity}) holds {held} and could be stopped",
                worker.pid, worker.model
            )
        });
        let foreign = self.foreign_processes.iter().map(|process| {
            let name = process.name.as_deref().unwrap_or("probably in another container");
            let held = text::bytes(process.held_bytes);
            format!("process {} ({name}), which is not the hive's, holds {held} of {device}", process.pid)
        });
        workers.chain(foreign).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceKind;
    use crate::workers::gpus::Gpu;

    #[test]
    fn foreign_processes_on_a_gpu_are_named() {
        let device = Device::Exact { kind: DeviceKind::Cuda, index: 0 };
        let gpu = Gpu { device, holders: vec![(std::process::id(), 5 << 30)], ..Gpu::default() };
        let free = FreeMemory::of(0, vec![gpu]);
        let named = MemoryHolders::of(device, &free, &[]).sentences(device);
        assert!(named[0].starts_with(&format!("process {} (", std::process::id())), "{named:?}");
        assert!(named[0].ends_with("holds 5.0 GiB of cuda:0"), "{named:?}");
    }
}
