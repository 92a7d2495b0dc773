//! The daemon as a separate process, which tests signal and kill.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::{client, command, data_lines, executable, soon};

/// A running `rbee-hive serve`.
pub(crate) struct Daemon {
    child: tokio::process::Child,
    pub(crate) url: String,
    pub(crate) ready_line: String,
}

impl Daemon {
    /// Starts it on a free port with its data in `dir`/data, and waits for its ready line.
    pub(crate) async fn start(dir: &Path, more: &[&str]) -> Self {
        Self::run(serve(dir, more)).await
    }

    /// The same, with environment variables.
    pub(crate) async fn start_with(dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = serve(dir, more);
        command.envs(environment.iter().copied());
        Self::run(command).await
    }

    /// Starts it by `command`, and waits for its ready line.
    pub(crate) async fn run(command: Command) -> Self {
        Self::try_run(command).await.expect("the daemon is ready")
    }

    /// The same, for a daemon that may end before it is ready.
    pub(crate) async fn try_run(mut command: Command) -> Option<Self> {
        let mut child = command.spawn().expect("the daemon starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = soon("the ready line", lines.next_line()).await.expect("a line");
        let Some(ready_line) = line else {
            soon("the daemon's end", child.wait()).await.expect("an end");
            return None;
        };
        let url = ready_line.split_whitespace().find(|word| word.starts_with("http://"))?.to_owned();
        Some(Self { child, url, ready_line })
    }

    /// Starts it by a command that it must refuse. Gives its exit status and its standard error.
    pub(crate) async fn refuse(mut command: Command) -> (ExitStatus, String) {
        let output = soon("a refusal", command.stderr(Stdio::piped()).output()).await.expect("an end");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "it was not ready: {said}");
        (output.status, said)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&self) -> bool {
        super::process_runs(self.pid())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid =
            i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        soon("the daemon's end", self.child.wait()).await.expect("an end")
    }

    /// Stops it as a service manager would.
    pub(crate) async fn stop(self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "it ended with {status}");
    }

    /// Stops it where it still runs, and waits for its end.
    pub(crate) async fn end(mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
        }
        self.ended().await;
    }

    /// Kills it.
    pub(crate) async fn kill(self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.try_get(path).await.expect("an answer")
    }

    /// The same, of a daemon that may die.
    pub(crate) async fn try_get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        soon(path, client().get(format!("{}{path}", self.url)).send()).await
    }

    /// Posts to a daemon that may die.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        soon(path, client().post(format!("{}{path}", self.url)).json(body).send()).await
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.expect("JSON")
    }

    /// Submits an operation and gives the job's id.
    pub(crate) async fn submit(&self, operation: &Value) -> String {
        let answer = self.try_post("/v1/jobs", operation).await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        answer["job_id"].as_str().unwrap_or_else(|| panic!("{operation} was refused: {answer}")).to_owned()
    }

    /// The plain stream of a job, to its end.
    pub(crate) async fn stream(&self, id: &str) -> String {
        super::read_all(self.get(&format!("/v1/jobs/{id}/stream")).await).await
    }

    /// Runs an operation that must succeed and gives its result.
    pub(crate) async fn succeed(&self, operation: &Value) -> Value {
        let id = self.submit(operation).await;
        let stream = self.stream(&id).await;
        let lines = data_lines(&stream);
        assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{operation}:\n{stream}");
        serde_json::from_str(&lines[lines.len() - 2]).expect("a result line before the end")
    }

    /// Runs an operation that must fail and gives its failure.
    pub(crate) async fn fail(&self, operation: &Value) -> Value {
        let id = self.submit(operation).await;
        let stream = self.stream(&id).await;
        let last = data_lines(&stream).pop().unwrap_or_default();
        assert!(last.starts_with("[ERROR] "), "{operation}:\n{stream}");
        self.json(&format!("/v1/jobs/{id}")).await["failure"].clone()
    }
}

/// A folder for [`serve`], with a folder for models.
pub(crate) fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(dir.path().join("models")).expect("a folder for models");
    dir
}

/// `rbee-hive serve` on a free port, with its data in `dir`/data.
pub(crate) fn serve(dir: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command
        .args(["serve", "--port", "0", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--models-dir")
        .arg(dir.join("models"))
        .args(more);
    command
}

/// The built executable, without the settings, caches and proxies of the user who runs the tests.
pub(crate) fn program() -> Command {
    let mut command = command(executable());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_uppercase();
        if text.starts_with("RBEE_HIVE_") || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command
        .env("HF_HUB_CACHE", "/nonexistent/hub")
        // The user's own token is neither used nor replaced.
        .env("HF_TOKEN_PATH", "/nonexistent/token")
        // No worker outlives a test that is killed; a test of that sets the flag.
        .env("RBEE_HIVE_WORKERS_LIFELINE", "true")
        // The built-in engine is tested, whatever else the machine has.
        .env("RBEE_HIVE_LLAMA_SERVER", "")
        // Nothing beyond this machine is asked: not the Hub, nor who publishes engines.
        .env("HTTPS_PROXY", super::nowhere())
        .env("NO_PROXY", "localhost,127.0.0.1")
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Whether no live process has `text` on its command line.
pub(crate) fn no_process_mentions(text: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return true };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| super::process_runs(*pid)).all(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        !String::from_utf8_lossy(&words).contains(text)
    })
}
