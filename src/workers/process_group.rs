//! What the system knows of process groups: who is in one, and whether it has ended.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process_group};

/// How long a killed group may take to be gone.
pub(super) const PROOF_LIMIT: Duration = Duration::from_secs(5);
/// How often the group is checked in that time.
pub(super) const PROOF_INTERVAL: Duration = Duration::from_millis(5);

/// Whether no process of the group runs any more.
pub(super) fn is_gone(group: Pid) -> bool {
    match test_kill_process_group(group) {
        Err(Errno::SRCH) => true,
        // Ended processes stay in their group until their parent reaps them. Those of a killed
        // worker have become children of init, which in a container may never do so.
        _ => has_only_ended_processes(group),
    }
}

#[cfg(target_os = "linux")]
fn has_only_ended_processes(group: Pid) -> bool {
    stats_of(group.as_raw_pid())
        .is_ok_and(|mut stats| stats.all(|stat| matches!(stat.state, 'Z' | 'X' | 'x')))
}

/// Other systems refuse to signal a group of ended processes.
#[cfg(not(target_os = "linux"))]
fn has_only_ended_processes(group: Pid) -> bool {
    test_kill_process_group(group) == Err(Errno::PERM)
}

/// The process ids of a group.
#[cfg(target_os = "linux")]
pub(super) fn members(group: u32) -> Vec<u32> {
    stats_of(group.cast_signed())
        .map(|stats| stats.map(|stat| stat.pid.cast_unsigned()).collect())
        .unwrap_or_default()
}

/// The process ids of a group: other systems tell only the leader.
#[cfg(not(target_os = "linux"))]
pub(super) fn members(group: u32) -> Vec<u32> {
    vec![group]
}

/// The group of a process.
#[cfg(target_os = "linux")]
pub(super) fn group_of(pid: u32) -> Option<u32> {
    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    Some(stat.pgrp.cast_unsigned())
}

#[cfg(target_os = "linux")]
fn stats_of(group: i32) -> procfs::ProcResult<impl Iterator<Item = procfs::process::Stat>> {
    Ok(procfs::process::all_processes()?
        .filter_map(|process| process.ok()?.stat().ok())
        .filter(move |stat| stat.pgrp == group))
}

/// Whether no process of the group with that id runs any more, for tests.
#[cfg(test)]
pub(super) fn gone(group: u32) -> bool {
    Pid::from_raw(group.cast_signed()).is_none_or(is_gone)
}

/// Waits until no process of the group with that id runs any more, for tests.
#[cfg(test)]
pub(super) async fn wait_until_gone(group: u32) {
    let deadline = tokio::time::Instant::now() + PROOF_LIMIT;
    while !gone(group) {
        assert!(tokio::time::Instant::now() < deadline, "group {group} is still there");
        tokio::time::sleep(PROOF_INTERVAL).await;
    }
}
