//! The canary against builds that misbehave: scripts that run this test binary as their server ([`serve`]), and a
//! real llama-server where `RBEE_TEST_LLAMA_SERVER` names one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::config::{Config, DeviceKind, Sandboxing};
use crate::engine::sample_model::{SampleModel, SampleWeights};
use crate::engine_store::{EngineId, Measured};
use crate::error::{Code, Failure};
use crate::models::Catalog;
use crate::requests::Ledger;
use crate::spawn;
use crate::workers::Supervisor;

/// What the sample model says.
const SENTENCE: &str = "All is well with this engine.";

/// A hive's parts that try builds. At its end no worker is left.
struct Hive {
    canary: Canary,
    workers: Supervisor,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

/// What a scripted build does. It is sound by default.
#[derive(Clone, Copy)]
struct Script {
    version: &'static str,
    devices: &'static str,
    /// Before it serves.
    start: &'static str,
    /// `sound`, or how it misbehaves when it is asked.
    answers: &'static str,
    says: &'static str,
    /// Tokens a second, of prompts and of answers.
    speed: (u32, u32),
}

const SOUND: Script = Script {
    version: "echo 'version: 4567 (0a1b2c3)' >&2",
    devices: "",
    start: "",
    answers: "sound",
    says: SENTENCE,
    speed: (500, 50),
};

impl Hive {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        std::fs::create_dir(&models).unwrap();
        let mut config = Config {
            data_dir: folder.path().join("data"),
            models_dirs: vec![models],
            hub_cache: Some(PathBuf::new()),
            worker_program: Some("/no/such/program".into()),
            ..Config::default()
        };
        config.llama_server.enabled = false;
        config.workers.lifeline = true;
        // The scripts run this test binary, which is elsewhere.
        config.workers.sandbox = Sandboxing::Off;
        change(&mut config);
        let workers = Supervisor::new(&config, EngineStore::open(config.engines_dir())).unwrap();
        let catalog = Catalog::new(&config).unwrap();
        let canary = Canary::new(&config, workers.clone(), catalog, Ledger::default()).unwrap();
        Self { canary, workers, folder, stop: CancellationToken::new() }
    }

    /// Gives the person a model.
    fn add_model(&self) {
        let model = SampleModel {
            name: "own".to_owned(),
            weights: SampleWeights::Sentence("Yes.".to_owned()),
            ..SampleModel::default()
        };
        model.write(&self.folder.path().join("models/own.gguf")).unwrap();
    }

    /// A scripted build.
    fn build(&self, name: &str, script: Script) -> PathBuf {
        let path = self.folder.path().join(name);
        let Script { version, devices, start, answers, says, speed: (prompt, answer) } = script;
        let this = std::env::current_exe().unwrap();
        let text = format!(
            r#"#!/bin/sh
            case ${{1-}} in
                --version) {version}; exit ;;
                --list-devices) echo "Available devices:"; {devices}
                    exit ;;
            esac
            while [ $# -gt 0 ]; do
                case $1 in --port) port=$2 ;; esac
                shift
            done
            echo loading
            {start}
            export SCRIPTED_PORT="$port" SCRIPTED_ANSWERS='{answers}' SCRIPTED_SAYS='{says}'
            export SCRIPTED_PROMPT={prompt} SCRIPTED_ANSWER={answer} SCRIPTED_NAME='{name}'
            exec '{}' --exact engines::canary::tests::serve --ignored --nocapture
            "#,
            this.display()
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn prove(&self, id: &str, program: PathBuf, before: Option<PathBuf>) -> Result<Proof, Unproven> {
        let candidate =
            Candidate { id: id.parse().unwrap(), version: "b2".to_owned(), program, has_device: true };
        let before = before.map(|program| Build::new("b1".to_owned(), program, Provenance::Release));
        let folder = self.folder.path().join("engines");
        let proved = self.canary.prove(&candidate, before.as_ref(), &folder, &self.stop).await;
        assert!(self.workers.list().is_empty(), "no worker is left");
        if folder.exists() {
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "the sample model is removed");
        }
        proved
    }

    /// Why a scripted build for the processor fails, at which stage, and its log.
    async fn refuse(&self, script: Script) -> (Failure, String) {
        refused(self.prove("llama-server-cpu", self.build("new", script), None).await)
    }
}

