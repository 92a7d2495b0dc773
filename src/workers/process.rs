//! A process with a group of its own, from its start to the proof that all of it is gone.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::adopted::Adopted;
use super::exit::Exit;

/// How long a killed group may take to be gone.
pub(super) const PROOF_LIMIT: Duration = Duration::from_secs(5);
/// How often the group is looked at in that time.
pub(super) const PROOF_INTERVAL: Duration = Duration::from_millis(5);
/// A child's end is noticed by `SIGCHLD`; this is how late it is noticed should one go missing.
const EXIT_RECHECK: Duration = Duration::from_secs(1);

/// What is written to a worker's lifeline to tell it that it may outlive the daemon.
const RELEASE: &[u8] = b"stay\n";

/// The processes of one worker, which its owner alone holds.
#[derive(Debug)]
pub(super) enum Processes {
    /// Started by this daemon.
    Own(Group),
    /// Started by an earlier one.
    Adopted(Adopted),
}

impl Processes {
    /// The process id of the leader, which is the id of the group.
    pub(super) fn id(&self) -> u32 {
        match self {
            Self::Own(group) => group.id(),
            Self::Adopted(group) => group.id(),
        }
    }

    /// Waits until the leader has ended; may be dropped and asked again.
    pub(super) async fn exited(&mut self) {
        match self {
            Self::Own(group) => group.exited().await,
            Self::Adopted(group) => group.exited().await,
        }
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        match self {
            Self::Own(group) => group.signal(signal),
            Self::Adopted(group) => group.signal(signal),
        }
    }

    /// Kills what is left, and waits for proof that nothing is.
    pub(super) async fn end(self) -> End {
        match self {
            Self::Own(group) => group.end().await,
            Self::Adopted(group) => group.end().await,
        }
    }

    /// Lets the processes outlive the daemon.
    pub(super) async fn let_stay(&mut self) {
        if let Self::Own(group) = self {
            group.let_stay().await;
        }
    }

    /// Lets go of the processes, which go on.
    pub(super) fn leave(self) {
        if let Self::Own(mut group) = self {
            group.armed = false;
        }
    }
}

/// A child that leads its own process group and has not been reaped.
///
/// Its end is observed without reaping it, because its process id, and so the group's, cannot be
/// given to another process before the reaping. Reaping takes the value away: nothing can be
/// signalled afterwards. A dropped group is killed.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    leader: Pid,
    ends_of_children: SignalStream,
    /// Open as long as the daemon lives; its end tells the worker to end, unless it was told that
    /// it may stay.
    lifeline: Option<ChildStdin>,
    /// Whether it is killed when it is dropped.
    armed: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        // The runtime reaps the child later: until then the group's id is its own.
        if self.armed {
            self.signal(Signal::KILL);
        }
    }
}

/// What is known once a group has been dealt with.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// How the leader ended; unset where the system never reported it.
    pub(super) exit: Option<Exit>,
    /// What was not seen to be gone.
    pub(super) left: Left,
}

/// What may be left of a worker [`PROOF_LIMIT`] after it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The whole group is gone, and so is what it held.
    Nothing,
    /// No process, but a driver still counts memory of a GPU as theirs.
    GpuMemory,
    /// Processes of its group.
    Processes,
}

impl End {
    /// Whether everything was seen to be gone.
    pub(super) const fn proven(self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    /// Whether the processes were, at least.
    pub(super) const fn processes_gone(self) -> bool {
        !matches!(self.left, Left::Processes)
    }
}

impl Left {
    /// What it is, in a sentence; `None` where it is nothing.
    pub(super) fn sentence(self, pid: u32) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::GpuMemory => Some(format!(
                "Worker {pid} is gone, but its GPU's driver still counts memory as its own 5 s later"
            )),
            Self::Processes => {
                Some(format!("Processes of worker {pid} are still there 5 s after they were killed"))
            }
        }
    }
}

impl Group {
    /// Starts `command` as the leader of a new group, with a lifeline as its standard input.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        // Registered before there is a child, so that its end cannot be missed.
        let ends_of_children = signal(SignalKind::child())?;
        let mut child = command.process_group(0).stdin(Stdio::piped()).spawn()?;
        let lifeline = child.stdin.take();
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| io::Error::other("the new process has no id"))?;
        offer_to_oom_killer(leader);
        Ok(Self { child, leader, ends_of_children, lifeline, armed: true })
    }

    /// Tells the worker that the end of its lifeline means nothing any more, and lets go of it.
    async fn let_stay(&mut self) {
        let Some(mut lifeline) = self.lifeline.take() else { return };
        if let Err(error) = lifeline.write_all(RELEASE).await {
            tracing::debug!(pid = self.id(), %error, "a worker does not listen to its lifeline");
        }
    }

    /// The process id of the leader, which is the id of the group.
    pub(super) fn id(&self) -> u32 {
        self.leader.as_raw_pid().cast_unsigned()
    }

    /// Waits until the leader has ended. Does not reap it; may be dropped and asked again.
    pub(super) async fn exited(&mut self) {
        while !self.has_exited() {
            tokio::select! {
                _ = self.ends_of_children.recv() => {}
                () = sleep(EXIT_RECHECK) => {}
            }
        }
    }

    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.leader), options), Ok(None) | Err(Errno::INTR))
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process_group(self.leader, signal)
            && error != Errno::SRCH
        {
            tracing::warn!(pid = self.id(), ?signal, %error, "a worker's group could not be signalled");
        }
    }

    /// Kills what is left of the group, reaps the leader and waits for proof that nothing is left,
    /// at most [`PROOF_LIMIT`] each.
    pub(super) async fn end(mut self) -> End {
        self.signal(Signal::KILL);
        let exit = match timeout(PROOF_LIMIT, self.exited()).await {
            Ok(()) => {
                self.armed = false;
                self.child.wait().await.ok().map(Exit::from)
            }
            // Stuck inside the kernel (a dead disk, a driver): the runtime reaps it one day.
            Err(_) => None,
        };
        let deadline = Instant::now() + PROOF_LIMIT;
        let mut gone = is_gone(self.leader);
        while !gone && Instant::now() < deadline {
            sleep(PROOF_INTERVAL).await;
            gone = is_gone(self.leader);
        }
        let left = if gone && exit.is_some() { Left::Nothing } else { Left::Processes };
        End { exit, left }
    }
}

