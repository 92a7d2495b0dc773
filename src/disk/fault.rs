//! The faults that a test injects into the hive's changes of the disk. Release builds have none.
//!
//! A test starts the hive with `RBEE_HIVE_TEST_DISK="N FAULT REACH FILE"`. The changes of the process are
//! counted from 1. At change `N` there is an input or output error (`eio`), the disk is full (`enospc`, which
//! spares what takes no space), or the process is killed (`kill`). `once` means that change alone, `on` all
//! from then on. `FILE` is made when the fault happens for the first time.

#[cfg(debug_assertions)]
use std::fs::File;
use std::io;

/// The variable. No worker gets it.
pub(crate) const VARIABLE: &str = "RBEE_HIVE_TEST_DISK";

/// What a change does to the free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Takes,
    Frees,
}

#[cfg(not(debug_assertions))]
pub(super) const fn before(_: Change) -> io::Result<()> {
    Ok(())
}

#[cfg(not(debug_assertions))]
pub(super) const fn before_write(_: &std::fs::File, _: &[u8]) -> io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
pub(super) use armed::{before, before_write};

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Change, File, VARIABLE, io};

    struct Plan {
        at: u64,
        fault: Fault,
        is_once: bool,
        fired: PathBuf,
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Fault {
        Eio,
        NoSpace,
        Kill,
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let mut words = text.splitn(4, ' ');
        Some(Plan {
            at: words.next()?.parse().ok()?,
            fault: match words.next()? {
                "eio" => Fault::Eio,
                "enospc" => Fault::NoSpace,
                "kill" => Fault::Kill,
                _ => return None,
            },
            is_once: words.next()? == "once",
            fired: words.next()?.into(),
        })
    });

    static CHANGES: AtomicU64 = AtomicU64::new(0);

    pub(in super::super) fn before(change: Change) -> io::Result<()> {
        due(change).map_or(Ok(()), |fault| fail(fault, || {}))
    }

    /// As [`before`]. A process that is killed, or a disk that gets full, leaves half of the bytes.
    pub(in super::super) fn before_write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
        let tear = || {
            let _torn = file.write_all(&bytes[..bytes.len() / 2]);
        };
        due(Change::Takes).map_or(Ok(()), |fault| fail(fault, tear))
    }

    /// The fault of this change, which is counted.
    fn due(change: Change) -> Option<Fault> {
        let plan = PLAN.as_ref()?;
        let number = CHANGES.fetch_add(1, Ordering::Relaxed) + 1;
        let is_due = if plan.is_once { number == plan.at } else { number >= plan.at };
        let is_spared = plan.fault == Fault::NoSpace && change == Change::Frees;
        if !is_due || is_spared {
            return None;
        }
        let _marked = std::fs::write(&plan.fired, number.to_string());
        Some(plan.fault)
    }

    fn fail(fault: Fault, tear: impl FnOnce()) -> io::Result<()> {
        match fault {
            Fault::Eio => Err(rustix::io::Errno::IO.into()),
            Fault::NoSpace => {
                tear();
                Err(io::ErrorKind::StorageFull.into())
            }
            Fault::Kill => {
                tear();
                let _killed =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                // The signal ends this thread before it returns to the program.
                std::process::abort();
            }
        }
    }
}
