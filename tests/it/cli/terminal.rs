//! Verbs in a terminal: bars, widths, and Ctrl-C.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use parking_lot::Mutex;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, tcgetattr};

use super::{assert_stable, verb};
use crate::support::hub::FakeHub;
use crate::support::{StallingServer, TestHive, executable, until, write_model};

/// Ctrl-C, as a terminal sends it.
pub(super) const CTRL_C: &[u8] = b"\x03";

/// A verb that runs in a terminal of 80 columns.
pub(super) struct Terminal {
    seen: Arc<Mutex<String>>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    terminal: Box<dyn MasterPty + Send>,
}

impl Terminal {
    pub(super) fn run(hive: &TestHive, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).expect("a terminal");
        let mut command = CommandBuilder::new(executable());
        command.env_clear();
        command.args(arguments);
        command.env("TERM", "xterm-256color");
        command.env("RBEE_HIVE_HOST", &hive.url);
        for (name, value) in environment {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).expect("it starts");
        let mut output = pair.master.try_clone_reader().expect("a reader");
        let keys = pair.master.take_writer().expect("a writer");
        let seen = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of the terminal is an error on Linux.
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                written.lock().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Self { seen, keys, child, terminal: pair.master }
    }

    /// What it has shown so far.
    pub(super) fn seen(&self) -> String {
        self.seen.lock().clone()
    }

    pub(super) async fn shows(&self, text: &str) {
        until(text, async || self.seen.lock().contains(text).then_some(())).await;
    }

    pub(super) fn press(&mut self, key: &[u8]) {
        self.keys.write_all(key).and_then(|()| self.keys.flush()).expect("it takes keys");
    }

    /// Ends it as a service manager would.
    pub(super) fn terminate(&self) {
        let pid = self.child.process_id().and_then(|pid| i32::try_from(pid).ok()).expect("a process id");
        kill_process(Pid::from_raw(pid).expect("not 0"), Signal::TERM).expect("it runs");
    }

    /// Whether the terminal shows the keys by itself, as a shell needs it.
    pub(super) fn shows_what_is_typed(&self) -> bool {
        let mut options = std::fs::OpenOptions::new();
        let options = options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed());
        let terminal = options.open(self.terminal.tty_name().expect("its name")).expect("a terminal");
        tcgetattr(terminal).expect("its settings").local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for its end. Gives its exit status.
    pub(super) async fn ended(&mut self) -> u32 {
        let child = &mut self.child;
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status.exit_code();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

/// The job that a verb says goes on.
fn job_of(seen: &str) -> String {
    let job = seen.split('`').find_map(|part| part.strip_prefix("rbee-hive watch ")).expect("the job");
    job.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_a_bar_which_ctrl_c_leaves_and_a_second_one_cancels() {
    let (hive, server) = (TestHive::start().await, StallingServer::start().await);
    let mut first = Terminal::run(&hive, &["pull", &server.model("half")], &[]);
    // Half of it has come.
    first.shows(" 50 % ").await;
    assert!(first.seen().contains("━"), "{}", first.seen());
    first.press(CTRL_C);
    first.shows("Ctrl-C again cancels it").await;
    assert_eq!(first.ended().await, 130, "{}", first.seen());
    let job = job_of(&first.seen());
    assert_eq!(hive.job(&job).await["state"], "running");

    let mut second = Terminal::run(&hive, &["watch", &job], &[]);
    second.shows(" 50 % ").await;
    assert!(second.seen().contains("Downloading"), "it is told from the beginning: {}", second.seen());
    second.press(CTRL_C);
    second.shows("Ctrl-C again cancels it").await;
    second.press(CTRL_C);
    assert_eq!(second.ended().await, 130, "{}", second.seen());
    assert!(second.seen().contains("Cancelled"), "{}", second.seen());
    assert_eq!(hive.job(&job).await["state"], "cancelled");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_from_the_hub_ends_with_its_model_and_no_bar() {
    let hub = FakeHub::start().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = std::fs::read(write_model(dir.path(), "tiny")).expect("a model");
    hub.commit("org/tiny-GGUF", "main", &[("tiny-Q8_0.gguf", &model)]);
    let url = hub.url.clone();
    let hive = TestHive::start_with(|config| config.hub.endpoint = Some(url)).await;
    let mut terminal = Terminal::run(&hive, &["pull", "org/tiny-GGUF"], &[("NO_COLOR", "1")]);
    assert_eq!(terminal.ended().await, 0, "{}", terminal.seen());
    terminal.shows("quantization").await;
    let seen = terminal.seen();
    let last = seen.rsplit("\r\n").nth(1).expect("lines");
    assert!(!last.contains('━'), "{seen}");
    assert!(!seen.contains("\x1b[3"), "no colours: {seen}");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_as_wide_as_the_terminal() {
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), &format!("{}-a-long-name", "model-with".repeat(6)));
    let mut terminal = Terminal::run(&hive, &["list", "--quiet"], &[]);
    assert_eq!(terminal.ended().await, 0, "{}", terminal.seen());
    terminal.shows("ADDED").await;
    let seen = terminal.seen();
    for line in seen.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert_stable("list-80-columns", &seen.replace('\r', ""));
    // Elsewhere no name is broken.
    let piped = verb(&hive, &["list", "--quiet"]).await;
    assert!(piped.out.contains(&"model-with".repeat(6)), "{}", piped.out);
    assert_eq!(piped.err, "");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_has_colours_in_a_terminal_alone() {
    let hive = TestHive::start().await;
    let mut terminal = Terminal::run(&hive, &["show", "unknown"], &[]);
    assert_eq!(terminal.ended().await, 4);
    terminal.shows("\x1b[1;31merror:\x1b[0m").await;
    assert!(!verb(&hive, &["show", "unknown"]).await.err.contains('\x1b'));
    hive.stop().await;
}
