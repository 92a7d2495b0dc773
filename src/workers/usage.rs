//! What workers and the machine use: processor, memory, disk. All functions block.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use utoipa::ToSchema;

use super::device::Device;
use super::gpus::{self, Gpu};
use super::process_group::members;
use crate::files::{self, disk_space};

/// What the process group of one worker uses. Rates are averages since the previous sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct GroupUsage {
    /// Percent of one core.
    pub(super) cpu_percent: f32,
    pub(super) rss_bytes: u64,
    pub(super) read_bytes_per_second: f64,
    pub(super) written_bytes_per_second: f64,
    /// Memory on each GPU whose driver lists the group.
    pub(super) gpus: Vec<(Device, u64)>,
    /// The use in percent of the busiest GPU that it holds memory of.
    pub(super) gpu_percent: u32,
    /// The whole memory of the GPUs that it holds memory of.
    pub(super) gpu_total_bytes: u64,
}

impl GroupUsage {
    /// Memory on all GPUs; unset where it is unknown.
    pub(super) fn vram_bytes(&self) -> Option<u64> {
        self.gpus.iter().map(|(_, bytes)| *bytes).reduce(u64::saturating_add)
    }

    /// All the memory that its end frees.
    pub(super) fn held_bytes(&self) -> u64 {
        self.rss_bytes.saturating_add(self.vram_bytes().unwrap_or(0))
    }
}

/// What the whole machine uses.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct MachineUsage {
    /// Percent of all cores together, as an average since the previous sample.
    pub cpu_percent: f32,
    /// Logical processors.
    pub cpu_count: usize,
    /// Used memory.
    pub ram_used_bytes: u64,
    /// All memory.
    pub ram_total_bytes: u64,
    /// Used space on the disk that holds the hive's models.
    pub disk_used_bytes: u64,
    /// The size of that disk.
    pub disk_total_bytes: u64,
    /// One entry per GPU.
    pub gpus: Vec<Gpu>,
}

/// Samples process groups and the machine. Rates are differences between samples, so all readers share
/// one sampler.
#[derive(Debug)]
pub(super) struct Sampler {
    system: System,
    membership: Membership,
    groups: HashMap<u32, GroupUsage>,
    groups_at: Option<Instant>,
    machine: MachineUsage,
    machine_at: Option<Instant>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            system: System::new(),
            membership: Membership::default(),
            groups: HashMap::new(),
            groups_at: None,
            machine: MachineUsage::default(),
            machine_at: None,
        }
    }
}

impl Sampler {
    /// What each group uses. Where the previous sample is too recent for meaningful rates, it is
    /// returned again.
    pub(super) fn groups(&mut self, groups: &[u32]) -> &HashMap<u32, GroupUsage> {
        if is_fresh(self.groups_at) && groups.iter().all(|group| self.groups.contains_key(group)) {
            return &self.groups;
        }
        let members = self.membership.of(groups);
        let all: Vec<Pid> = members.values().flatten().copied().collect();
        let known: Vec<Pid> = all.iter().copied().filter(|pid| self.system.process(*pid).is_some()).collect();
        // Processes that left the groups are refreshed once more, so that the system forgets those that
        // ended: it keeps a file open for each process that it knows.
        let left: Vec<Pid> =
            self.system.processes().keys().filter(|pid| !all.contains(pid)).copied().collect();
        let sampled = [all, left].concat();
        let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().with_disk_usage().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&sampled), true, kind);
        let elapsed =
            self.groups_at.replace(Instant::now()).map_or(f64::INFINITY, |at| at.elapsed().as_secs_f64());
        let gpus = if groups.is_empty() { Vec::new() } else { gpus::sample() };
        let usage = |pids: &[Pid]| {
            let mut usage = GroupUsage::default();
            for pid in pids {
                let Some(process) = self.system.process(*pid) else { continue };
                usage.rss_bytes += process.memory();
                // The first sample of a process counts from its start, so it gives no rate.
                if known.contains(pid) {
                    let disk = process.disk_usage();
                    usage.cpu_percent += process.cpu_usage();
                    usage.read_bytes_per_second += disk.read_bytes as f64 / elapsed;
                    usage.written_bytes_per_second += disk.written_bytes as f64 / elapsed;
                }
            }
            usage.cpu_percent = one_decimal(usage.cpu_percent);
            let pids: Vec<u32> = pids.iter().map(|pid| pid.as_u32()).collect();
            add_gpu_usage(&mut usage, &gpus, &pids);
            usage
        };

        let usages = members.iter().map(|(group, pids)| (*group, usage(pids))).collect();
        self.groups = usages;
        &self.groups
    }

    /// What the machine uses; `store` is a path on the disk to report.
    pub(super) fn machine(&mut self, store: &Path) -> MachineUsage {
        if !is_fresh(self.machine_at) {
            self.machine_at = Some(Instant::now());
            self.system.refresh_cpu_usage();
            self.system.refresh_memory();
            let total = self.system.total_memory();
            let (disk_used_bytes, disk_total_bytes) = disk(store);
            self.machine = MachineUsage {
                cpu_percent: one_decimal(self.system.global_cpu_usage()),
                cpu_count: self.system.cpus().len(),
                ram_used_bytes: total.saturating_sub(self.system.available_memory()),
                ram_total_bytes: total,
                disk_used_bytes,
                disk_total_bytes,
                gpus: gpus::sample(),
            };
        }
        self.machine.clone()
    }
}