fn refused(proved: Result<Proof, Unproven>) -> (Failure, String) {
    match proved.expect_err("it does not prove itself") {
        Unproven::Failed { failure, log } => {
            assert_eq!(failure.code, Code::EngineUnproven);
            (failure, log.join("\n"))
        }
        Unproven::Undecided(failure) => panic!("{failure:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_build_proves_itself_and_is_measured_where_there_is_a_model() {
    let hive = Hive::new();
    let proof = hive.prove("llama-server-cpu", hive.build("new", SOUND), None).await.unwrap();
    assert_eq!(proof.reported_version.as_deref(), Some("4567 (0a1b2c3)"));
    assert_eq!((&proof.devices[..], proof.measured), (&["cpu".to_owned()][..], None));
    assert!(proof.remarks[0].contains("no model for text"), "{:?}", proof.remarks);

    hive.add_model();
    let proof = hive.prove("llama-server-cpu", hive.build("new", SOUND), None).await.unwrap();
    let measured = Measured { model: "own".to_owned(), prompt_per_second: 500.0, tokens_per_second: 50.0 };
    assert_eq!((proof.measured, proof.remarks), (Some(measured), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_build_does_wrong_is_told_with_its_stage_and_a_next_step() {
    let hive = Hive::new();
    for (script, stage, said, hint) in [
        (
            Script {
                version: "echo 'x: error while loading shared libraries: libgomp.so.1: cannot open shared object \
                          file: No such file' >&2; exit 127",
                ..SOUND
            },
            "start",
            "exit code 127",
            "install the package libgomp1",
        ),
        (
            Script {
                version: "echo \"/lib/x86_64-linux-gnu/libc.so.6: version \\`GLIBC_2.38' not found (required by x)\" \
                          >&2; exit 1",
                ..SOUND
            },
            "start",
            "exit code 1 (/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by x))",
            "a newer system, which has GLIBC_2.38: use an older version of the engine, or one that is built on this \
             machine (WorkerInstall with \"from\": \"source\"",
        ),
        (Script { version: "kill -ILL $$", ..SOUND }, "start", "SIGILL", "another processor"),
        (Script { devices: "exit 3", ..SOUND }, "devices", "exit code 3", "log"),
        (
            Script { start: "echo 'unknown model architecture: llama'; exit 1", ..SOUND },
            "load",
            "exit code 1",
            "update the engine",
        ),
        (Script { answers: "crash", ..SOUND }, "answer", "SIGABRT", "defect"),
        (Script { answers: "refuse", ..SOUND }, "answer", "500", "another version"),
        (Script { says: "All is lost.", ..SOUND }, "answer", "said 'All is lost.'", "computes wrongly"),
        (
            Script { start: "echo 'CUDA error: an illegal memory access'", ..SOUND },
            "answer",
            "CUDA error",
            "another version",
        ),
        #[cfg(target_os = "linux")]
        (
            Script { start: "setsid sleep 1000 &", ..SOUND },
            "unload",
            "left 1 process(es) behind",
            "end what is left",
        ),
    ] {
        let (failure, log) = hive.refuse(script).await;
        assert_eq!(failure.stage.as_deref(), Some(stage), "{failure:?}");
        let about = [&failure.message, failure.signal.as_deref().unwrap_or_default()].join(" ");
        assert!(
            about.starts_with("llama-server-cpu b2 did not prove itself") && about.contains(said),
            "{failure:?}"
        );
        assert!(failure.hint.as_ref().unwrap().contains(hint), "{failure:?}");
        assert!(log.contains(&failure.message), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_for_another_kind_of_system_is_told_as_such() {
    let hive = Hive::new();
    let program = hive.build("new", SOUND);
    std::fs::write(&program, "#!/no/such/linker\n").unwrap();
    let (failure, _) = refused(hive.prove("llama-server-cpu", program, None).await);
    assert_eq!(failure.stage.as_deref(), Some("start"));
    assert!(failure.message.ends_with("is not here"), "{failure:?}");
    assert!(failure.hint.unwrap().contains("another kind of system"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_hangs_fails_and_a_cancelled_try_leaves_nothing() {
    let hive = Hive::with(|config| config.timers.readiness = Duration::from_secs(2).into());
    for (script, stage) in [
        (Script { version: "exec sleep 1000", ..SOUND }, "start"),
        (Script { start: "exec sleep 1000", ..SOUND }, "load"),
        (Script { answers: "hang", ..SOUND }, "answer"),
    ] {
        let (failure, _) = hive.refuse(script).await;
        assert_eq!(failure.stage.as_deref(), Some(stage), "{failure:?}");
        assert!(failure.message.contains("hang") || failure.message.contains("within 2"), "{failure:?}");
    }

    let hive = Hive::new();
    let program = hive.build("new", Script { answers: "hang", ..SOUND });
    let cancel = async {
        while hive.workers.list().iter().all(|worker| !worker.status.serves()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        hive.stop.cancel();
    };
    let (proved, ()) = tokio::join!(hive.prove("llama-server-cpu", program, None), cancel);
    let Err(Unproven::Undecided(failure)) = proved else { panic!("{proved:?}") };
    assert_eq!(failure.code, Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_for_a_gpu_must_find_it() {
    let hive = Hive::new();
    let (failure, _) = refused(hive.prove("llama-server-cuda", hive.build("new", SOUND), None).await);
    assert_eq!(failure.stage.as_deref(), Some("devices"));
    assert!(failure.message.contains("does not find the GPU: it listed cpu"), "{failure:?}");
    assert!(failure.hint.unwrap().contains("driver"));
    // One that finds it answers on it, and on the processor.
    let devices = "echo '  CUDA0: NVIDIA H200 (1000 MiB, 900 MiB free)'";
    let program = hive.build("new", Script { devices, ..SOUND });
    let proof = hive.prove("llama-server-cuda", program, None).await.unwrap();
    assert_eq!(proof.devices, ["cuda:0", "cpu"]);
    // Where there is no GPU, it is told that none was tried.
    let candidate = Candidate {
        id: EngineId { kind: DeviceKind::Cuda },
        version: "b2".to_owned(),
        program: hive.build("new", SOUND),
        has_device: false,
    };
    let folder = hive.folder.path().join("engines");
    let proof = hive.canary.prove(&candidate, None, &folder, &hive.stop).await.unwrap();
    assert!(proof.remarks[0].contains("only the processor was tried"), "{:?}", proof.remarks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_compared_with_the_version_before() {
    let hive = Hive::new();
    hive.add_model();
    let old = hive.build("old", SOUND);
    let compare = async |script: Script| {
        hive.prove("llama-server-cpu", hive.build("new", script), Some(old.clone())).await
    };
    let proof = compare(Script { speed: (410, 70), ..SOUND }).await.unwrap();
    assert_eq!(proof.measured.as_ref().map(|measured| measured.tokens_per_second.round()), Some(70.0));
    assert_eq!(proof.remarks, [] as [String; 0]);

    let (failure, log) = refused(compare(Script { speed: (500, 35), ..SOUND }).await);
    assert_eq!(failure.stage.as_deref(), Some("speed"), "{failure:?}");
    assert!(
        failure.message.contains("with 'own' it writes 35.0 tokens a second, the version before 50.0"),
        "{failure:?}"
    );
    assert!(log.contains("== on cpu, with a sample model =="), "{log}");
    let (failure, _) = refused(compare(Script { speed: (300, 50), ..SOUND }).await);
    assert!(failure.message.contains("it reads 300.0 tokens a second"), "{failure:?}");

    // Slow once is not slow.
    let proof = compare(Script { answers: "slow-once", ..SOUND }).await.unwrap();
    assert_eq!(proof.measured.map(|measured| measured.tokens_per_second.round()), Some(50.0));
    // Another text is no failure.
    let proof = compare(Script { answers: "otherwise", ..SOUND }).await.unwrap();
    assert!(proof.remarks[0].contains("answers otherwise than the version before"), "{:?}", proof.remarks);
    // A crash with the person's model is one.
    let (failure, _) = refused(compare(Script { answers: "crash-later", ..SOUND }).await);
    assert_eq!((failure.stage.as_deref(), failure.signal.as_deref()), (Some("answer"), Some("SIGABRT")));
    // Where the version before does not work, nothing is compared.
    let broken = hive.build("broken", Script { answers: "crash", ..SOUND });
    let new = hive.build("new", SOUND);
    let proof = hive.prove("llama-server-cpu", new, Some(broken)).await.unwrap();
    assert!(proof.remarks[0].contains("the version before does not answer"), "{:?}", proof.remarks);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_set_aside_with_its_log_and_what_cannot_be_tried_is_not() {
    let hive = Hive::new();
    let store = EngineStore::open(hive.folder.path().join("engines"));
    let id: EngineId = "llama-server-cpu".parse().unwrap();
    let try_it = async |script: Script, stop: &CancellationToken| {
        let draft = store.draft(id).unwrap();
        let program = draft.path().join("llama-server");
        std::fs::rename(hive.build("new", script), &program).unwrap();
        let candidate = Candidate { id, version: "b2".to_owned(), program, has_device: true };
        hive.canary.prove_draft(&store, draft, Provenance::Release, &candidate, None, stop).await
    };
    let failure = try_it(Script { says: "No.", ..SOUND }, &hive.stop).await.unwrap_err();
    let [failed] = &store.failures()[..] else { panic!("{:?}", store.failures()) };
    assert_eq!((failed.id, &*failed.version), (id, "b2"));
    assert!(failure.message.ends_with(&format!("; its log is {}", failed.log.display())), "{failure:?}");
    let log = std::fs::read_to_string(&failed.log).unwrap();
    assert!(log.contains(&failed.reason) && log.contains("== on cpu"), "{log}");
    assert_eq!(store.installed(), []);

    let stopped = CancellationToken::new();
    stopped.cancel();
    let failure = try_it(SOUND, &stopped).await.unwrap_err();
    assert_eq!((failure.code, store.failures().len()), (Code::Cancelled, 1));
    let (draft, _proof) = try_it(SOUND, &hive.stop).await.unwrap();
    assert!(draft.path().join("llama-server").exists(), "it is the caller's to promote");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_left_out_and_told() {
    let hive = Hive::with(|config| {
        config.memory = toml::from_str("reserve = { cpu = \"1000TB\" }").unwrap();
    });
    hive.add_model();
    let proof = hive.prove("llama-server-cpu", hive.build("new", SOUND), None).await.unwrap();
    let [sample, own] = &proof.remarks[..] else { panic!("{:?}", proof.remarks) };
    assert!(sample.contains("was not tried on cpu, which has no room now"), "{sample}");
    assert!(own.contains("does not fit once beside what is in memory"), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_proves_itself_against_itself() {
    let Some(program) = std::env::var_os("RBEE_TEST_LLAMA_SERVER").map(PathBuf::from) else {
        let _written = writeln!(std::io::stderr(), "skipped: RBEE_TEST_LLAMA_SERVER names no llama-server");
        return;
    };
    let hive = Hive::new();
    hive.add_model();
    let proof = hive.prove("llama-server-cpu", program.clone(), None).await.unwrap();
    let measured = proof.measured.expect("it tells its speed");
    assert!(measured.prompt_per_second > 1.0 && measured.tokens_per_second > 1.0, "{measured:?}");
    // On a loaded machine one may seem slower than itself; nothing else may be found.
    match hive.prove("llama-server-cpu", program.clone(), Some(program)).await {
        Ok(proof) => assert_eq!(proof.remarks, [] as [String; 0]),
        Err(Unproven::Failed { failure, .. }) => {
            assert_eq!(failure.stage.as_deref(), Some("speed"), "{failure:?}");
        }
        Err(Unproven::Undecided(failure)) => panic!("{failure:?}"),
    }
}

/// Not a test: scripts run it as a server.
#[test]
#[ignore = "runs as an engine of other tests"]
fn serve() {
    let Ok(port) = std::env::var("SCRIPTED_PORT") else { return };
    // It ends with its hive.
    spawn::thread("lifeline", || {
        while std::io::stdin().read(&mut [0]).is_ok_and(|read| read > 0) {}
        std::process::exit(0);
    })
    .unwrap();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        if let Some((head, question)) = request(&mut connection) {
            let answer = if head.starts_with("GET") { json!({ "status": "ok" }) } else { answer(&question) };
            let status = if answer["error"].is_null() { 200 } else { 500 };
            let body = answer.to_string();
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            );
            let _gone = connection.write_all((head + &body).as_bytes());
        }
    }
}

fn request(connection: &mut TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(connection);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).unwrap_or_default()))
}

/// The answer to a question. The longer one is about the person's model.
fn answer(question: &Value) -> Value {
    use std::sync::atomic::{AtomicU32, Ordering};

    static ASKED: AtomicU32 = AtomicU32::new(0);
    let read = |name: &str| std::env::var(name).unwrap();
    let number = |name: &str| read(name).parse::<f64>().unwrap();
    let is_measured = question["ignore_eos"] == true;
    let asked = ASKED.fetch_add(1, Ordering::Relaxed);
    let (mut says, mut speed) = (read("SCRIPTED_SAYS"), number("SCRIPTED_ANSWER"));
    assert_eq!((&question["temperature"], &question["cache_prompt"]), (&json!(0), &json!(false)));
    match read("SCRIPTED_ANSWERS").as_str() {
        "crash" => std::process::abort(),
        "crash-later" if is_measured => std::process::abort(),
        "hang" => std::thread::sleep(Duration::from_secs(1000)),
        "refuse" => return json!({ "error": { "message": "no" } }),
        "otherwise" if is_measured => says = "Otherwise.".to_owned(),
        "slow-once" if asked < 3 => speed /= 4.0,
        _ => {}
    }
    let message = json!({ "role": "assistant", "content": says });
    let timings = json!({ "prompt_n": 200, "prompt_ms": 200_000.0 / number("SCRIPTED_PROMPT"),
                          "predicted_n": 48, "predicted_ms": 48_000.0 / speed });
    json!({ "choices": [{ "index": 0, "message": message }], "timings": timings })
}
