//! The end of a worker's process group: how its leader ended, and what was not seen to be gone.

use super::exit::Exit;

/// What is known once a group has been ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupEnd {
    /// How the leader ended; unset where the system did not report it.
    pub(crate) exit: Option<Exit>,
    /// What was not seen to be gone.
    pub(crate) remains: Remains,
}

/// What may remain of a worker [`PROOF_LIMIT`](super::process_group::PROOF_LIMIT) after it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// Nothing: the whole group and everything that it held is gone.
    Nothing,
    /// Memory of a GPU that a driver still counts as held by the group, whose processes are gone.
    GpuMemory,
    /// Processes of the group.
    Processes,
}

impl GroupEnd {
    /// Whether everything was seen to be gone.
    pub(super) const fn proven(self) -> bool {
        matches!(self.remains, Remains::Nothing)
    }

    /// Whether at least the processes were seen to be gone.
    pub(crate) const fn processes_gone(self) -> bool {
        !matches!(self.remains, Remains::Processes)
    }
}

impl Remains {
    /// What remains of worker `pid`, in a sentence; `None` where nothing does.
    pub(super) fn sentence(self, pid: u32) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::GpuMemory => Some(format!(
                "Worker {pid} is gone, but after 5 s its GPU's driver still counts memory as its own"
            )),
            Self::Processes => {
                Some(format!("Processes of worker {pid} are still there 5 s after they were killed"))
            }
        }
    }
}
