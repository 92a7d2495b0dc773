//! Engines besides the built-in one: llama.cpp's server, and engines that the settings describe.

use super::*;
use crate::config::FlashAttention;
use crate::error::Code;

/// Settings with a fake `llama-server`, which ends with the test's process.
fn with_llama_server(config: &mut Config) {
    config.llama_server.enabled = true;
    config.llama_server.program = Some(format!("{FIXTURES}/fake-llama-server.sh").into());
    config.llama_server.flash_attention = Some(FlashAttention::Auto);
}

#[tokio::test]
async fn llama_server_is_preferred_and_gets_its_flags_but_its_key_only_in_the_environment() {
    let hive = Hive::with(with_llama_server);
    let engines: Vec<_> = hive.workers.engines().await.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(engines, ["llama-server", "builtin"]);
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
    let engines: Vec<_> = hive.workers.engines().await.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(engines, ["other", "builtin"]);
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
