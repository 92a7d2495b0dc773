//! Runs one rendering in a process of its own.
//!
//! The process is this program again (`rbee-hive render-template`). It reads the rendering from standard
//! input, writes the answer to standard output and ends. Its limits hold whatever the template does, also
//! to minijinja itself:
//!
//! - The kernel ends it after [`CPU_SECONDS`] of processor time, even if the worker is gone. Where the
//!   process was started with lower limits of time or memory, those hold.
//! - It may allocate [`MEMORY`] more than it has at its start (on Linux; elsewhere the kernel has no such
//!   limit, and the other limits bound how much it can fill).
//! - It is killed after [`DEADLINE`], and when the client that waits for it has left.
//! - At most [`AT_ONCE`] run at once.
//!
//! A template that exceeds them costs its own process and nothing else. A rendering takes about the time
//! of a program's start, a few milliseconds.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::rendering::{Rendering, unsupported};
use crate::error::{Failure, Result};
use crate::{files, spawn};

/// The argument that makes the program a rendering process.
pub const COMMAND: &str = "render-template";

/// Processor time of one rendering. One that goes on regardless is killed a second later.
const CPU_SECONDS: u64 = 4;
/// Time of one rendering, for a machine on which many processes wait for the processor.
const DEADLINE: Duration = Duration::from_secs(20);
/// Memory of one rendering, in bytes.
const MEMORY: u64 = 256 << 20;
/// Renderings that run at once.
const AT_ONCE: usize = 2;

/// The failure of a process that breaks its own protocol.
const NO_ANSWER: &str = "the process that renders chat templates gave no answer";

/// Where renderings run.
#[derive(Debug)]
pub struct Sandbox {
    /// `None` renders in this process, without its limits.
    program: Option<PathBuf>,
    turns: Semaphore,
}

/// What a rendering process writes.
#[derive(Serialize, Deserialize)]
enum Answer {
    Text(String),
    Failure(Box<Failure>),
}

impl Sandbox {
    /// Processes of this program, which must know [`COMMAND`].
    ///
    /// # Errors
    /// The path of the program is unknown.
    pub fn of_this_program() -> Result<Self> {
        // Linux finds the running program here even after another one was installed in its place.
        let link = Path::new("/proc/self/exe");
        let program = if link.exists() { link.to_owned() } else { files::own_program()? };
        Ok(Self::of(Some(program)))
    }

    /// No sandbox, for the tests of this crate, whose program is the test's.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::of(None)
    }

    fn of(program: Option<PathBuf>) -> Self {
        Self { program, turns: Semaphore::new(AT_ONCE) }
    }

    /// Runs the rendering of an [`input`]. The answer is for [`text`]. Dropping the future ends its process.
    ///
    /// # Errors
    /// `model_unsupported` for a template that exceeds its limits.
    pub(super) async fn run(&self, input: Vec<u8>) -> Result<Vec<u8>> {
        let _turn = self.turns.acquire().await.map_err(|error| Failure::internal(error.to_string()))?;
        let Some(program) = &self.program else {
            let answer = spawn::blocking(move || answer(&input)).await?;
            return answer.map_err(|error| Failure::internal(NO_ANSWER).detail(error));
        };
        match tokio::time::timeout(DEADLINE, in_process(program, &input)).await {
            Ok(answer) => answer,
            Err(_) => Err(unsupported(format!("takes longer than {} seconds", DEADLINE.as_secs()))),
        }
    }
}

/// A rendering as the bytes that a process reads.
///
/// # Errors
/// `internal`: every rendering can be written.
pub(super) fn input(rendering: &Rendering) -> Result<Vec<u8>> {
    serde_json::to_vec(rendering)
        .map_err(|error| Failure::internal("a conversation could not be written as JSON").detail(error))
}

/// The text of the bytes that a process has answered.
///
/// # Errors
/// Those of [`Rendering::run`].
pub(super) fn text(answer: &[u8]) -> Result<String> {
    match serde_json::from_slice(answer) {
        Ok(Answer::Text(text)) => Ok(text),
        Ok(Answer::Failure(failure)) => Err(*failure),
        Err(error) => Err(Failure::internal(NO_ANSWER).detail(error)),
    }
}