/// Which processes belong to which group, cached.
///
/// The system has no list of a group's members: the group of every process must be read, which on a
/// machine with hundreds of processes is most of the cost of a sample. Therefore the group of a process
/// is cached for a while. Use this only to add up usage: in the meantime, another process may have got
/// the id of an ended one.
#[derive(Debug, Default)]
struct Membership {
    #[cfg(target_os = "linux")]
    group_of: HashMap<u32, u32>,
    #[cfg(target_os = "linux")]
    emptied: Option<Instant>,
}

/// How long the group of a process is cached.
#[cfg(target_os = "linux")]
const CACHED_FOR: Duration = Duration::from_secs(10);

impl Membership {
    /// The processes of each group.
    #[cfg(target_os = "linux")]
    fn of(&mut self, groups: &[u32]) -> HashMap<u32, Vec<Pid>> {
        let mut members: HashMap<u32, Vec<Pid>> = groups.iter().map(|group| (*group, Vec::new())).collect();
        if groups.is_empty() {
            return members;
        }
        if self.emptied.is_none_or(|at| at.elapsed() >= CACHED_FOR) {
            self.group_of.clear();
            self.emptied = Some(Instant::now());
        }
        let entries = std::fs::read_dir("/proc").into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let cached = std::mem::take(&mut self.group_of);
        self.group_of = pids
            .filter_map(|pid| {
                let group = cached.get(&pid).copied();
                Some((pid, group.or_else(|| super::process_group::group_of(pid))?))
            })
            .collect();
        for (pid, group) in &self.group_of {
            if let Some(members) = members.get_mut(group) {
                members.push(Pid::from_u32(*pid));
            }
        }
        members
    }

    #[cfg(not(target_os = "linux"))]
    fn of(&mut self, groups: &[u32]) -> HashMap<u32, Vec<Pid>> {
        groups.iter().map(|group| (*group, pids(*group))).collect()
    }
}

/// The memory that a group holds now. Nothing else of its usage is measured.
pub(super) fn memory_of(group: u32) -> GroupUsage {
    let mut usage = GroupUsage { rss_bytes: resident_bytes(group), ..GroupUsage::default() };
    add_gpu_usage(&mut usage, &gpus::sample(), &members(group));
    usage
}

/// The most resident memory that the processes of a group had, and their memory on each GPU now, in bytes.
pub(super) fn peak_of(group: u32) -> (u64, Vec<(Device, u64)>) {
    let GroupUsage { rss_bytes, gpus, .. } = memory_of(group);
    let peaks = members(group).into_iter().filter_map(peak_resident_bytes).fold(0, u64::saturating_add);
    (peaks.max(rss_bytes), gpus)
}

