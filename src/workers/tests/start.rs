//! Starts that succeed, fail, are cancelled and are refused.

use std::net::TcpListener;

use super::*;
use crate::engine::sample_model::SampleModel;
use crate::error::Code;
use crate::spawn;

#[tokio::test]
async fn a_worker_becomes_ready_and_stops() {
    let hive = Hive::new();
    let (worker, narrations) = narrated(hive.start("healthy")).await;
    let worker = worker.unwrap();
    assert_eq!((worker.status, worker.device.as_str(), worker.slots), (Status::Ready, "cpu", 4));
    assert_eq!(worker.url, worker.port.map(|port| format!("http://127.0.0.1:{port}")));
    for (action, text) in [
        ("worker_choose", "'builtin' on cpu"),
        ("worker_command", "--context-length=512"),
        ("worker_spawn", "worker.log"),
        ("worker_log", "builtin: fake worker: healthy"),
        ("worker_listen", "listens on 127.0.0.1"),
        ("worker_ready", "is ready"),
    ] {
        assert!(has_narration(&narrations, action, text), "{action} {text}: {narrations:#?}");
    }
    let secret = hive.workers.secret(worker.pid).unwrap();
    assert!(!narrations.iter().any(|narration| narration.message.contains(secret.expose())));
    #[cfg(target_os = "linux")]
    {
        let argv = std::fs::read(format!("/proc/{}/cmdline", worker.pid)).unwrap();
        assert!(!String::from_utf8_lossy(&argv).contains(secret.expose()));
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", worker.pid)).unwrap();
        assert!(score.trim().parse::<i32>().unwrap() >= 300, "it goes before the daemon");
    }
    let on_the_processor = StartRequest { device: Device::CPU, ..request("healthy") };
    assert!(hive.workers.serves("healthy") && hive.workers.ready(&on_the_processor).is_some());
    hive.workers.refresh().await;
    let measured = hive.workers.get(worker.pid).unwrap();
    assert!(measured.rss_bytes > 100_000 && measured.requests == 7 && measured.tokens_generated == 99);

    let (stopped, narrations) = narrated(hive.workers.stop(worker.pid, LONG)).await;
    let stopped = stopped.unwrap();
    assert_eq!((stopped.pid, stopped.signal.as_deref()), (worker.pid, Some("SIGTERM")));
    assert!(stopped.freed_bytes > 100_000);
    assert!(has_narration(&narrations, "worker_gone", "is gone"), "{narrations:#?}");
    assert!(hive.workers.list().is_empty());
    assert!(hive.folder.path().join("workers").join(&worker.worker_id).join("worker.log").exists());
    hive.finish().await;
}

#[tokio::test]
async fn each_progress_of_a_load_is_narrated() {
    let hive = Hive::with(|config| config.timers.progress = Duration::ZERO.into());
    let (worker, narrations) = narrated(hive.start("slow")).await;
    worker.unwrap();
    assert_eq!(progress(&narrations), [0, 1, 2, 3, 4, 5, 6, 7]);
    hive.finish().await;
}

#[tokio::test]
async fn a_reported_failure_is_returned_with_the_workers_exit() {
    let (failure, _) = Hive::new().fail_start("fails").await;
    assert_eq!(failure.code, Code::ModelCorrupt);
    assert_eq!(failure.message, "the file is truncated");
    assert_eq!(failure.hint.as_deref(), Some("download it again"));
    assert_eq!(failure.causes, ["tensor 3 ends beyond the file"]);
    assert_eq!((failure.stage.as_deref(), failure.exit_code), (Some("start"), Some(65)));

    let (failure, _) = Hive::new().fail_start("breaks").await;
    assert_eq!((failure.code, failure.exit_code), (Code::ModelUnsupported, Some(69)));
    assert_eq!(failure.stage.as_deref(), Some("load"));
    assert!(failure.log_tail.iter().any(|line| line == "the tensor is bad"), "{:?}", failure.log_tail);
}

#[tokio::test]
async fn an_exit_before_ready_is_returned_with_its_code_and_the_end_of_the_log() {
    let (failure, narrations) = Hive::new().fail_start("exits").await;
    assert_eq!((failure.code, failure.exit_code), (Code::WorkerFailed, Some(3)));
    assert_eq!(failure.log_tail, ["fake worker: exits", "line one", "the reason"]);
    assert!(failure.message.ends_with("ended before it was ready: exit code 3"), "{}", failure.message);
    assert!(
        has_narration(&narrations, "worker_log", "the reason")
            && has_narration(&narrations, "worker_gone", "Nothing is left")
    );
}

