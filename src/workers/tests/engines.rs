//! Engines besides the built-in one: llama.cpp's server, and engines that the settings describe.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::*;
use crate::config::FlashAttention;
use crate::engine_store::{Build, EngineId, Measured, Provenance};
use crate::error::Code;

/// Settings with a fake `llama-server`, which ends with the test's process.
fn with_llama_server(config: &mut Config) {
    config.llama_server.enabled = true;
    config.llama_server.program = Some(format!("{FIXTURES}/fake-llama-server.sh").into());
    config.llama_server.flash_attention = Some(FlashAttention::Auto);
}

/// The names of the engines that were found.
async fn names(hive: &Hive) -> Vec<String> {
    hive.workers.engines().await.iter().map(|engine| engine.name.clone()).collect()
}

#[tokio::test]
async fn llama_server_is_preferred_and_gets_its_flags_but_its_key_only_in_the_environment() {
    let hive = Hive::with(with_llama_server);
    assert_eq!(names(&hive).await, ["llama-server", "builtin"]);
    assert_eq!(hive.workers.engines().await[0].version.as_deref(), Some("4567 (0a1b2c3)"));
    let wanted = StartRequest { slots: Some(3), ..request("healthy") };
    let (worker, narrations) = narrated(hive.workers.start(wanted, &CancellationToken::new())).await;
    let worker = worker.unwrap();
    assert_eq!((worker.engine.as_str(), worker.slots), ("llama-server", 4));
    assert!(has_narration(&narrations, "worker_choose", "preferred for cpu to builtin"), "{narrations:#?}");
    for flags in ["--host 127.0.0.1", "--ctx-size 24576 --parallel 3", "--flash-attn auto", "--threads"] {
        assert!(has_narration(&narrations, "worker_command", flags), "{flags}: {narrations:#?}");
    }
    let log = std::fs::read_to_string(hive.workers.log(worker.pid).unwrap()).unwrap();
    assert!(log.contains("LLAMA_API_KEY"), "the key is in its environment: {log}");
    let secret = hive.workers.secret(worker.pid).unwrap();
    assert!(!narrations.iter().any(|line| line.message.contains(secret.expose())));
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    hive.finish().await;
}

#[tokio::test]
async fn progress_in_an_engines_log_is_narrated() {
    let hive = Hive::with(|config| {
        with_llama_server(config);
        config.timers.progress = Duration::ZERO.into();
    });
    let gate = hive.folder.path().join("gate");
    let behaviour = format!("dots:{}", gate.display());
    let (sender, mut entries) = mpsc::unbounded_channel();
    let context = NarrationContext::new("job-1".into(), "test", sender);
    let start = with_narration_context(context, hive.start(&behaviour));
    // The engine writes 25 dots at a time, and the next ones when the narration has the last ones.
    let let_on = async {
        for turn in 1..=4 {
            loop {
                let Some(Entry::Narration(narration)) = entries.recv().await else { panic!("turn {turn}") };
                if narration.progress.is_some_and(|progress| progress.done == 25 * turn) {
                    let message = format!("has loaded {} %", 25 * turn);
                    assert!(narration.message.contains(&message), "{}", narration.message);
                    break;
                }
            }
            std::fs::write(gate.with_extension(turn.to_string()), "").unwrap();
        }
    };
    let (worker, ()) = tokio::time::timeout(LONG, async { tokio::join!(start, let_on) }).await.unwrap();
    hive.workers.stop(worker.unwrap().pid, LONG).await.unwrap();
    hive.finish().await;
}

