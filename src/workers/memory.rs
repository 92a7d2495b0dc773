//! Whether a model fits: what a worker will need, from the header of its model, against what is
//! free now.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::devices::Device;
use super::engines::{Engine, Keeps};
use super::gpus::{self, Gpu};
use super::handle::{Handle, Stage};
use super::usage::process_name;
use super::worker::Status;
use crate::error::{Code, Failure, Result};
use crate::models::gguf::{Arrays, Header};
use crate::{n, text};

/// Tokens of context where nobody asked for a number: models of today are trained for far more, and
/// its memory would come as a surprise.
pub(super) const DEFAULT_CONTEXT: u64 = 8192;
/// What a worker takes on the processor besides its model: buffers, the vocabulary, code.
const OVERHEAD_CPU: u64 = 64 << 20;
/// What a worker takes on a GPU besides its model: the driver's context and compute buffers.
const OVERHEAD_GPU: u64 = 512 << 20;

/// One of the things that a worker needs memory for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// `weights`, `kv_cache` or `overhead`.
    pub name: &'static str,
    /// How much, in bytes.
    pub bytes: u64,
}

/// What a worker is expected to need on its device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) weights: u64,
    pub(super) cache: u64,
    pub(super) overhead: u64,
    /// Tokens of each slot.
    context: u64,
    slots: u64,
}

impl Estimate {
    pub(super) const fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.overhead)
    }

    /// What it is made of.
    pub(super) fn parts(&self) -> Vec<Part> {
        [("weights", self.weights), ("kv_cache", self.cache), ("overhead", self.overhead)]
            .map(|(name, bytes)| Part { name, bytes })
            .into()
    }

    /// From the header of the model and what was asked for.
    pub(super) fn of(
        model: &Model,
        engine: &Engine,
        device: Device,
        context: Option<u64>,
        slots: Option<u32>,
    ) -> Self {
        let (context, slots) = (model.context(context), u64::from(slots.unwrap_or(1)));
        let weights = match engine.keeps {
            Keeps::F16AsF32 => model.weights.saturating_add(model.half_precision),
            Keeps::AsStored { .. } => model.weights,
        };
        // Each token leaves a key and a value in each layer; bits, since there are caches of 4 or 8.
        let bits = match engine.keeps {
            Keeps::F16AsF32 => 32,
            Keeps::AsStored { cache_bits } => cache_bits,
        };
        let cache =
            model.cache_elements.saturating_mul(context).saturating_mul(slots).saturating_mul(bits) / 8;
        let fixed = if device.is_cpu() { OVERHEAD_CPU } else { OVERHEAD_GPU };
        Self { weights, cache, overhead: fixed + weights / 50, context, slots }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (weights {}, cache {} for {} slot(s) of {} tokens, overhead {})",
            text::bytes(self.total()),
            text::bytes(self.weights),
            text::bytes(self.cache),
            self.slots,
            self.context,
            text::bytes(self.overhead)
        )
    }
}

/// What matters of a model's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model {
    /// Bytes of all tensors.
    weights: u64,
    /// Bytes of those in half precision.
    half_precision: u64,
    /// Elements of the cache for each token.
    cache_elements: u64,
    trained_for: Option<u64>,
}

impl Model {
    /// Reads it; `None` where the file is no GGUF file. Blocks.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let header = Header::read(path, Arrays::Skip)
            .inspect_err(|error| tracing::debug!(path = %path.display(), %error, "no estimate of memory"))
            .ok()?;
        let mut model = Self::of(&header);
        // Of a split model only the first file is read, and the others are weights and little else.
        for part in crate::models::other_parts(path) {
            model.weights =
                model.weights.saturating_add(std::fs::metadata(part).map_or(0, |file| file.len()));
        }
        Some(model)
    }

    fn of(header: &Header) -> Self {
        let number = |key: &str| header.metadata.u64(&format!("{}.{key}", header.architecture()?));
        let heads = number("attention.head_count").unwrap_or(0);
        // Where it differs between layers it is an array: then every layer counts like the widest.
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let width = number("embedding_length").unwrap_or(0).checked_div(heads).unwrap_or(0);
        let keys = number("attention.key_length").unwrap_or(width);
        let values = number("attention.value_length").unwrap_or(width);
        let sum = |of: &dyn Fn(&str) -> bool| {
            let tensors = header.tensors.iter().filter(|tensor| of(tensor.kind.name()));
            tensors.fold(0_u64, |sum, tensor| sum.saturating_add(tensor.bytes))
        };
        Self {
            weights: sum(&|_| true),
            half_precision: sum(&|kind| matches!(kind, "F16" | "BF16")),
            cache_elements: number("block_count")
                .unwrap_or(0)
                .saturating_mul(kv_heads)
                .saturating_mul(keys.saturating_add(values)),
            trained_for: header.context_length(),
        }
    }

    /// The tokens of context of each slot where so many were asked for.
    pub(super) fn context(&self, asked: Option<u64>) -> u64 {
        let trained_for = self.trained_for.unwrap_or(u64::MAX).max(1);
        asked.unwrap_or(DEFAULT_CONTEXT).clamp(1, trained_for)
    }
}

