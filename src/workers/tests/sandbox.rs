//! What a worker is refused by the kernel, and what it gets all the same.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::sandbox::{Allowed, Sandbox, in_force};
use super::*;
use crate::config::EngineSettings;
use crate::spawn;

/// A model that is a link to its file, as in the Hub's cache, and what is none of a worker's business.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// `None` where the kernel cannot restrict a process.
    async fn new() -> Option<Self> {
        let what = spawn::blocking(|| in_force(&Config::default().workers, &[])).await.unwrap();
        if !what.contains("restricted (Landlock ABI") {
            println!("skipped: {what}");
            return None;
        }
        assert!(what.starts_with("no new privileges; files"), "{what}");
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["blobs", "models", "elsewhere/bin", "own/room", "bin", "lib"] {
            std::fs::create_dir_all(machine.path(name)).unwrap();
        }
        symlink("../blobs/1", machine.path("models/model.gguf")).unwrap();
        let files = [
            "blobs/1",
            "elsewhere/secret",
            "elsewhere/adapter",
            "elsewhere/table",
            "bin/notes",
            "own/record",
        ];
        for name in files.into_iter().chain(["bin/libx.so.1", "lib/liby.so"]) {
            std::fs::write(machine.path(name), name).unwrap();
        }
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A shell script as a program. Another process writes it: what this one has open for writing while it starts a
    /// child elsewhere cannot be run.
    async fn script(&self, name: &str, text: &str) -> PathBuf {
        let program = self.path(name);
        let mut write = spawn::command("sh");
        write.args(["-c", "printf '%s' \"$1\" >\"$0\" && chmod 755 \"$0\""]);
        write.arg(&program).arg(format!("#!/bin/sh\n{text}"));
        assert!(write.status().await.unwrap().success());
        program
    }

    /// Says whether it could read its model, the secret and what its command and its variable name, and whether it
    /// could write into the folder for its temporary files; and ends. It learns their places from its model's.
    async fn tries(&self) -> PathBuf {
        let text = "for word; do case $word in *model.gguf) model=${word#*=} ;; esac; done\n\
                    there=${model%/models/*}/elsewhere\n\
                    cat \"$model\" >/dev/null && echo 'tried model'\n\
                    for name in secret adapter table; do\n\
                    cat \"$there/$name\" >/dev/null && echo \"tried $name\"\n\
                    done\n\
                    case ${TMPDIR-} in */work)\n\
                    echo >\"$TMPDIR/own\" && echo 'tried own'\n\
                    echo >\"$TMPDIR/../record.json\" && echo 'tried record' ;;\n\
                    esac\n\
                    exit 3\n";
        self.script("bin/worker", text).await
    }

    /// What a worker of the engine could do, and how its failure was explained.
    async fn could(&self, engine: &str, sandbox: Sandboxing, described: bool) -> (String, String) {
        let (program, adapter, table) =
            (self.tries().await, self.path("elsewhere/adapter"), self.path("elsewhere/table"));
        let hive = Hive::with(|config| {
            config.workers.sandbox = sandbox;
            config.worker_program = Some(program.clone());
            let mut probe: EngineSettings =
                toml::from_str("command = [\"x\", \"{model}\", \"{port}\"]\ndevices = [\"cpu\"]").unwrap();
            probe.command[0] = program.display().to_string();
            probe.command.push(format!("--adapter={}", adapter.display()));
            probe.env.insert("TABLES".to_owned(), format!("{}:/no/such", table.display()));
            probe.sandbox = described;
            config.engines.insert("probe".to_owned(), probe);
        });
        let model_path = self.path("models/model.gguf");
        let asked = StartRequest { model_path, engine: engine.to_owned(), ..request("tries") };
        let failure = hive.workers.start(asked, &CancellationToken::new()).await.unwrap_err();
        let could: Vec<_> = failure.log_tail.iter().filter_map(|line| line.strip_prefix("tried ")).collect();
        hive.finish().await;
        (could.join(" "), failure.hint.unwrap_or_default())
    }

    /// Why the workers of this llama-server are not restricted.
    async fn unrestricted(&self, program: &Path) -> Option<String> {
        let hive = Hive::with(|config| config.workers.sandbox = Sandboxing::Auto);
        let engine = hive.workers.describe("llama-server-cpu", program).await.unwrap();
        hive.finish().await;
        engine.unrestricted().map(str::to_owned)
    }
}