/// The most resident memory that a process had (`VmHWM` in `proc_pid_status(5)`); `None` where the system does
/// not tell.
fn peak_resident_bytes(pid: u32) -> Option<u64> {
    let status = files::read_text(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Adds what these processes use of GPUs. Where no driver lists any of them, their memory stays unknown:
/// in a container, the driver knows the processes by other ids.
fn add_gpu_usage(usage: &mut GroupUsage, gpus: &[Gpu], pids: &[u32]) {
    for gpu in gpus {
        let held = gpu.holders.iter().filter(|(pid, _)| pids.contains(pid)).map(|(_, bytes)| bytes);
        let Some(bytes) = held.copied().reduce(u64::saturating_add) else { continue };
        usage.gpus.push((gpu.device, bytes));
        usage.gpu_percent = usage.gpu_percent.max(gpu.utilization_percent.unwrap_or(0));
        usage.gpu_total_bytes += gpu.memory_total_bytes;
    }
}

/// Whether a GPU's driver lists one of these processes.
pub(super) fn is_on_a_gpu(pids: &[u32]) -> bool {
    gpus::sample().iter().any(|gpu| gpu.holders.iter().any(|(pid, _)| pids.contains(pid)))
}

/// The name of a process; `None` where this process cannot see it.
pub(super) fn process_name(pid: u32) -> Option<String> {
    let mut system = System::new();
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
    Some(system.process(pid)?.name().to_string_lossy().into_owned())
}

/// The resident memory of a group, in bytes.
fn resident_bytes(group: u32) -> u64 {
    let mut system = System::new();
    let pids = pids(group);
    let kind = ProcessRefreshKind::nothing().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, kind);
    pids.iter().filter_map(|pid| Some(system.process(*pid)?.memory())).sum()
}

/// The processor time that the processes of a group have used since their starts.
pub(super) fn processor_time(group: u32) -> Duration {
    let mut system = System::new();
    let pids = pids(group);
    let kind = ProcessRefreshKind::nothing().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, kind);
    let used = pids.iter().filter_map(|pid| Some(system.process(*pid)?.accumulated_cpu_time())).sum();
    Duration::from_millis(used)
}

fn pids(group: u32) -> Vec<Pid> {
    members(group).into_iter().map(Pid::from_u32).collect()
}

fn is_fresh(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < MINIMUM_CPU_UPDATE_INTERVAL)
}

fn one_decimal(percent: f32) -> f32 {
    (percent * 10.0).round() / 10.0
}

/// The used and all bytes of the disk of `path`, or of its nearest ancestor that exists.
fn disk(path: &Path) -> (u64, u64) {
    let disk = path.ancestors().find_map(|path| disk_space(path).ok()).unwrap_or_default();
    (disk.used, disk.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_memory_on_all_gpus_is_added_up() {
        let gpu = |holders, percent| Gpu {
            holders,
            utilization_percent: Some(percent),
            memory_total_bytes: 10,
            ..Gpu::default()
        };
        let gpus = [gpu(vec![(1, 3), (2, 4)], 5), gpu(vec![(1, 1)], 50), gpu(vec![(9, 9)], 99)];
        let mut usage = GroupUsage::default();
        add_gpu_usage(&mut usage, &gpus, &[1, 2]);
        assert_eq!((usage.vram_bytes(), usage.gpu_percent, usage.gpu_total_bytes), (Some(8), 50, 20));
        let mut none = GroupUsage::default();
        add_gpu_usage(&mut none, &gpus, &[7]);
        assert_eq!(none.vram_bytes(), None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn started_and_ended_processes_change_the_members_at_once() {
        let own = rustix::process::getpgrp().as_raw_pid().cast_unsigned();
        let mut membership = Membership::default();
        let mut has = |pid: u32| membership.of(&[own, 1])[&own].contains(&Pid::from_u32(pid));
        assert!(has(std::process::id()));
        let mut child = crate::spawn::command("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
        let pid = child.id().unwrap();
        assert!(has(pid) && has(pid), "new, and known");
        child.kill().await.unwrap();
        assert!(!has(pid) && has(std::process::id()));
    }

    #[test]
    fn this_group_and_this_machine_are_measured() {
        let own = rustix::process::getpgrp().as_raw_pid().cast_unsigned();
        let mut sampler = Sampler::default();
        assert!(sampler.groups(&[own])[&own].rss_bytes > 1 << 20);
        assert!(resident_bytes(own) > 1 << 20);
        assert!(peak_of(own).0 >= resident_bytes(own) / 2);
        assert!(sampler.groups(&[]).is_empty() || is_fresh(sampler.groups_at));
        let machine = sampler.machine(Path::new("/no/such/folder"));
        assert!(machine.ram_used_bytes > 0 && machine.ram_used_bytes < machine.ram_total_bytes);
        assert!(machine.disk_total_bytes > 0 && machine.cpu_count > 0);
    }
}
