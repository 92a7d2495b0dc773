//! The processes of a worker that an earlier run of the daemon started.
//!
//! They are not this daemon's children: nobody keeps their ids from being given to others. So each
//! is held by a file descriptor of the process itself (`pidfd_open(2)`), and a signal goes through
//! that, to whoever it was opened for or to nobody. Where the system has no such descriptors, the
//! start time is looked at again before each signal.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use super::identity::{Identity, marker_of};
use super::process::{End, Left, PROOF_INTERVAL, PROOF_LIMIT, members};

/// Without a descriptor the end of a process is noticed this late.
const EXIT_RECHECK: Duration = Duration::from_millis(250);

/// One process, held so that it cannot be mistaken for another.
#[derive(Debug)]
struct Held {
    identity: Identity,
    #[cfg(target_os = "linux")]
    descriptor: Option<std::os::fd::OwnedFd>,
}

impl Held {
    /// Takes hold of a process; `None` where it has ended, or its id is another's now.
    fn of(identity: Identity) -> Option<Self> {
        #[cfg(target_os = "linux")]
        let held = {
            use rustix::process::{PidfdFlags, pidfd_open};

            let descriptor = match pidfd_open(raw(identity.pid)?, PidfdFlags::empty()) {
                Ok(descriptor) => Some(descriptor),
                Err(Errno::SRCH) => return None,
                // An old kernel, or a sandbox that forbids the call.
                Err(_) => None,
            };
            Self { identity, descriptor }
        };
        #[cfg(not(target_os = "linux"))]
        let held = Self { identity };
        // In this order: what the descriptor was opened for is what the id meant before this look.
        identity.runs().then_some(held)
    }

    fn signal(&self, signal: Signal) {
        let sent = match self.send(signal) {
            Err(Errno::SRCH) => return,
            sent => sent,
        };
        if let Err(error) = sent {
            tracing::warn!(pid = self.identity.pid, ?signal, %error, "a worker's process could not be signalled");
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

/// Registers a process's descriptor, which is readable once the process has ended.
#[cfg(target_os = "linux")]
#[expect(
    deprecated,
    reason = "its successor is unsafe, for descriptors that others close; this one is owned"
)]
fn watch_end(
    descriptor: &std::os::fd::OwnedFd,
) -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    tokio::io::unix::AsyncFd::with_interest(descriptor.try_clone()?, tokio::io::Interest::READABLE)
}

/// The group of an adopted worker. Dropping it touches nothing.
#[derive(Debug)]
pub(super) struct Adopted {
    worker_id: String,
    leader: Held,
    #[cfg(target_os = "linux")]
    end: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

impl Adopted {
    /// Takes over the group that this process leads; `None` where the process has ended, or its id
    /// is another's now.
    pub(super) fn take(identity: Identity, worker_id: &str) -> io::Result<Option<Self>> {
        let Some(leader) = Held::of(identity) else { return Ok(None) };
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
                    // Readable once it has ended; what a failure means, the next look tells.
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

    /// The processes of the group that are the worker's beyond doubt.
    fn members(&self) -> Vec<Held> {
        let group = self.id();
        let mut held: Vec<Held> = members(group)
            .into_iter()
            .filter(|pid| *pid != group)
            .filter_map(|pid| Held::of(Identity::of(pid)?))
            // Looked at after the descriptor was opened. The group's id is the worker's as long as
            // its leader runs; after that only the mark of its birth shows whose a process is.
            .filter(|member| {
                let pid = member.identity.pid;
                members_has(group, pid)
                    && (self.leader.identity.runs()
                        || marker_of(pid).as_deref() == Some(self.worker_id.as_str()))
            })
            .collect();
        // The leader last: while it runs, the group's id is the worker's.
        held.extend(Held::of(self.leader.identity));
        held
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        for member in self.members() {
            member.signal(signal);
        }
    }

    /// Kills what is left of the group and waits for proof that nothing is, at most
    /// [`PROOF_LIMIT`]. How the leader ended only its parent would know.
    pub(super) async fn end(self) -> End {
        let deadline = Instant::now() + PROOF_LIMIT;
        loop {
            let left = self.members();
            if left.is_empty() {
                return End { exit: None, left: Left::Nothing };
            }
            if Instant::now() >= deadline {
                return End { exit: None, left: Left::Processes };
            }
            for member in left {
                member.signal(Signal::KILL);
            }
            sleep(PROOF_INTERVAL).await;
        }
    }
}

#[cfg(target_os = "linux")]
fn members_has(group: u32, pid: u32) -> bool {
    super::process::group_of(pid) == Some(group)
}

#[cfg(not(target_os = "linux"))]
fn members_has(_group: u32, _pid: u32) -> bool {
    true
}

/// Kills processes that are known by their mark alone, and tells how many are still there after
/// [`PROOF_LIMIT`].
pub(super) async fn sweep(identities: &[Identity], worker_id: &str) -> usize {
    let deadline = Instant::now() + PROOF_LIMIT;
    loop {
        let left: Vec<Held> = identities
            .iter()
            .filter_map(|identity| Held::of(*identity))
            .filter(|held| marker_of(held.identity.pid).as_deref() == Some(worker_id))
            .collect();
        if left.is_empty() || Instant::now() >= deadline {
            return left.len();
        }
        for process in left {
            process.signal(Signal::KILL);
        }
        sleep(PROOF_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn;

    #[tokio::test]
    async fn a_group_that_is_nobodys_child_ends_with_its_members() {
        // The shell ends at once: what it leaves behind is nobody's child here, in a group of its own.
        let out = spawn::command("sh")
            .args(["-c", "set -m; (sleep 1000 & exec sleep 1000) >/dev/null 2>&1 & echo $!"])
            .env(super::super::identity::MARKER, "worker-test")
            .output()
            .await
            .unwrap();
        let pid: u32 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        let identity = Identity::of(pid).unwrap();
        let stranger = Identity { start_time: identity.start_time + 1, ..identity };
        assert!(Adopted::take(stranger, "worker-test").unwrap().is_none());
        let group = Adopted::take(identity, "worker-test").unwrap().unwrap();
        group.signal(Signal::TERM);
        group.exited().await;
        let end = group.end().await;
        assert!(end.proven() && end.exit.is_none());
        assert!(super::super::process::gone(pid));
    }
}