#[tokio::test]
async fn what_is_restricted_reads_its_model_and_reaches_nothing_else() {
    let Some(machine) = Machine::new().await else { return };
    let mut other =
        spawn::command("cat").stdin(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let pid = rustix::process::Pid::from_raw(other.id().unwrap().cast_signed()).unwrap();
    let memory = PathBuf::from(format!("/proc/{}/mem", other.id().unwrap()));
    let look_into = || std::fs::OpenOptions::new().read(true).open(&memory).map(drop);
    look_into().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let model = machine.path("models/model.gguf");
    let allowed = Allowed {
        program: machine.tries().await,
        reads: vec![model.clone()],
        writes: vec![machine.path("own/room")],
        port: Some(port),
        ..Allowed::default()
    };
    let read = |path: PathBuf| std::fs::read(path).map(drop);
    let write = |path: PathBuf| std::fs::OpenOptions::new().write(true).open(path).map(drop);
    let path = |name: &str| machine.path(name);
    let make_disk = || -> std::io::Result<()> {
        let kind = rustix::fs::FileType::BlockDevice;
        let (at, mode) = (path("own/room/disk"), rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, at, kind, mode, 0).map_err(Into::into)
    };
    // A thread is restricted as a process is.
    let attempts = Sandbox::prepare(allowed).await.unwrap().start(|| {
        Ok([
            ("model", read(model.clone())),
            ("system", read("/bin/sh".into())),
            ("own program", read(path("bin/worker"))),
            ("library beside it", read(path("bin/libx.so.1"))),
            ("library in lib", read(path("lib/liby.so"))),
            ("names beside it", std::fs::read_dir(path("bin")).map(drop)),
            ("own", std::fs::write(path("own/room/x"), "x")),
            ("device", write("/dev/null".into())),
            ("listen", TcpListener::bind(("127.0.0.1", port)).map(drop)),
            ("secret", read(path("elsewhere/secret"))),
            ("file beside it", read(path("bin/notes"))),
            ("names beside the model", std::fs::read_dir(path("models")).map(drop)),
            ("names of devices", std::fs::read_dir("/dev").map(drop)),
            ("passwords", read("/etc/shadow".into())),
            ("make a file", std::fs::write(path("elsewhere/new"), "x")),
            ("change the record", write(path("own/record"))),
            ("change the model", write(model.clone())),
            ("make a disk", make_disk()),
            ("listen elsewhere", TcpListener::bind("127.0.0.1:0").map(drop)),
            ("connect", TcpStream::connect(address).map(drop)),
            ("signal", rustix::process::test_kill_process(pid).map_err(Into::into)),
            ("memory of another", look_into()),
        ])
    });
    let (in_force, attempts) = (attempts.0.unwrap(), attempts.1.unwrap());
    let done: Vec<_> = attempts.iter().filter(|(_, result)| result.is_ok()).map(|(what, _)| *what).collect();
    let version: u32 = in_force.rsplit_once(' ').unwrap().1.trim_end_matches(')').parse().unwrap();
    let mut expected: Vec<_> = attempts[..9].iter().map(|(what, _)| *what).collect();
    if version < 4 {
        expected.extend(["listen elsewhere", "connect"]);
    }
    if version < 6 {
        expected.push("signal");
    }
    assert_eq!(done, expected, "{in_force}: {attempts:?}");
    other.kill().await.unwrap();
}

#[tokio::test]
async fn workers_are_restricted_as_the_settings_say() {
    let Some(machine) = Machine::new().await else { return };
    let all = "model secret adapter table";
    for (engine, sandbox, described, expected) in [
        ("builtin", Sandboxing::Auto, false, "model own"),
        ("probe", Sandboxing::Auto, true, "model adapter table own"),
        ("probe", Sandboxing::Auto, false, all),
        ("builtin", Sandboxing::Off, true, all),
    ] {
        let (could, hint) = machine.could(engine, sandbox, described).await;
        assert_eq!(could, expected, "{engine} {sandbox:?} {described}");
        let names_the_sandbox = hint.contains("[workers] sandbox = \"off\"");
        assert_eq!(names_the_sandbox, expected != all, "{engine} {sandbox:?} {described}: {hint}");
    }
}

#[tokio::test]
async fn an_engine_that_does_not_run_restricted_runs_without_and_that_is_told() {
    let Some(machine) = Machine::new().await else { return };
    let tells =
        "case $1 in --version) echo 'version: 1' ;; --list-devices) echo 'Available devices:' ;; esac\n";
    let real = machine.script("elsewhere/bin/llama-server", tells).await;
    assert_eq!(machine.unrestricted(&real).await, None);
    // A script that names the program runs restricted, also behind a link; one that computes its place does not.
    let names = machine.script("bin/names", &format!("exec '{}' \"$@\"\n", real.display())).await;
    symlink(&names, machine.path("models/llama-server")).unwrap();
    assert_eq!(machine.unrestricted(&machine.path("models/llama-server")).await, None);
    let computes = format!(
        "there='{}'\nexec \"$there\"/elsewhere/bin/llama-server \"$@\"\n",
        machine.folder.path().display()
    );
    let why = machine.unrestricted(&machine.script("bin/computes", &computes).await).await.unwrap();
    assert!(why.contains("bin/computes does not run: --list-devices ended with exit code 126"), "{why}");
    assert!(why.contains("ermission denied"), "{why}");
    // A GPU whose driver needs more.
    let gpu = format!(
        "{tells}[ $1 = --version ] || ! cat '{}/'secret >/dev/null || echo 'CUDA0: X'\n",
        machine.path("elsewhere").display()
    );
    let why = machine.unrestricted(&machine.script("bin/gpu", &gpu).await).await.unwrap();
    assert!(why.ends_with("bin/gpu does not find the same GPUs"), "{why}");

    let engines = [("llama-server".to_owned(), why)];
    let told = spawn::blocking(move || in_force(&Config::default().workers, &engines)).await.unwrap();
    assert!(told.contains("but for the workers of llama-server (within it "), "{told}");
    let off = crate::config::Workers { sandbox: Sandboxing::Off, ..Config::default().workers };
    let told = spawn::blocking(move || in_force(&off, &[])).await.unwrap();
    assert!(told.ends_with("not restricted: [workers] sandbox is \"off\""), "{told}");
}
