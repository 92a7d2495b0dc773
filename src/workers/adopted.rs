//! A worker's process group that an earlier daemon started.
//!
//! Its processes are not this daemon's children, so the system may give their ids to other processes
//! at any time. Each process is therefore held by a file descriptor of the process itself
//! (`pidfd_open(2)`): a signal through it reaches that process or none. Where the system has no such
//! descriptors, the process's start time is checked again before each signal.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use super::end::{GroupEnd, Remains};
use super::identity::{Identity, marker_of};
use super::process_group::{PROOF_INTERVAL, PROOF_LIMIT, members};

/// How often a process without a descriptor is checked for its end.
const EXIT_RECHECK: Duration = Duration::from_millis(250);

/// One process, held so that it cannot be mistaken for another that gets its id.
#[derive(Debug)]
struct HeldProcess {
    identity: Identity,
    #[cfg(target_os = "linux")]
    descriptor: Option<std::os::fd::OwnedFd>,
}

impl HeldProcess {
    /// Holds a process; `None` where it has ended, even if another process has its id.
    fn of(identity: Identity) -> Option<Self> {
        #[cfg(target_os = "linux")]
        let held = {
            use rustix::process::{PidfdFlags, pidfd_open};

            let descriptor = match pidfd_open(raw(identity.pid)?, PidfdFlags::empty()) {
                Ok(descriptor) => Some(descriptor),
                Err(Errno::SRCH) => return None,
                // The kernel is old, or a sandbox forbids the call.
                Err(_) => None,
            };
            Self { identity, descriptor }
        };
        #[cfg(not(target_os = "linux"))]
        let held = Self { identity };
        // Checked after the descriptor was opened: if the id still means this process, it also did then.
        identity.runs().then_some(held)
    }

    fn signal(&self, signal: Signal) {
        let sent = match self.send(signal) {
            Err(Errno::SRCH) => return,
            sent => sent,
        };
        if let Err(error) = sent {
            tracing::warn!(pid = self.identity.pid, ?signal, %error, "could not signal a process of a worker");
        }
    }

    fn send(&self, signal: Signal) -> rustix::io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(descriptor) = &self.descriptor {
            return rustix::process::pidfd_send_signal(descriptor, signal);
        }
        match raw(self.identity.pid).filter(|_| self.identity.runs()) {
            Some(pid) => rustix::process::kill_process(pid, signal),
            None => Err(Errno::SRCH),
        }
    }
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Registers a process's descriptor, which becomes readable when the process ends.
#[cfg(target_os = "linux")]
#[expect(
    deprecated,
    reason = "its successor is unsafe, for descriptors that others may close; this one is owned"
)]
fn watch_end(
    descriptor: &std::os::fd::OwnedFd,
) -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    tokio::io::unix::AsyncFd::with_interest(descriptor.try_clone()?, tokio::io::Interest::READABLE)
}

/// The group of an adopted worker. Dropping it leaves the processes alone.
#[derive(Debug)]
pub(super) struct AdoptedGroup {
    worker_id: String,
    leader: HeldProcess,
    #[cfg(target_os = "linux")]
    end: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

impl AdoptedGroup {
    /// Holds the group that this process leads; `None` where the process has ended, even if another
    /// process has its id.
    pub(super) fn hold(identity: Identity, worker_id: &str) -> io::Result<Option<Self>> {
        let Some(leader) = HeldProcess::of(identity) else { return Ok(None) };
        Ok(Some(Self {
            worker_id: worker_id.to_owned(),
            #[cfg(target_os = "linux")]
            end: leader.descriptor.as_ref().map(watch_end).transpose()?,
            leader,
        }))
    }

    /// The process id of the leader, which is the id of the group.
    pub(super) fn id(&self) -> u32 {
        self.leader.identity.pid
    }

    /// Waits until the leader has ended.
    pub(super) async fn exited(&self) {
        while self.leader.identity.runs() {
            #[cfg(target_os = "linux")]
            if let Some(end) = &self.end {
                tokio::select! {
                    // Readable once it has ended; after an error, the next check decides.
                    _ = end.readable() => {}
                    () = sleep(EXIT_RECHECK * 20) => {}
                }
                if self.leader.identity.runs() {
                    sleep(PROOF_INTERVAL).await;
                }
                continue;
            }
            sleep(EXIT_RECHECK).await;
        }
    }

