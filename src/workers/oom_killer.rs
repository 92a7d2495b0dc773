//! The kernel's out-of-memory killer: which process it should kill first, and how often it killed.

use rustix::process::Pid;

use crate::files;

/// Makes the kernel, when memory runs out, prefer a worker to the daemon, which notices a dead worker
/// and reports it. Raising the value needs no privilege (`proc_pid_oom_score_adj(5)`).
#[cfg(target_os = "linux")]
#[expect(clippy::disallowed_methods, reason = "a file of the kernel, which is on no disk")]
pub(super) fn prefer_as_victim(leader: Pid) {
    const SCORE: i32 = 300;
    let path = format!("/proc/{}/oom_score_adj", leader.as_raw_pid());
    let raise = || {
        let inherited = files::read_text(&path)?.trim().parse().unwrap_or(0);
        if inherited < SCORE { std::fs::write(&path, SCORE.to_string()) } else { Ok(()) }
    };
    if let Err(error) = raise() {
        tracing::debug!(path, %error, "could not raise the out-of-memory score of a worker");
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn prefer_as_victim(_leader: Pid) {}

/// How many processes the kernel has killed because memory ran out, on the whole machine, since it
/// booted; 0 where it does not count.
pub(super) fn kills() -> u64 {
    let counters = files::read_text("/proc/vmstat").unwrap_or_default();
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}