#[tokio::test]
async fn growing_memory_counts_as_progress_for_an_engine_that_reports_none() {
    let hive = Hive::with(|config| {
        with_llama_server(config);
        config.timers.readiness = Duration::from_millis(1500).into();
    });
    let (worker, narrations) = narrated(hive.start("grows")).await;
    // The load took twice as long as a worker may go without progress.
    hive.workers.stop(worker.unwrap().pid, LONG).await.unwrap();
    let held = progress(&narrations);
    assert!(held.len() > 1 && held.is_sorted(), "{held:?}");
    assert!(has_narration(&narrations, "worker_load", "has taken"), "{narrations:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn a_worker_that_ends_while_its_port_is_checked_is_not_mistaken_for_another_process() {
    let hive = Hive::with(with_llama_server);
    for _ in 0..as_time_allows(4, 40) {
        let (failure, narrations) = narrated(hive.start("flashes")).await;
        let failure = failure.unwrap_err();
        assert_eq!((failure.code, failure.exit_code), (Code::WorkerFailed, Some(1)), "{narrations:#?}");
        assert!(failure.hint.unwrap().contains("update the engine"));
        assert!(!has_narration(&narrations, "worker_retry", ""), "{narrations:#?}");
    }
    hive.finish().await;
}

#[tokio::test]
async fn a_start_whose_port_is_taken_is_repeated_three_times() {
    let hive = Hive::with(with_llama_server);
    std::fs::create_dir(hive.config.jobs_dir()).unwrap();
    let state = hive.folder.path().join("failures");
    let behaviour = format!("taken:{}", state.display());
    std::fs::write(&state, "1\n2\n3\n").unwrap();
    let (worker, narrations) = narrated(hive.start(&behaviour)).await;
    hive.workers.stop(worker.unwrap().pid, LONG).await.unwrap();
    let retries = narrations.iter().filter(|line| line.action == "worker_retry").count();
    assert_eq!(retries, 3, "{narrations:#?}");
    let kept = std::fs::read_dir(hive.config.jobs_dir()).unwrap();
    let kept: Vec<_> = kept.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kept.len(), 3, "each attempt's log is kept");
    assert!(kept.iter().all(|name| name.starts_with("job-1.worker-") && name.ends_with(".log")), "{kept:?}");
    std::fs::write(&state, "1\n2\n3\n4\n").unwrap();
    let failure = hive.start(&behaviour).await.unwrap_err();
    assert_eq!(failure.code, Code::PortInUse);
    assert!(failure.log_tail.iter().any(|line| line.contains("couldn't bind")), "{:?}", failure.log_tail);
    hive.finish().await;
}

#[tokio::test]
async fn an_engine_of_the_settings_is_run_as_described() {
    let settings = format!(
        r#"
        [engines.other]
        command = ["{FIXTURES}/fake-llama-server.sh", "--port", "{{port}}", "--model", "{{model}}",
            "--alias", "{{model_id}}", "--max-model-len={{context_length}}", "--slots", "{{slots}}"]
        devices = ["cpu"]
        env = {{ LLAMA_DEVICE = "{{device}}" }}
        secret_env = "LLAMA_SECRET"
        [engines.absent]
        command = ["/no/such/program", "{{model}}", "{{port}}"]
        devices = ["cpu"]
        "#
    );
    let parsed: Config = toml::from_str(&settings).unwrap();
    parsed.validate().unwrap();
    let hive = Hive::with(|config| config.engines = parsed.engines);
    assert_eq!(names(&hive).await, ["other", "builtin"]);
    let unusable = hive.workers.unusable_engines().await;
    assert_eq!(
        unusable,
        [(
            "absent".to_owned(),
            "/no/such/program is not there, or may not be executed (setting: [engines.absent] command)"
                .to_owned()
        )]
    );
    let wanted = StartRequest { engine: "other".to_owned(), device: Device::Auto, ..request("healthy") };
    let (worker, narrations) = narrated(hive.workers.start(wanted, &CancellationToken::new())).await;
    let worker = worker.unwrap();
    assert!(has_narration(&narrations, "worker_command", "--max-model-len=512 --slots 1"), "{narrations:#?}");
    let log = std::fs::read_to_string(hive.workers.log(worker.pid).unwrap()).unwrap();
    assert!(log.contains("LLAMA_DEVICE") && log.contains("LLAMA_SECRET"), "{log}");
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    hive.finish().await;
}

