//! The daemon as a process of its own, to be signalled and killed.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};

use super::{executable, soon};

/// A running `rbee-hive serve`.
pub(crate) struct Daemon {
    child: tokio::process::Child,
    pub(crate) url: String,
    pub(crate) ready_line: String,
}

impl Daemon {
    /// Starts it on a free port with its data in `dir`/data, and waits for its ready line.
    pub(crate) async fn start(dir: &Path, more: &[&str]) -> Self {
        Self::start_with(dir, more, &[]).await
    }

    /// The same, with variables of its environment.
    pub(crate) async fn start_with(dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child =
            command(dir, more).envs(environment.iter().copied()).spawn().expect("the daemon starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ready_line =
            soon("the ready line", lines.next_line()).await.expect("a line").expect("the daemon is ready");
        let url =
            ready_line.split_whitespace().find(|word| word.starts_with("http://")).expect("a URL").to_owned();
        Self { child, url, ready_line }
    }

    /// Starts it where it must refuse, and gives its exit status and what it said.
    pub(crate) async fn refuse(dir: &Path, more: &[&str]) -> (ExitStatus, String) {
        let output =
            soon("a refusal", command(dir, more).stderr(Stdio::piped()).output()).await.expect("an end");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid =
            i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        soon("the daemon's end", self.child.wait()).await.expect("an end")
    }
}

/// `kill_on_drop` ends it where a test fails midway.
#[expect(clippy::disallowed_methods, reason = "a test starts the daemon from outside")]
fn command(dir: &Path, more: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(executable());
    command
        .args(["serve", "--port", "0", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--models-dir")
        .arg(dir.join("models"))
        .args(more)
        .env("HF_HUB_CACHE", dir.join("no-hub-cache"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}
