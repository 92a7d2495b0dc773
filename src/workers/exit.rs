//! How a process ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;

/// How a process ended: with an exit code or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, where no signal ended it.
    pub(crate) code: Option<i32>,
    /// The number of the signal that ended it.
    signal: Option<i32>,
}

/// The names of the signals that end processes; their numbers differ between systems.
const SIGNAL_NAMES: &[(Signal, &str)] = &[
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
    /// The name of the signal that ended the process: `SIGKILL`, or `signal 35` for one without a
    /// name.
    pub(crate) fn signal(self) -> Option<String> {
        let number = self.signal?;
        let name = SIGNAL_NAMES.iter().find(|(signal, _)| signal.as_raw() == number);
        Some(name.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned()))
    }

    /// The signal that a shell, or another program around the engine, reports as its own exit code:
    /// 128 plus the signal's number.
    fn reported_signal(self) -> Option<Self> {
        let number = self.code?.checked_sub(128)?;
        SIGNAL_NAMES
            .iter()
            .any(|(signal, _)| signal.as_raw() == number)
            .then_some(Self { code: None, signal: Some(number) })
    }

    /// Whether SIGKILL ended it, which the system sends when memory runs out.
    pub(crate) fn killed(self) -> bool {
        self.reported_signal().unwrap_or(self).signal == Some(Signal::KILL.as_raw())
    }

    /// Whether it ended because the processor does not know an instruction of it.
    pub(super) fn lacks_instructions(self) -> bool {
        self.reported_signal().unwrap_or(self).signal == Some(Signal::ILL.as_raw())
    }

    /// Whether a signal ended it that shows a defect of its code or build.
    pub(super) fn faulted(self) -> bool {
        let ended_by = self.reported_signal().unwrap_or(self).signal;
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
                match self.reported_signal().and_then(Self::signal) {
                    Some(signal) => write!(f, ", which stands for {signal}"),
                    None => Ok(()),
                }
            }
            (None, Some(signal)) => write!(f, "killed by {signal}"),
            (None, None) => f.write_str("ended in an unknown way"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_printed_with_its_code_or_signal() {
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