    /// The processes of the group that certainly belong to the worker.
    fn members(&self) -> Vec<HeldProcess> {
        let group = self.id();
        let mut held: Vec<HeldProcess> = members(group)
            .into_iter()
            .filter(|pid| *pid != group)
            .filter_map(|pid| HeldProcess::of(Identity::of(pid)?))
            // Checked after the descriptor was opened. While its leader runs, the group's id is the
            // worker's; after that, only the marker in a process's environment tells whose it is.
            .filter(|member| {
                let pid = member.identity.pid;
                is_member(group, pid)
                    && (self.leader.identity.runs()
                        || marker_of(pid).as_deref() == Some(self.worker_id.as_str()))
            })
            .collect();
        // The leader comes last: while it runs, the group's id is the worker's.
        held.extend(HeldProcess::of(self.leader.identity));
        held
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        for member in self.members() {
            member.signal(signal);
        }
    }

    /// Kills what remains of the group and waits for proof that nothing remains, at most
    /// [`PROOF_LIMIT`]. How the leader ended is unknown: the system tells only its parent.
    pub(super) async fn end(self) -> GroupEnd {
        let deadline = Instant::now() + PROOF_LIMIT;
        loop {
            let members = self.members();
            if members.is_empty() {
                return GroupEnd { exit: None, remains: Remains::Nothing };
            }
            if Instant::now() >= deadline {
                return GroupEnd { exit: None, remains: Remains::Processes };
            }
            for member in members {
                member.signal(Signal::KILL);
            }
            sleep(PROOF_INTERVAL).await;
        }
    }
}

#[cfg(target_os = "linux")]
fn is_member(group: u32, pid: u32) -> bool {
    super::process_group::group_of(pid) == Some(group)
}

#[cfg(not(target_os = "linux"))]
fn is_member(_group: u32, _pid: u32) -> bool {
    true
}

/// Kills those of these processes whose marker is `worker_id`, and returns how many of them still run
/// after [`PROOF_LIMIT`].
pub(super) async fn kill_marked(identities: &[Identity], worker_id: &str) -> usize {
    let deadline = Instant::now() + PROOF_LIMIT;
    loop {
        let running: Vec<HeldProcess> = identities
            .iter()
            .filter_map(|identity| HeldProcess::of(*identity))
            .filter(|held| marker_of(held.identity.pid).as_deref() == Some(worker_id))
            .collect();
        if running.is_empty() || Instant::now() >= deadline {
            return running.len();
        }
        for process in running {
            process.signal(Signal::KILL);
        }
        sleep(PROOF_INTERVAL).await;
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::identity::MARKER;
    use super::super::process_group::gone;
    use super::*;
    use crate::spawn;

    fn program_of(pid: u32) -> Option<String> {
        Some(procfs::process::Process::new(pid.cast_signed()).ok()?.stat().ok()?.comm)
    }

    /// The leader is a child of this process, which an adopted group does not know: a shell without a
    /// terminal cannot make a group that is not.
    #[tokio::test]
    async fn an_adopted_group_ends_with_members_that_outlive_its_leader() {
        let mut command = spawn::command("sh");
        command.args(["-c", "(trap '' TERM; exec sleep 1000) & exec sleep 1000"]);
        let mut child = command.env(MARKER, "worker-test").process_group(0).spawn().unwrap();
        let pid = child.id().unwrap();
        let deadline = Instant::now() + PROOF_LIMIT;
        let sleepers =
            || members(pid).iter().filter(|pid| program_of(**pid).as_deref() == Some("sleep")).count();
        while sleepers() != 2 {
            assert!(Instant::now() < deadline, "the group does not start");
            sleep(PROOF_INTERVAL).await;
        }
        let identity = Identity::of(pid).unwrap();
        let other = Identity { start_time: identity.start_time + 1, ..identity };
        assert!(AdoptedGroup::hold(other, "worker-test").unwrap().is_none());
        let group = AdoptedGroup::hold(identity, "worker-test").unwrap().unwrap();
        group.signal(Signal::TERM);
        group.exited().await;
        assert!(!gone(pid), "a member ignores SIGTERM");
        let end = group.end().await;
        assert!(end.proven() && end.exit.is_none());
        assert!(gone(pid));
        child.wait().await.unwrap();
    }
}
