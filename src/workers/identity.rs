//! Which process a process id means. The system reuses ids, so a process is identified by its id and
//! its start time, and a worker's processes by a marker in their environment.

use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
use crate::files;

/// The environment variable of every process of a worker that holds the worker's id.
pub(super) const MARKER: &str = "RBEE_WORKER_ID";
/// A longer environment, in bytes, is not a worker's.
#[cfg(target_os = "linux")]
const MAX_ENVIRONMENT_BYTES: u64 = 16 << 20;

/// A process, identified uniquely within one boot of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The process id.
    pub(super) pid: u32,
    /// When it started: clock ticks since the system's boot on Linux (`proc_pid_stat(5)`, field 22),
    /// seconds since the Unix epoch elsewhere.
    pub(super) start_time: u64,
}

impl Identity {
    /// The process that has this id now, unless it has ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        start_time(pid).map(|start_time| Self { pid, start_time })
    }

    /// Whether this very process still runs.
    pub(super) fn runs(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// An id of this boot of the system.
#[cfg(target_os = "linux")]
pub(super) fn boot_id() -> String {
    files::read_text("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn boot_id() -> String {
    sysinfo::System::boot_time().to_string()
}

#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> Option<u64> {
    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    // An ended process keeps its entry until it is reaped.
    (!matches!(stat.state, 'Z' | 'X' | 'x')).then_some(stat.starttime)
}

#[cfg(not(target_os = "linux"))]
fn start_time(pid: u32) -> Option<u64> {
    use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

    let mut system = System::new();
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
    system.process(pid).map(sysinfo::Process::start_time)
}

/// The worker id in the environment of a process.
#[cfg(target_os = "linux")]
pub(super) fn marker_of(pid: u32) -> Option<String> {
    // Other users' processes cannot be read; they do not belong to workers.
    let environment = files::read(format!("/proc/{pid}/environ").as_ref(), MAX_ENVIRONMENT_BYTES).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// Other systems do not show the environment of a process.
#[cfg(not(target_os = "linux"))]
pub(super) fn marker_of(_pid: u32) -> Option<String> {
    None
}

/// Every process with a worker id in its environment, with that id.
#[cfg(target_os = "linux")]
pub(super) fn marked() -> Vec<(Identity, String)> {
    let Ok(processes) = procfs::process::all_processes() else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|process| {
            let pid = process.pid().cast_unsigned();
            let identity = Identity::of(pid)?;
            Some((identity, marker_of(pid)?))
        })
        .collect()
}

/// Other systems do not show the environment of a process.
#[cfg(not(target_os = "linux"))]
pub(super) fn marked() -> Vec<(Identity, String)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn;

    #[test]
    fn another_start_time_means_another_process() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.runs() && !boot_id().is_empty());
        assert!(!Identity { start_time: own.start_time + 1, ..own }.runs());
        assert!(Identity::of(u32::MAX).is_none());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_marked_process_is_found_and_an_ended_one_does_not_run() {
        let id = uuid::Uuid::new_v4().to_string();
        let mut child =
            spawn::command("sleep").arg("1000").env(MARKER, &id).kill_on_drop(true).spawn().unwrap();
        let identity = Identity::of(child.id().unwrap()).unwrap();
        // Until it has executed `sleep`, it shows the environment of its parent.
        while marker_of(identity.pid).as_deref() != Some(&*id) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(marked().contains(&(identity, id)));
        child.kill().await.unwrap();
        assert!(!identity.runs());
    }
}
