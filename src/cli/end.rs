//! How a command ends: what it says, and its exit status.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use super::words;
use crate::client::Error;
use crate::error::{Failure, Result};

/// The exit statuses of the verbs of a client. They are stable.
pub(super) const HELP: &str = "\
Exit status of the verbs that talk to a hive:
  0    done
  1    the job failed; of `check`, a check failed
  2    the command line is not valid
  3    no hive answers
  4    what is named was not found
  5    the hive refused it
  130  cancelled, or left while the job goes on";

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;
const NOT_FOUND: u8 = 4;
const REFUSED: u8 = 5;
/// That of a program that SIGINT ended, as shells tell it.
pub(super) const INTERRUPTED: u8 = 130;

/// Why a verb of a client ends before it has done what it was asked to.
#[derive(Debug)]
pub(super) enum End {
    /// The hive did not do it.
    Hive(Error),
    /// What the command line or the environment says cannot be used.
    Usage(Failure),
    /// This process could not do its part.
    Here(Failure),
    /// All has been said; the exit status tells the rest.
    Said(u8),
}

/// What a verb of a client gives back.
pub(super) type Ended<T = ()> = std::result::Result<T, End>;

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Hive(error)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Here(failure)
    }
}

impl End {
    /// A check of `check` failed, or a verb with several names has failed for one of them.
    pub(super) const FAILED: Self = Self::Said(FAILED);
    /// The job was cancelled, or goes on without this reader.
    pub(super) const INTERRUPTED: Self = Self::Said(INTERRUPTED);

    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Said(status) => *status,
            Self::Usage(_) => USAGE,
            Self::Here(_) => FAILED,
            Self::Hive(Error::Cancelled) => INTERRUPTED,
            Self::Hive(Error::Unreachable(_)) => UNREACHABLE,
            Self::Hive(Error::Refused(failure)) if is_not_found(failure) => NOT_FOUND,
            Self::Hive(Error::Refused(_)) => REFUSED,
            Self::Hive(Error::Failed(failure)) if is_not_found(failure) => NOT_FOUND,
            Self::Hive(Error::Failed(failure)) if failure.code.http_status() < 500 => REFUSED,
            Self::Hive(Error::Failed(_)) => FAILED,
        }
    }

    /// Says on standard error what failed and what to do next.
    pub(super) fn report(&self) {
        let text = match self {
            Self::Said(_) => return,
            Self::Hive(Error::Cancelled) => "Cancelled\n".to_owned(),
            Self::Hive(Error::Unreachable(failure) | Error::Refused(failure) | Error::Failed(failure))
            | Self::Usage(failure)
            | Self::Here(failure) => told(failure),
        };
        // Nobody reads it where there is no standard error.
        let _written = io::stderr().lock().write_all(text.as_bytes());
    }
}

fn is_not_found(failure: &Failure) -> bool {
    failure.code.name().ends_with("_not_found")
}

/// A failure in words: what, what to do, and then what else is known.
fn told(failure: &Failure) -> String {
    let mut text = words::red("error:");
    // Writing to a string cannot fail.
    let _ = writeln!(text, " {}", failure.message);
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "{} {hint}", words::cyan("hint:"));
    }
    for choice in &failure.choices {
        let size =
            choice.size_bytes.map_or_else(String::new, |size| format!("  {}", crate::text::bytes(size)));
        let recommended = if choice.recommended { "  (recommended)" } else { "" };
        let _ = writeln!(text, "  {}{size}{recommended}", choice.model);
    }
    for cause in &failure.causes {
        let _ = writeln!(text, "  because: {cause}");
    }
    if !failure.log_tail.is_empty() {
        let _ = writeln!(text, "the end of the log:");
        for line in &failure.log_tail {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// The exit status of a verb of a client, once it is said why it ended.
pub(super) fn of_verb(ended: Ended) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => {
            end.report();
            ExitCode::from(end.status())
        }
    }
}

/// The exit status of a command that is no client (`sysexits.h`), once it is said what failed.
#[expect(clippy::print_stderr, reason = "the end of a command line program")]
pub(super) fn of_daemon(ended: Result<()>) -> ExitCode {
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    eprintln!("rbee-hive: {}", failure.message);
    if let Some(hint) = &failure.hint {
        eprintln!("  hint: {hint}");
    }
    ExitCode::from(failure.code.exit_status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn the_code_of_a_failure_decides_the_status() {
        let of = |code| Failure::new(code, "x");
        for (end, status) in [
            (End::Hive(Error::Failed(of(Code::DownloadFailed))), 1),
            (End::Hive(Error::Failed(of(Code::ModelNotFound))), 4),
            (End::Hive(Error::Failed(of(Code::NotOwned))), 5),
            (End::Hive(Error::Refused(of(Code::JobNotFound))), 4),
            (End::Hive(Error::Refused(of(Code::ShuttingDown))), 5),
            (End::Hive(Error::Unreachable(of(Code::ServerUnreachable))), 3),
            (End::Hive(Error::Cancelled), 130),
            (End::Usage(of(Code::InvalidField)), 2),
        ] {
            assert_eq!(end.status(), status, "{end:?}");
        }
    }

    #[test]
    fn an_error_is_two_lines_and_then_what_else_is_known() {
        let failure = Failure::new(Code::WorkerFailed, "it failed").hint("do this");
        assert_eq!(told(&failure), "error: it failed\nhint: do this\n");
        let failure = Failure { log_tail: vec!["the log".to_owned()], ..failure };
        assert!(told(&failure).ends_with("do this\nthe end of the log:\n  the log\n"));
    }
}
