//! How a process ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;

/// How a process ended: by a code of its own or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    /// The exit code, where it ended by itself.
    pub(super) code: Option<i32>,
    /// The number of the signal that ended it.
    signal: Option<i32>,
}

/// The signals that end processes, by the names that people know them by; their numbers differ
/// between systems.
const NAMES: &[(Signal, &str)] = &[
    (Signal::HUP, "SIGHUP"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::ILL, "SIGILL"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::KILL, "SIGKILL"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::TERM, "SIGTERM"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::XFSZ, "SIGXFSZ"),
    (Signal::SYS, "SIGSYS"),
];

impl Exit {
    /// The name of the signal that ended the process: `SIGKILL`, or `signal 35` for one that has
    /// no name of its own.
    pub(super) fn signal(self) -> Option<String> {
        let number = self.signal?;
        let name = NAMES.iter().find(|(signal, _)| signal.as_raw() == number);
        Some(name.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned()))
    }

    /// The signal that a shell, or another program around the engine, passes on as its own exit
    /// code: 128 and the signal's number.
    fn passed_on(self) -> Option<Self> {
        let number = self.code?.checked_sub(128)?;
        NAMES
            .iter()
            .any(|(signal, _)| signal.as_raw() == number)
            .then_some(Self { code: None, signal: Some(number) })
    }

    /// Whether it was killed by the one signal that the system itself sends for want of memory.
    pub(super) fn killed(self) -> bool {
        self.passed_on().unwrap_or(self).signal == Some(Signal::KILL.as_raw())
    }

    /// Whether it crashed on a fault of its own code or build.
    pub(super) fn faulted(self) -> bool {
        let ended_by = self.passed_on().unwrap_or(self).signal;
        [Signal::ILL, Signal::ABORT, Signal::BUS, Signal::FPE, Signal::SEGV]
            .iter()
            .any(|signal| ended_by == Some(signal.as_raw()))
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal()) {
            (Some(code), _) => {
                write!(f, "exit code {code}")?;
                match self.passed_on().and_then(Self::signal) {
                    Some(signal) => write!(f, ", which stands for {signal}"),
                    None => Ok(()),
                }
            }
            (None, Some(signal)) => write!(f, "killed by {signal}"),
            (None, None) => f.write_str("an unknown end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_read_as_words() {
        let exit = |raw| Exit::from(ExitStatus::from_raw(raw));
        assert_eq!(exit(3 << 8).to_string(), "exit code 3");
        assert_eq!(exit(9).to_string(), "killed by SIGKILL");
        assert!(exit(9).killed() && !exit(9).faulted());
        assert!(exit(11).faulted());
        assert_eq!(exit(137 << 8).to_string(), "exit code 137, which stands for SIGKILL");
        assert!(exit(137 << 8).killed() && exit(139 << 8).faulted() && !exit(200 << 8).faulted());
        assert_eq!(exit(35).to_string(), "killed by signal 35");
    }
}