/// What is free on this machine now, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Free {
    pub(super) ram: u64,
    /// Of the machine in all.
    pub(super) ram_total: u64,
    pub(super) gpus: Vec<Gpu>,
}

impl Free {
    /// Looks. Blocks.
    pub(super) fn now() -> Self {
        let (ram, ram_total) = free_ram();
        Self { ram, ram_total, gpus: gpus::sample() }
    }

    /// On that device; `None` where that cannot be told.
    pub(super) fn on(&self, device: Device) -> Option<u64> {
        if device.is_cpu() {
            return Some(self.ram);
        }
        self.gpu(device).map(Gpu::memory_free_bytes)
    }

    /// The memory of that device in all; `None` where that cannot be told.
    pub(super) fn capacity(&self, device: Device) -> Option<u64> {
        if device.is_cpu() {
            return Some(self.ram_total);
        }
        self.gpu(device).map(|gpu| gpu.memory_total_bytes)
    }

    fn gpu(&self, device: Device) -> Option<&Gpu> {
        // The same GPU has a number in each interface that reaches it; only its maker's own tells
        // which it is.
        self.gpus.iter().find(|gpu| gpu.device == device)
    }

    /// Sets aside what workers that still load are about to take.
    pub(super) fn set_aside(&mut self, workers: &[std::sync::Arc<Handle>]) {
        for worker in workers.iter().filter(|worker| worker.stage() < Stage::Ready) {
            let held = worker.measures.lock().usage;
            if worker.device.is_cpu() {
                self.ram = self.ram.saturating_sub(worker.needs_bytes.saturating_sub(held.rss_bytes));
            } else if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.device == worker.device) {
                let more = worker.needs_bytes.saturating_sub(held.vram_bytes.unwrap_or(0));
                gpu.memory_used_bytes = gpu.memory_used_bytes.saturating_add(more);
            }
        }
    }
}

/// Says what the worker will need, and what there is.
pub(super) fn narrate(estimate: &Estimate, model_id: &str, device: Device, free: &Free) {
    match free.on(device) {
        Some(free) => {
            let free = text::bytes(free);
            n!("memory_check", "'{model_id}' needs about {estimate} on {device}; {free} are free");
        }
        None => {
            n!(
                "memory_check",
                "'{model_id}' needs about {estimate} on {device}, whose free memory is unknown"
            );
        }
    }
}

/// How much too little is free; nothing where either cannot be told.
pub(super) fn missing(required: Option<u64>, free: Option<u64>) -> u64 {
    match (required, free) {
        (Some(required), Some(free)) => required.saturating_sub(free),
        _ => 0,
    }
}

/// Refuses a worker for which there is too little, unless it is forced.
pub(super) fn check(
    estimate: &Estimate,
    model_id: &str,
    device: Device,
    free: &Free,
    holders: &Holders,
    force: bool,
) -> Result<()> {
    let free = free.on(device);
    let missing = missing(Some(estimate.total()), free);
    let Some(free) = free.filter(|_| missing > 0) else { return Ok(()) };
    if force {
        n!(warn: "memory_check", "About {} are missing; loading it all the same, as asked", text::bytes(missing));
        return Ok(());
    }
    let mut failure = Failure::new(
        Code::OutOfMemory,
        format!(
            "'{model_id}' needs about {estimate} on {device}, and {} are free: {} are missing",
            text::bytes(free),
            text::bytes(missing)
        ),
    )
    .stage("preflight");
    failure.causes = holders.sentences(device);
    let first = if holders.stoppable_workers.is_empty() {
        ""
    } else {
        "stop a worker (ModelUnload, WorkerProcessDelete), or "
    };
    Err(failure.hint(format!(
        "{first}ask for a shorter context_length, fewer slots or a smaller quantization; \"force\": true loads it all the same"
    )))
}