/// Has the kernel, where memory runs out, kill workers rather than the daemon that would notice and
/// tell. Raising the value needs no privilege (`proc_pid_oom_score_adj(5)`).
#[cfg(target_os = "linux")]
fn offer_to_oom_killer(leader: Pid) {
    const OFFERED: i32 = 300;
    let path = format!("/proc/{}/oom_score_adj", leader.as_raw_pid());
    let offer = || {
        let inherited = std::fs::read_to_string(&path)?.trim().parse().unwrap_or(0);
        if inherited < OFFERED { std::fs::write(&path, OFFERED.to_string()) } else { Ok(()) }
    };
    if let Err(error) = offer() {
        tracing::debug!(path, %error, "a worker could not be offered to the kernel's out-of-memory killer");
    }
}

#[cfg(not(target_os = "linux"))]
fn offer_to_oom_killer(_leader: Pid) {}

/// How often the kernel has killed a process for want of memory, on the whole machine, since it was
/// started; 0 where it does not count.
pub(super) fn oom_kills() -> u64 {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Whether no process of the group runs any more.
fn is_gone(group: Pid) -> bool {
    match test_kill_process_group(group) {
        Err(Errno::SRCH) => true,
        // Ended processes stay in their group until their parent reaps them. Those of a killed
        // worker have become children of init, which in a container may never do so.
        _ => only_ended_left(group),
    }
}

#[cfg(target_os = "linux")]
fn only_ended_left(group: Pid) -> bool {
    stats_of(group.as_raw_pid())
        .is_ok_and(|mut stats| stats.all(|stat| matches!(stat.state, 'Z' | 'X' | 'x')))
}

/// Elsewhere a group of ended processes alone is told by the refusal to signal it.
#[cfg(not(target_os = "linux"))]
fn only_ended_left(group: Pid) -> bool {
    test_kill_process_group(group) == Err(Errno::PERM)
}

/// The process ids of a group.
#[cfg(target_os = "linux")]
pub(super) fn members(group: u32) -> Vec<u32> {
    stats_of(group.cast_signed())
        .map(|stats| stats.map(|stat| stat.pid.cast_unsigned()).collect())
        .unwrap_or_default()
}

/// The group of a process.
#[cfg(target_os = "linux")]
pub(super) fn group_of(pid: u32) -> Option<u32> {
    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    Some(stat.pgrp.cast_unsigned())
}

/// The process ids of a group: elsewhere only its leader is known.
#[cfg(not(target_os = "linux"))]
pub(super) fn members(group: u32) -> Vec<u32> {
    vec![group]
}

#[cfg(target_os = "linux")]
fn stats_of(group: i32) -> procfs::ProcResult<impl Iterator<Item = procfs::process::Stat>> {
    Ok(procfs::process::all_processes()?
        .filter_map(|process| process.ok()?.stat().ok())
        .filter(move |stat| stat.pgrp == group))
}

/// Whether no process of the group runs any more, for tests.
#[cfg(test)]
pub(super) fn gone(group: u32) -> bool {
    Pid::from_raw(group.cast_signed()).is_none_or(is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn;

    async fn wait_until_gone(group: u32) {
        let deadline = Instant::now() + PROOF_LIMIT;
        while !gone(group) {
            assert!(Instant::now() < deadline, "group {group} is still there");
            sleep(PROOF_INTERVAL).await;
        }
    }

    #[tokio::test]
    async fn the_end_is_seen_without_reaping_and_the_group_stays_taken() {
        let mut group = Group::spawn(spawn::command("sh").args(["-c", "exit 3"])).unwrap();
        group.exited().await;
        group.exited().await;
        assert_eq!(test_kill_process_group(group.leader), Ok(()), "unreaped, the id cannot be given away");
        let leader = group.leader;
        let end = group.end().await;
        assert_eq!((end.exit.and_then(|exit| exit.code), end.left), (Some(3), Left::Nothing));
        assert_eq!(test_kill_process_group(leader), Err(Errno::SRCH));
    }

    #[tokio::test]
    async fn the_lifeline_ends_with_the_group() {
        let mut group = Group::spawn(&mut spawn::command("cat")).unwrap();
        assert!(!group.has_exited());
        drop(group.lifeline.take());
        group.exited().await;
        assert_eq!(group.end().await.exit.and_then(|exit| exit.code), Some(0), "cat read to the end");
    }

    #[tokio::test]
    async fn a_dropped_group_is_killed() {
        let group = Group::spawn(spawn::command("sh").args(["-c", "sleep 1000 & exec sleep 1000"])).unwrap();
        let id = group.id();
        drop(group);
        wait_until_gone(id).await;
    }

    #[tokio::test]
    async fn a_group_that_may_stay_hears_so_and_is_left_alone() {
        let mut processes = Processes::Own(
            Group::spawn(spawn::command("sh").args(["-c", "read word; exec sleep 1000"])).unwrap(),
        );
        processes.let_stay().await;
        let id = processes.id();
        processes.leave();
        assert!(!gone(id));
        kill_process_group(Pid::from_raw(id.cast_signed()).unwrap(), Signal::KILL).unwrap();
        wait_until_gone(id).await;
    }
}
