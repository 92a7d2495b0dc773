//! The processes of one worker, whoever started them.

use rustix::process::Signal;

use super::adopted::AdoptedGroup;
use super::child::ChildGroup;
use super::end::GroupEnd;

/// The process group of one worker. Only the worker's owner holds it.
#[derive(Debug)]
pub(super) enum Processes {
    /// Started by this daemon.
    Own(ChildGroup),
    /// Started by an earlier one.
    Adopted(AdoptedGroup),
}

impl Processes {
    /// The process id of the leader, which is the id of the group.
    pub(super) fn id(&self) -> u32 {
        match self {
            Self::Own(group) => group.id(),
            Self::Adopted(group) => group.id(),
        }
    }

    /// Waits until the leader has ended. Safe to cancel and call again.
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

    /// Kills what remains of the group, and waits for proof that nothing remains.
    pub(super) async fn end(self) -> GroupEnd {
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

    /// Lets the processes go on running without this value.
    pub(super) fn leave(self) {
        if let Self::Own(group) = self {
            group.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, kill_process_group};

    use super::super::process_group::{gone, wait_until_gone};
    use super::*;
    use crate::spawn;

    #[tokio::test]
    async fn a_group_that_may_stay_is_told_so_and_runs_on_when_it_is_left() {
        let mut command = spawn::command("sh");
        let group = ChildGroup::spawn(command.args(["-c", "read word; exec sleep 1000"])).unwrap();
        let mut processes = Processes::Own(group);
        processes.let_stay().await;
        let id = processes.id();
        processes.leave();
        assert!(!gone(id));
        kill_process_group(Pid::from_raw(id.cast_signed()).unwrap(), Signal::KILL).unwrap();
        wait_until_gone(id).await;
    }
}