/// A worker of this hive that holds memory of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoppableWorker {
    /// The process id: what `WorkerProcessDelete` takes.
    pub pid: u32,
    /// The id of its model.
    pub model: String,
    /// What it is doing.
    pub status: Status,
    /// What it holds of the device's memory, in bytes, as last measured.
    pub held_bytes: u64,
}

/// A process that is not this hive's and holds memory of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignProcess {
    /// The process id, as the driver knows it.
    pub pid: u32,
    /// Its name; unset where it cannot be seen, as in another container.
    pub name: Option<String>,
    /// What it holds of the device's memory, in bytes.
    pub held_bytes: u64,
}

/// Who holds memory of a device: those who hold the most come first.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    pub(super) stoppable_workers: Vec<StoppableWorker>,
    pub(super) foreign_processes: Vec<ForeignProcess>,
}

impl Holders {
    /// Looks. Blocks.
    pub(super) fn of(device: Device, free: &Free, workers: &[std::sync::Arc<Handle>]) -> Self {
        let mut stoppable_workers: Vec<_> = workers
            .iter()
            .filter(|worker| worker.device == device && worker.status().lives())
            .map(|worker| {
                let usage = worker.measures.lock().usage;
                StoppableWorker {
                    pid: worker.pid,
                    model: worker.model_id.clone(),
                    status: worker.status(),
                    held_bytes: if device.is_cpu() { usage.rss_bytes } else { usage.vram_bytes.unwrap_or(0) },
                }
            })
            .collect();
        stoppable_workers.sort_by_key(|worker| std::cmp::Reverse(worker.held_bytes));
        let holders = free.gpu(device).map(|gpu| gpu.holders.as_slice()).unwrap_or_default();
        // Looking for the members of groups reads all of /proc.
        let own: Vec<u32> = if holders.is_empty() {
            Vec::new()
        } else {
            workers.iter().flat_map(|worker| super::process::members(worker.pid)).collect()
        };
        let mut foreign_processes: Vec<_> = holders
            .iter()
            .filter(|(pid, _)| !own.contains(pid))
            .map(|(pid, bytes)| ForeignProcess { pid: *pid, name: process_name(*pid), held_bytes: *bytes })
            .collect();
        foreign_processes.sort_by_key(|process| std::cmp::Reverse(process.held_bytes));
        Self { stoppable_workers, foreign_processes }
    }

    /// One sentence each.
    fn sentences(&self, device: Device) -> Vec<String> {
        let workers = self.stoppable_workers.iter().map(|worker| {
            let idle = match worker.status {
                Status::Ready => "idle",
                Status::Busy => "busy",
                Status::Stopping => "about to end",
                _ => "loading",
            };
            let held = text::bytes(worker.held_bytes);
            format!("worker {} of '{}' ({idle}) holds {held} and could be stopped", worker.pid, worker.model)
        });
        let foreign = self.foreign_processes.iter().map(|process| {
            let name = process.name.as_deref().unwrap_or("a process of another container");
            let held = text::bytes(process.held_bytes);
            format!("process {} ({name}), not the hive's, holds {held} of {device}", process.pid)
        });
        workers.chain(foreign).collect()
    }
}

/// The lesser of what the machine has available and what the control group may still take, and what
/// the machine has in all.
fn free_ram() -> (u64, u64) {
    let mut system = sysinfo::System::new();
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    let available = system.available_memory();
    let room = cgroup_headroom(Path::new("/sys/fs/cgroup"), &own_cgroup());
    (room.map_or(available, |room| room.min(available)), system.total_memory())
}

/// The path of this process's control group in the unified hierarchy (`cgroups(7)`).
fn own_cgroup() -> String {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned()
}