/// Installs a build of the fake llama-server.
fn install(hive: &Hive, id: &str, version: &str, speed: Option<f64>) -> PathBuf {
    let id: EngineId = id.parse().unwrap();
    let draft = hive.store.draft(id).unwrap();
    let program = draft.path().join("llama-server");
    std::fs::write(&program, format!("#!/bin/sh\nexec {FIXTURES}/fake-llama-server.sh \"$@\"\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let measured = speed.map(|tokens_per_second| Measured {
        model: "m".to_owned(),
        prompt_per_second: 1.0,
        tokens_per_second,
    });
    let build = Build { measured, ..Build::new(version.to_owned(), program, Provenance::Release) };
    hive.store.promote(draft, id, build).unwrap().current.program
}

#[tokio::test]
async fn builds_that_were_installed_are_found_when_it_is_looked_again() {
    let hive = Hive::new();
    assert_eq!(names(&hive).await, ["builtin"]);
    install(&hive, "llama-server-cpu", "b1", None);
    install(&hive, "llama-server-cuda", "b1", Some(50.0));
    install(&hive, "llama-server-vulkan", "b1", Some(60.0));
    let broken = install(&hive, "llama-server-rocm", "b1", None);
    std::fs::write(broken, "#!/bin/sh\nexit 3\n").unwrap();
    assert_eq!(names(&hive).await, ["builtin"], "nobody has looked");
    hive.workers.look_again().await;
    let found = ["llama-server-vulkan", "llama-server-cuda", "llama-server-cpu", "builtin"];
    assert_eq!(names(&hive).await, found, "those for GPUs first, the faster one before the other");
    let unusable = hive.workers.unusable_engines().await;
    assert_eq!(unusable[0].0, "llama-server-rocm");
    assert!(unusable[0].1.contains("WorkerInstall"), "{unusable:?}");

    let wanted = StartRequest { engine: "llama-server".to_owned(), ..request("healthy") };
    let (worker, narrations) = narrated(hive.workers.start(wanted, &CancellationToken::new())).await;
    assert_eq!(worker.unwrap().engine, "llama-server-vulkan", "the first of the family");
    let reason = "it is the first llama-server for cpu; it wrote 60 tokens a second here with 'm'";
    assert!(has_narration(&narrations, "worker_choose", reason), "{narrations:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn a_worker_keeps_the_build_that_it_was_started_with_also_across_a_restart_of_the_hive() {
    let hive = Hive::with(adoption::leave_workers);
    let first = install(&hive, "llama-server-cpu", "b1", None);
    let worker = hive.start("healthy").await.unwrap();
    assert_eq!(worker.engine, "llama-server-cpu");
    let second = install(&hive, "llama-server-cpu", "b2", None);
    hive.workers.look_again().await;
    let other = hive.start("family").await.unwrap();
    let hive = adoption::restart_hive(hive, || {}).await;
    let adoption = hive.workers.adoption().unwrap();
    assert_eq!(adoption.adopted, [worker.pid, other.pid], "{adoption:?}");
    let folder = |program: &Path| program.parent().unwrap().to_owned();
    assert_eq!(hive.workers.running_from(&folder(&first)), [worker.pid]);
    assert_eq!(hive.workers.running_from(&folder(&second)), [other.pid]);
    hive.finish().await;
}

#[tokio::test]
async fn a_worker_and_the_removal_of_its_engine_exclude_each_other() {
    let hive = Hive::new();
    let program = install(&hive, "llama-server-cpu", "b1", None);
    let folders = || vec![program.parent().unwrap().to_owned()];
    hive.workers.look_again().await;
    let run = async || {
        let worker = hive.start("healthy").await.unwrap();
        assert_eq!(hive.workers.begin_removal(folders()).unwrap_err(), [worker.pid]);
        hive.workers.stop(worker.pid, LONG).await.unwrap();
    };
    let refuse = async || {
        let failure = hive.start("healthy").await.unwrap_err();
        assert_eq!((failure.code, failure.stage.as_deref()), (Code::EngineUnavailable, Some("start")));
        assert!(failure.message.contains("'llama-server-cpu' was removed while"), "{failure:?}");
        assert!(hive.workers.list().is_empty());
    };
    run().await;
    let removal = hive.workers.begin_removal(folders()).unwrap();
    refuse().await;
    drop(removal);
    run().await;
    // One that is gone since the engines were found.
    hive.store.remove("llama-server-cpu".parse().unwrap(), None).unwrap();
    refuse().await;
    hive.finish().await;
}

#[tokio::test]
async fn a_build_whose_workers_crash_again_and_again_names_the_way_back() {
    let hive = Hive::new();
    install(&hive, "llama-server-cpu", "b1", None);
    install(&hive, "llama-server-cpu", "b2", None);
    hive.workers.look_again().await;
    // Gives what is told of the crash.
    let crash = async |with: Signal| {
        let worker = hive.start("healthy").await.unwrap();
        let mut changes = hive.workers.changes();
        signal(worker.pid, with);
        change(&mut changes, |change| change.cause == Some(Cause::Crash)).await.message.unwrap()
    };
    for _ in 0..2 {
        assert!(!crash(Signal::ABORT).await.contains("goes back"));
    }
    let served = hive.start("healthy").await.unwrap();
    hive.workers.stop(served.pid, LONG).await.unwrap();
    for _ in 0..2 {
        assert!(!crash(Signal::ABORT).await.contains("goes back"), "one has served well meanwhile");
    }
    assert!(!crash(Signal::KILL).await.contains("goes back"), "that is the want of memory, or a person");
    assert_eq!(hive.workers.engine_troubles().await, [] as [String; 0]);
    let told = crash(Signal::ABORT).await;
    assert!(
        told.contains("3 workers in a row have crashed since llama-server-cpu b2 was installed"),
        "{told}"
    );
    let [trouble] = &hive.workers.engine_troubles().await[..] else { panic!("HiveCheck tells it") };
    assert!(told.ends_with(trouble), "{told}");
    let way_back = r#"{"WorkerInstall":{"worker_id":"llama-server-cpu","version":"b1"}} goes back"#;
    assert!(trouble.contains(way_back), "{trouble}");
    hive.finish().await;
}

#[tokio::test]
async fn a_build_that_fails_again_and_again_names_the_way_back() {
    let hive = Hive::new();
    let start = async |behaviour: &str| {
        let engine = "llama-server-cpu".to_owned();
        let wanted = StartRequest { engine, device: Device::Auto, ..request(behaviour) };
        hive.workers.start(wanted, &CancellationToken::new()).await
    };
    let hint = async |behaviour: &str| start(behaviour).await.unwrap_err().hint.unwrap_or_default();
    let way_back = r#"{"WorkerInstall":{"worker_id":"llama-server-cpu","version":"b1"}} goes back"#;
    install(&hive, "llama-server-cpu", "b1", None);
    hive.workers.look_again().await;
    for _ in 0..3 {
        assert!(!hint("quits").await.contains("goes back"), "there is no version before");
    }
    install(&hive, "llama-server-cpu", "b2", None);
    hive.workers.look_again().await;
    assert!(!hint("quits").await.contains("goes back"));
    let healthy = start("healthy").await.unwrap();
    hive.workers.stop(healthy.pid, LONG).await.unwrap();
    for _ in 0..2 {
        assert!(!hint("quits").await.contains("goes back"), "one start has succeeded meanwhile");
    }
    assert!(!hint("flashes").await.contains("goes back"), "that is the model's fault");
    assert_eq!(hive.workers.engine_troubles().await, [] as [String; 0]);
    let told = hint("quits").await;
    assert!(told.contains("3 starts in a row have failed since llama-server-cpu b2"), "{told}");
    assert!(told.contains(way_back), "{told}");
    let [trouble] = &hive.workers.engine_troubles().await[..] else { panic!("HiveCheck tells it") };
    assert!(told.ends_with(trouble), "{trouble}");
    hive.finish().await;
}
