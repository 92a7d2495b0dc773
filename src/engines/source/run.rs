//! Runs the programs of a build, each in a process group of its own, with everything that they print in one log.
//!
//! Invariants:
//! - A program that is cancelled, or whose future is dropped, leaves no process; nor does a hive that is killed: the
//!   group ends with the pipe that only the hive holds. It is asked to end first, because ninja has its jobs in groups
//!   of their own and ends them.
//! - A program gets no secret of the hive, and a low priority, so that the machine stays usable.
//! - Lines are narrated, but for what clients take for a failure ([`harmless`]); the log has them as they are.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::hint::{self, Cause};
use super::progress::BuildProgress;
use crate::engines::harmless::harmless;
use crate::error::{Code, Failure, Result};
use crate::narration::{Level, LineNarrator, LineSplitter, waiting_for};
use crate::workers::log_follow::Follower;
use crate::workers::{ChildGroup, Exit, GroupEnd, WITH_LIFELINE, keep_secrets};
use crate::{disk, files, spawn};

/// How often the log is read while a program runs.
const LOG_INTERVAL: Duration = Duration::from_millis(100);
/// How long programs may take to end once they are asked to. They do at once, but on a busy machine their low priority
/// keeps them waiting; and jobs of a ninja that was killed instead would stay.
const END_GRACE: Duration = Duration::from_secs(30);
/// The lines of a failure.
const TAIL_LINES: usize = 40;

/// A program to run.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// The stage of a failure.
    pub(super) stage: &'static str,
    /// What a failure says: "cmake could not configure llama.cpp".
    pub(super) failed: &'a str,
    pub(super) program: &'a Path,
    pub(super) arguments: Vec<OsString>,
    pub(super) folder: &'a Path,
    /// Whether it gets the settings of pip, which may have the password of a registry or a proxy.
    pub(super) is_pip: bool,
}

/// Runs programs one after the other.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    log: PathBuf,
    output: Output,
    stop: &'a CancellationToken,
}

impl<'a> Runner<'a> {
    /// A runner whose log is the file `log`, which it empties.
    pub(super) fn new(log: PathBuf, stop: &'a CancellationToken) -> Result<Self> {
        disk::open(files::own().write(true).create(true).truncate(true), &log)
            .map_err(|error| Failure::io("create the log", &log, &error))?;
        Ok(Self { output: Output::new(log.clone()), log, stop })
    }

    /// Runs a program until it has ended, with success.
    ///
    /// # Errors
    /// [`Code::Cancelled`], or why it failed, with its last lines and what to do.
    pub(super) async fn run(&mut self, program: Program<'_>) -> Result<()> {
        let cancelled = || Failure::new(Code::Cancelled, "the build was cancelled").stage(program.stage);
        if self.stop.is_cancelled() {
            return Err(cancelled());
        }
        self.output.begin();
        let name = program.program.file_name().unwrap_or_default().to_string_lossy();
        let _waiting = waiting_for(format!(
            "{} to end ({})",
            if program.is_pip { "pip".into() } else { name },
            program.stage
        ));
        let unstarted = |error: &io::Error| {
            Failure::new(Code::EngineBuildFailed, format!("{} does not start", program.program.display()))
                .stage(program.stage)
                .cause(error)
        };
        let log = disk::open(files::own().append(true), &self.log);
        let log = log.map_err(|error| Failure::io("write to the log", &self.log, &error))?;
        let mut command = program.command();
        command.stdout(log.try_clone().map_err(|error| unstarted(&error))?).stderr(log);
        let mut running = Running(Some(ChildGroup::spawn(&mut command).map_err(|error| unstarted(&error))?));
        let mut splitter = LineSplitter::default();
        let ended = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break false,
                () = running.exited() => break true,
                () = tokio::time::sleep(LOG_INTERVAL) => self.output.read(&mut splitter).await,
            }
        };
        let end = running.end(ended).await;
        self.output.read(&mut splitter).await;
        splitter.finish(|line| self.output.line(line));
        self.output.narrator.report();
        if end.is_none_or(|end| !end.processes_gone()) {
            tracing::warn!(program = %program.program.display(), "processes of a build are still there");
        }
        match (ended, end.and_then(|end| end.exit)) {
            (false, _) => Err(cancelled()),
            (true, Some(Exit { code: Some(0), .. })) => Ok(()),
            (true, exit) => Err(self.failure(&program, exit)),
        }
    }

    fn failure(&mut self, program: &Program<'_>, exit: Option<Exit>) -> Failure {
        let how = exit.map_or_else(|| "it does not end".to_owned(), |exit| exit.to_string());
        let killed = exit.filter(|exit| exit.killed()).and_then(|_| hint::told_by("signal 9"));
        let cause = hint::prefer(self.output.cause, killed);
        let hint = cause.map_or_else(
            || format!("the last lines below say why; the whole log is {}", self.log.display()),
            |cause| cause.hint.to_owned(),
        );
        let code = cause.map_or(Code::EngineBuildFailed, |cause| cause.code);
        let mut failure =
            Failure::new(code, format!("{} ({how})", program.failed)).hint(hint).stage(program.stage);
        failure.causes.extend(self.output.error.take());
        failure.exit_code = exit.and_then(|exit| exit.code);
        failure.signal = exit.and_then(Exit::signal);
        failure.log_tail = self.output.tail.drain(..).collect();
        failure
    }
}