#[tokio::test]
async fn an_exit_code_for_a_signal_is_read_as_that_signal() {
    let (failure, _) = Hive::new().fail_start("passes_on").await;
    assert_eq!((failure.exit_code, failure.signal), (Some(137), None));
    assert!(failure.message.ends_with("exit code 137, which stands for SIGKILL"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("memory"));
}

#[tokio::test]
async fn the_end_of_the_log_decides_the_hint() {
    let (failure, _) = Hive::new().fail_start("starves").await;
    assert_eq!(failure.exit_code, Some(1));
    assert!(failure.hint.unwrap().starts_with("memory ran out"), "{:?}", failure.log_tail);
}

#[tokio::test]
async fn an_exit_while_loading_has_the_stage_load() {
    let (failure, narrations) = Hive::new().fail_start("quits").await;
    assert_eq!((failure.code, failure.exit_code), (Code::WorkerFailed, Some(7)));
    assert_eq!(failure.stage.as_deref(), Some("load"));
    assert!(has_narration(&narrations, "worker_listen", "loads the model"), "{narrations:#?}");
}

#[tokio::test]
async fn a_kill_before_ready_is_explained_by_memory() {
    let (failure, _) = Hive::new().fail_start("killed").await;
    assert_eq!((failure.code, failure.signal.as_deref()), (Code::WorkerFailed, Some("SIGKILL")));
    assert!(failure.hint.unwrap().contains("memory"));
}

#[tokio::test]
async fn a_group_ends_with_its_leader() {
    let (failure, _) = Hive::new().fail_start("orphans").await;
    assert_eq!(failure.exit_code, Some(5));
}

#[tokio::test]
async fn a_start_without_progress_times_out_and_names_what_it_waited_for() {
    let hasty = |config: &mut Config| config.timers.readiness = Duration::from_millis(600).into();
    let (failure, _) = Hive::with(hasty).fail_start("silent").await;
    assert_eq!((failure.code, failure.stage.as_deref()), (Code::Timeout, Some("start")));
    assert!(failure.message.contains("its report of where it listens"), "{}", failure.message);

    let later = |config: &mut Config| config.timers.readiness = Duration::from_secs(3).into();
    let (failure, _) = Hive::with(later).fail_start("stuck").await;
    assert_eq!((failure.code, failure.stage.as_deref()), (Code::Timeout, Some("load")));
    assert!(failure.message.contains("/health to answer"), "{}", failure.message);
}

#[tokio::test]
async fn an_unreadable_report_fails_the_start() {
    let (failure, _) = Hive::new().fail_start("garbles").await;
    assert_eq!(failure.code, Code::WorkerFailed);
    assert!(failure.message.contains("report"), "{}", failure.message);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_reported_port_of_another_process_is_never_connected_to() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let port = other.local_addr().unwrap().port();
    let (failure, _) = Hive::new().fail_start(&format!("foreign:{port}")).await;
    assert_eq!(failure.code, Code::WorkerFailed);
    assert!(failure.message.contains("not the worker's"), "{}", failure.message);
    assert!(other.accept().is_err(), "nobody connected");
}

#[tokio::test]
async fn a_cancelled_start_leaves_no_process() {
    let mut hive = Hive::new();
    let stop = CancellationToken::new();
    let (workers, token) = (hive.workers.clone(), stop.clone());
    let job = spawn::task(async move { narrated(workers.start(request("silent"), &token)).await });
    hive.worker_with(Status::Starting).await;
    stop.cancel();
    let (result, narrations) = job.await.unwrap();
    assert_eq!(result.unwrap_err().code, Code::Cancelled);
    assert!(
        has_narration(&narrations, "worker_stop", "half-started")
            && has_narration(&narrations, "worker_gone", "Nothing is left")
    );
    assert!(hive.workers.list().is_empty());
    hive.check_gone();
}

#[tokio::test]
async fn a_dropped_start_leaves_no_process() {
    let mut hive = Hive::new();
    let workers = hive.workers.clone();
    let job = spawn::task(async move { workers.start(request("stuck"), &CancellationToken::new()).await });
    hive.worker_with(Status::Loading).await;
    job.abort();
    hive.worker_with(Status::Stopped).await;
    assert!(hive.workers.list().is_empty());
    hive.check_gone();
}

#[tokio::test]
async fn a_start_whose_worker_is_stopped_fails_with_that_reason() {
    let mut hive = Hive::new();
    let workers = hive.workers.clone();
    let job = spawn::task(async move { workers.start(request("stuck"), &CancellationToken::new()).await });
    let worker = hive.worker_with(Status::Loading).await;
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    let failure = job.await.unwrap().unwrap_err();
    assert!(failure.message.contains("stopped by another request"), "{}", failure.message);
    hive.check_gone();
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let hive = Hive::with(|config| config.worker_program = Some("/no/such/program".into()));
    let failure = hive.start("healthy").await.unwrap_err();
    assert_eq!(failure.code, Code::WorkerFailed);
    assert!(failure.message.starts_with("/no/such/program"), "{}", failure.message);
    let left = std::fs::read_dir(hive.config.workers_dir()).unwrap().count();
    assert_eq!(left, 0, "no folder of a worker without a process");
    hive.finish().await;
}

#[tokio::test]
async fn a_model_that_does_not_fit_starts_only_if_forced() {
    let hive = Hive::new();
    let path = hive.folder.path().join("m.gguf");
    // No machine has enough memory for the KV cache of this context.
    SampleModel { context_length: u32::MAX, ..SampleModel::default() }.write(&path).unwrap();
    let wanted =
        StartRequest { model_path: path, context_length: Some(u64::from(u32::MAX)), ..request("exits") };
    let (refused, narrations) = narrated(hive.workers.start(wanted.clone(), &CancellationToken::new())).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::OutOfMemory);
    assert!(refused.hint.unwrap().contains("\"force\": true"));
    for part in ["weights", "cache", "overhead", "are free"] {
        assert!(has_narration(&narrations, "memory_check", part), "{part}: {narrations:#?}");
    }
    let forced = StartRequest { force: true, ..wanted };
    let failure = hive.workers.start(forced, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::WorkerFailed, "it was started");
    hive.finish().await;
}