async fn in_process(program: &Path, input: &[u8]) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| {
        Failure::internal("the process that renders chat templates could not be run").detail(error)
    };
    let mut child = spawn::command(program)
        .arg(COMMAND)
        .env_clear()
        // For `strftime_now`.
        .envs(std::env::var_os("TZ").map(|zone| ("TZ", zone)))
        // Otherwise the allocator reserves a gigabyte before the limit is set, and may fill it.
        .env("MIMALLOC_ARENA_RESERVE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A process that has ended says below why.
        let _broken_pipe = stdin.write_all(input).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(ended(output.status, &String::from_utf8_lossy(&output.stderr))),
    }
}

/// Why the process ended without an answer; `said` is what it wrote to its standard error. Only a limit ends
/// it by a signal: what it does by itself is not the template's fault.
fn ended(status: ExitStatus, said: &str) -> Failure {
    let Some(signal) = status.signal() else {
        return Failure::internal("the process that renders chat templates failed")
            .detail(std::io::Error::other(format!("{status}: {said}")));
    };
    tracing::warn!(%status, said, "a process that rendered a chat template was ended");
    if signal == Signal::XCPU.as_raw() {
        unsupported(format!("computes for more than {CPU_SECONDS} seconds"))
    } else {
        unsupported(format!("needs more than {} MiB of memory, or nests too deeply", MEMORY >> 20))
    }
}

/// The body of the process.
///
/// # Errors
/// Where its limits cannot be set or the other end of a pipe is gone.
pub fn process() -> std::io::Result<()> {
    // No template leaves an image of the memory, which has the conversation, on the disk.
    limit(Resource::Core, 0, 0)?;
    // At the second of these limits the kernel sends SIGKILL, which does not tell which limit it was.
    limit(Resource::Cpu, CPU_SECONDS, CPU_SECONDS + 1)?;
    if let Some(size) = address_space() {
        limit(Resource::As, size + MEMORY, size + MEMORY)?;
    }
    let mut input = Vec::new();
    std::io::stdin().lock().read_to_end(&mut input)?;
    std::io::stdout().lock().write_all(&answer(&input)?)
}

/// Lowers a limit of this process, which may not raise it above the maximum that it was started with.
fn limit(resource: Resource, current: u64, maximum: u64) -> std::io::Result<()> {
    let maximum = getrlimit(resource).maximum.map_or(maximum, |allowed| allowed.min(maximum));
    Ok(setrlimit(resource, Rlimit { current: Some(current.min(maximum)), maximum: Some(maximum) })?)
}

/// The size of this process's address space, in bytes.
fn address_space() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let pages = procfs::process::Process::myself().ok()?.statm().ok()?.size;
        Some(pages * procfs::page_size())
    }
    #[cfg(not(target_os = "linux"))]
    None
}

fn answer(input: &[u8]) -> std::io::Result<Vec<u8>> {
    let rendering: Result<Rendering, _> = serde_json::from_slice(input);
    let rendered = match rendering {
        Ok(rendering) => rendering.run(input.len().saturating_sub(rendering.source.len())),
        Err(error) => Err(Failure::internal("the conversation is not valid JSON").detail(error)),
    };
    let answer = match rendered {
        Ok(text) => Answer::Text(text),
        Err(failure) => Answer::Failure(Box::new(failure)),
    };
    Ok(serde_json::to_vec(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn only_a_limit_is_the_fault_of_the_template() {
        let failure = Sandbox::of(Some("false".into())).run(Vec::new()).await.unwrap_err();
        assert_eq!(failure.code, Code::Internal, "{failure}");
        let of = |signal: Signal| ended(ExitStatus::from_raw(signal.as_raw()), "");
        for (signal, problem) in [(Signal::XCPU, "computes for more than"), (Signal::ABORT, "MiB of memory")]
        {
            let failure = of(signal);
            assert_eq!(failure.code, Code::ModelUnsupported);
            assert!(failure.message.contains(problem), "{failure}");
        }
    }
}
