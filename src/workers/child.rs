//! A process group as a child of this daemon, from its start to the proof that all of it is gone: a worker, or a
//! program that builds an engine.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::end::{GroupEnd, Remains};
use super::exit::Exit;
use super::oom_killer;
use super::process_group::{PROOF_INTERVAL, PROOF_LIMIT, is_gone};

/// `SIGCHLD` announces a child's end; should a signal go missing, it is noticed this late.
const EXIT_RECHECK: Duration = Duration::from_secs(1);

/// Written to a worker's lifeline to tell it that it may outlive the daemon.
const RELEASE: &[u8] = b"stay\n";

/// A script of a shell for a program that does not know of its lifeline: it ends the process group once its standard input
/// closes, and becomes the program that its arguments name.
pub(crate) const WITH_LIFELINE: &str = "exec 3<&0 </dev/null; { cat <&3; trap '' TERM; kill -TERM 0; sleep 5; \
     kill -KILL 0; } >/dev/null 2>&1 & exec 3<&-; exec \"$@\"";

/// A child that leads its own process group and has not been reaped.
///
/// Its end is observed without reaping it: until it is reaped, the system gives its process id, which
/// is also the group's id, to no other process. Reaping consumes the value, so nothing can be signalled
/// afterwards. A dropped group is killed.
#[derive(Debug)]
pub(crate) struct ChildGroup {
    child: Child,
    leader: Pid,
    ends_of_children: SignalStream,
    /// The child's standard input, which stays open as long as the daemon lives. When it closes, the
    /// child ends, unless it was told that it may outlive the daemon.
    lifeline: Option<ChildStdin>,
    /// Whether dropping the value kills the group.
    kill_on_drop: bool,
}

impl Drop for ChildGroup {
    fn drop(&mut self) {
        // The runtime reaps the child later: until then the group's id is its own.
        if self.kill_on_drop {
            self.signal(Signal::KILL);
        }
    }
}

impl ChildGroup {
    /// Starts `command` as the leader of a new group, with a lifeline as its standard input.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        Self::spawn_by(command, Command::spawn)
    }

    /// The same, where `start` starts the process.
    pub(crate) fn spawn_by(
        command: &mut Command,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> io::Result<Self> {
        // Registered before the child exists, so that its end cannot be missed.
        let ends_of_children = signal(SignalKind::child())?;
        let mut child = start(command.process_group(0).stdin(Stdio::piped()))?;
        let lifeline = child.stdin.take();
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| io::Error::other("the new process has no id"))?;
        oom_killer::prefer_as_victim(leader);
        Ok(Self { child, leader, ends_of_children, lifeline, kill_on_drop: true })
    }

    /// Tells the worker that it may outlive the daemon, and closes its lifeline.
    pub(super) async fn let_stay(&mut self) {
        let Some(mut lifeline) = self.lifeline.take() else { return };
        if let Err(error) = lifeline.write_all(RELEASE).await {
            tracing::debug!(pid = self.id(), %error, "could not write to the lifeline of a worker");
        }
    }

    /// Lets the group go on running without this value, with its lifeline closed.
    pub(crate) fn leave(mut self) {
        self.kill_on_drop = false;
    }

    /// The process id of the leader, which is the id of the group.
    pub(super) fn id(&self) -> u32 {
        self.leader.as_raw_pid().cast_unsigned()
    }

    /// Waits until the leader has ended, without reaping it. Safe to cancel and call again.
    pub(crate) async fn exited(&mut self) {
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
            tracing::warn!(pid = self.id(), ?signal, %error, "could not signal a group of processes");
        }
    }

    /// Sends a signal to the leader alone. It is not reaped, so the process id is its own.
    pub(crate) fn signal_leader(&self, signal: Signal) {
        if let Err(error) = kill_process(self.leader, signal)
            && error != Errno::SRCH
        {
            tracing::warn!(pid = self.id(), ?signal, %error, "could not signal a process");
        }
    }

    /// Asks every process of the group to end, waits for that as long as `grace`, and then [ends](Self::end) it. A
    /// build tool passes this on to its jobs, which may be in groups of their own.
    pub(crate) async fn stop(self, grace: Duration) -> GroupEnd {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        while !is_gone(self.leader) && Instant::now() < deadline {
            sleep(PROOF_INTERVAL).await;
        }
        self.end().await
    }

    /// Kills what remains of the group, reaps the leader and waits for proof that nothing remains: at
    /// most [`PROOF_LIMIT`] for the leader, and as long for the others.
    pub(crate) async fn end(mut self) -> GroupEnd {
        self.signal(Signal::KILL);
        let exit = match timeout(PROOF_LIMIT, self.exited()).await {
            Ok(()) => {
                self.kill_on_drop = false;
                self.child.wait().await.ok().map(Exit::from)
            }
            // It hangs inside the kernel (a dead disk, a driver): the runtime reaps it when it ends.
            Err(_) => None,
        };
        let deadline = Instant::now() + PROOF_LIMIT;
        let mut gone = is_gone(self.leader);
        while !gone && Instant::now() < deadline {
            sleep(PROOF_INTERVAL).await;
            gone = is_gone(self.leader);
        }
        let remains = if gone && exit.is_some() { Remains::Nothing } else { Remains::Processes };
        GroupEnd { exit, remains }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::test_kill_process_group;

    use super::super::process_group::wait_until_gone;
    use super::*;
    use crate::spawn;

    #[tokio::test]
    async fn an_observed_end_leaves_the_group_id_taken_until_it_is_reaped() {
        let mut group = ChildGroup::spawn(spawn::command("sh").args(["-c", "exit 3"])).unwrap();
        group.exited().await;
        group.exited().await;
        assert_eq!(
            test_kill_process_group(group.leader),
            Ok(()),
            "the id of an unreaped process is not reused"
        );
        let leader = group.leader;
        let end = group.end().await;
        assert_eq!((end.exit.and_then(|exit| exit.code), end.remains), (Some(3), Remains::Nothing));
        assert_eq!(test_kill_process_group(leader), Err(Errno::SRCH));
    }

    #[tokio::test]
    async fn a_child_sees_the_end_of_its_lifeline() {
        let mut group = ChildGroup::spawn(&mut spawn::command("cat")).unwrap();
        assert!(!group.has_exited());
        drop(group.lifeline.take());
        group.exited().await;
        assert_eq!(group.end().await.exit.and_then(|exit| exit.code), Some(0), "cat read to the end");
    }

    #[tokio::test]
    async fn a_dropped_group_is_killed() {
        let group =
            ChildGroup::spawn(spawn::command("sh").args(["-c", "sleep 1000 & exec sleep 1000"])).unwrap();
        let id = group.id();
        drop(group);
        wait_until_gone(id).await;
    }
}