/// What the group and each of its ancestors may still take, the least of it. Cached files count as
/// free: the kernel drops them first.
fn cgroup_headroom(mount: &Path, group: &str) -> Option<u64> {
    let own = mount.join(group.trim_start_matches('/'));
    own.ancestors()
        .take_while(|folder| folder.starts_with(mount))
        .filter_map(|folder| {
            let number =
                |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
            let (limit, used) = (number("memory.max")?, number("memory.current")?);
            let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let cached: u64 = stat
                .lines()
                .find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok())
                .unwrap_or(0);
            Some(limit.saturating_sub(used.saturating_sub(cached)))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sample_model::{SampleModel, WeightType};
    use crate::error::Code;

    fn model(kind: WeightType) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        SampleModel { kind, ..SampleModel::default() }.write(&path).unwrap();
        Model::read(&path).unwrap()
    }

    #[test]
    fn the_parts_follow_from_the_header() {
        let builtin = Engine::builtin("p".into());
        let model = model(WeightType::F16);
        assert!(model.half_precision > 1_000_000 && model.half_precision < model.weights);
        let estimate = Estimate::of(&model, &builtin, Device::CPU, Some(1000), Some(3));
        assert_eq!(estimate.weights, model.weights + model.half_precision, "F16 is kept as F32");
        // 2 layers, 2 heads of keys and of values, 64 wide, of 4 bytes.
        assert_eq!(estimate.cache, 2 * 2 * (64 + 64) * 4 * 1000 * 3);
        let native = Engine { keeps: Keeps::AsStored { cache_bits: 16 }, ..builtin };
        let other = Estimate::of(&model, &native, Device::CPU, Some(1000), Some(3));
        assert_eq!((other.weights, other.cache), (model.weights, estimate.cache / 2));
        assert_eq!(model.context(None), 2048, "no more than the model was trained for");
        assert!(Model::read(Path::new("/no/such/file")).is_none());
    }

    #[test]
    fn too_large_is_refused_with_what_is_missing_unless_forced() {
        let estimate = Estimate { weights: 3 << 30, cache: 1 << 30, overhead: 0, context: 8192, slots: 1 };
        let free = Free { ram: 1 << 30, ..Free::default() };
        let nobody = Holders::default();
        let refused = check(&estimate, "m", Device::CPU, &free, &nobody, false).unwrap_err();
        assert_eq!((refused.code, refused.stage.as_deref()), (Code::OutOfMemory, Some("preflight")));
        assert!(refused.message.ends_with("3.0 GiB are missing"), "{}", refused.message);
        assert!(check(&estimate, "m", Device::CPU, &free, &nobody, true).is_ok());
        let unknown = Device::Exact { kind: super::super::devices::Kind::Vulkan, index: 0 };
        assert!(check(&estimate, "m", unknown, &free, &nobody, false).is_ok());
    }

    #[test]
    fn foreign_holders_of_a_gpu_are_named() {
        let device = Device::Exact { kind: super::super::devices::Kind::Cuda, index: 0 };
        let gpu = Gpu { device, holders: vec![(std::process::id(), 5 << 30)], ..Gpu::default() };
        let free = Free { gpus: vec![gpu], ..Free::default() };
        let named = Holders::of(device, &free, &[]).sentences(device);
        assert!(named[0].starts_with(&format!("process {} (", std::process::id())), "{named:?}");
        assert!(named[0].ends_with("holds 5.0 GiB of cuda:0"), "{named:?}");
    }

    #[test]
    fn the_tightest_group_counts_and_cached_files_are_free() {
        let mount = tempfile::tempdir().unwrap();
        let group = |path: &str, max: &str, current: &str, cached: u64| {
            let folder = mount.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("memory.max"), max).unwrap();
            std::fs::write(folder.join("memory.current"), current).unwrap();
            std::fs::write(folder.join("memory.stat"), format!("anon 1\ninactive_file {cached}\n")).unwrap();
        };
        group("a", "1000\n", "900\n", 100);
        group("a/b", "max\n", "900\n", 0);
        assert_eq!(cgroup_headroom(mount.path(), "/a/b"), Some(200));
        assert_eq!(cgroup_headroom(mount.path(), "/c"), None);
        let (free, total) = free_ram();
        assert!(free > 0 && free <= total);
    }
}