/// A program that runs. Where it is dropped, its lifeline closes, which ends it and its jobs.
struct Running(Option<ChildGroup>);

impl Running {
    async fn exited(&mut self) {
        match &mut self.0 {
            Some(group) => group.exited().await,
            None => std::future::pending().await,
        }
    }

    /// Ends what remains of it: at once where it has ended by itself.
    async fn end(&mut self, has_ended: bool) -> Option<GroupEnd> {
        let group = self.0.take()?;
        Some(if has_ended { group.end().await } else { group.stop(END_GRACE).await })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            group.leave();
        }
    }
}

impl Program<'_> {
    fn command(&self) -> tokio::process::Command {
        let mut command = spawn::command("sh");
        command.args(["-c", WITH_LIFELINE, "sh", "nice", "-n", "10"]).arg(self.program).args(&self.arguments);
        command.current_dir(self.folder);
        keep_secrets(&mut command);
        if self.is_pip {
            command.envs(std::env::vars_os().filter(|(name, _)| is_of_pip(name)));
        }
        // Messages are read in English; the progress of ninja has this form; and the jobs of a make around the
        // hive are not this build's.
        command.envs([("LC_ALL", "C"), ("NINJA_STATUS", "[%f/%t] ")]);
        for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
            command.env_remove(name);
        }
        command
    }
}

/// Whether the variable says how pip reaches its registry.
fn is_of_pip(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_uppercase();
    name.starts_with("PIP_") || name.ends_with("_PROXY")
}

/// What the programs print, as it is read from their log.
#[derive(Debug)]
struct Output {
    follower: Follower,
    narrator: LineNarrator,
    progress: BuildProgress,
    tail: VecDeque<String>,
    /// The first line that is an error.
    error: Option<String>,
    cause: Option<&'static Cause>,
}

impl Output {
    fn new(log: PathBuf) -> Self {
        Self {
            follower: Follower::new(log),
            narrator: LineNarrator::new(Level::Debug, "worker_install_build", ""),
            progress: BuildProgress::new(),
            tail: VecDeque::new(),
            error: None,
            cause: None,
        }
    }

    /// Forgets what earlier programs printed.
    fn begin(&mut self) {
        self.tail.clear();
        (self.error, self.cause, self.progress) = (None, None, BuildProgress::new());
    }

    /// Reads what was written since the last call.
    async fn read(&mut self, splitter: &mut LineSplitter) {
        loop {
            match self.follower.next().await {
                Ok(bytes) if bytes.is_empty() => return,
                Ok(bytes) => splitter.push(&bytes, |line| self.line(line)),
                Err(error) => return tracing::debug!(%error, "could not read the log of a build"),
            }
        }
    }

    fn line(&mut self, line: &str) {
        if !self.progress.line(line) {
            self.narrator.line(&harmless(line));
        }
        self.cause = hint::prefer(self.cause, hint::told_by(line));
        if self.error.is_none() && line.to_ascii_lowercase().contains("error:") {
            self.error = Some(line.to_owned());
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }
}
