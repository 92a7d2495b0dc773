//! The supervisor against real processes: `fixtures/fake-worker.sh`, which misbehaves in every way
//! that workers do, and this test binary, which serves for it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::telemetry::Telemetry;
use super::*;
use crate::config::Config;
use crate::error::{Code, Failure};
use crate::narration::{Entry, Level, Narration, NarrationContext, with_narration_context};
use crate::spawn;

const LONG: Duration = Duration::from_secs(30);

/// A supervisor whose end is checked: every process that it ever started must be gone.
struct Hive {
    workers: Supervisor,
    config: Config,
    changes: broadcast::Receiver<Change>,
    folder: tempfile::TempDir,
}

impl Hive {
    fn new() -> Self {
        Self::tuned(|_| {})
    }

    fn tuned(tune: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: folder.path().to_owned(),
            worker_program: Some(
                concat!(env!("CARGO_MANIFEST_DIR"), "/src/workers/fixtures/fake-worker.sh").into(),
            ),
            ..Config::default()
        };
        config.timers.progress = Duration::from_millis(20).into();
        config.workers.lifeline = true;
        config.llama_server.enabled = false;
        tune(&mut config);
        let workers = Supervisor::new(&config).unwrap();
        let changes = workers.changes();
        Self { workers, config, changes, folder }
    }

    async fn start(&self, behaviour: &str) -> Result<Worker, Failure> {
        self.workers.start(request(behaviour), &CancellationToken::new()).await
    }

    /// Starts a worker that cannot become ready, and checks that nothing is left of it.
    async fn failure(mut self, behaviour: &str) -> (Failure, Vec<Narration>) {
        let (result, said) = narrated(self.start(behaviour)).await;
        self.check_gone();
        (result.unwrap_err(), said)
    }

    async fn finish(mut self) {
        self.workers.stop_all(Duration::from_secs(5)).await;
        self.check_gone();
    }

    fn check_gone(&mut self) {
        assert!(self.workers.list().iter().all(|worker| worker.status == Status::Crashed));
        let mut pids = Vec::new();
        while let Ok(change) = self.changes.try_recv() {
            pids.push(change.worker.pid);
        }
        for pid in pids {
            assert!(process::gone(pid), "group {pid} is still there");
        }
    }

    /// Waits for a worker to reach a status.
    async fn reaches(&mut self, status: Status) -> Worker {
        let mut news = self.changes.resubscribe();
        if let Some(worker) = self.workers.list().into_iter().find(|worker| worker.status == status) {
            return worker;
        }
        tokio::time::timeout(LONG, async {
            loop {
                let Change { worker, .. } = news.recv().await.unwrap();
                if worker.status == status {
                    return worker;
                }
            }
        })
        .await
        .unwrap()
    }
}

fn request(behaviour: &str) -> StartRequest {
    StartRequest {
        model_id: behaviour.to_owned(),
        model_path: std::env::current_exe().unwrap(),
        engine: "cpu".to_owned(),
        device: Device::Index(0),
        context_length: Some(512),
        slots: None,
        force: false,
    }
}

async fn narrated<T>(work: impl Future<Output = T>) -> (T, Vec<Narration>) {
    let (sender, mut entries) = mpsc::unbounded_channel();
    let result = with_narration_context(NarrationContext::new("job-1".into(), "test", sender), work).await;
    let mut said = Vec::new();
    while let Ok(Entry::Narration(narration)) = entries.try_recv() {
        said.push(narration);
    }
    (result, said)
}

fn says(said: &[Narration], action: &str, text: &str) -> bool {
    said.iter().any(|narration| narration.action == action && narration.message.contains(text))
}

/// What the worker that leaks loses each time that it is asked how it is.
const LEAK_BYTES: usize = 8 << 20;

/// Not a test: the serving part of the fake worker, in a process of its own.
#[test]
#[ignore = "runs as a worker of other tests"]
fn fake_worker() {
    let Ok(behaviour) = std::env::var("FAKE_WORKER_BEHAVIOUR") else { return };
    let report = std::env::var("FAKE_WORKER_REPORT").unwrap_or_default();
    let port = std::env::var("FAKE_WORKER_PORT").unwrap_or("0".to_owned());
    spawn::thread("lifeline", || {
        if std::io::stdin().read(&mut [0]).unwrap_or(0) == 0 {
            std::process::exit(0);
        }
    })
    .unwrap();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let write_report = |text: String| {
        if report.is_empty() {
            return;
        }
        let new = format!("{report}.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &report).unwrap();
    };
    let port = listener.local_addr().unwrap().port();
    write_report(format!(r#"{{"state":"listening","port":{port},"pid":{}}}"#, std::process::id()));
    if behaviour == "flashes" {
        eprintln!("unknown model architecture: 'x'");
        std::process::exit(1);
    }
    let (mut leaked, mut stuck, started) = (Vec::new(), false, Instant::now());
    for (asked, connection) in listener.incoming().enumerate() {
        let mut connection = connection.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match connection.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => break,
            }
        }
        assert!(!String::from_utf8_lossy(&head).to_lowercase().contains("authorization"));
        let loading =
            |done| format!(r#"{{"status":"loading","progress":{{"done":{done},"total":8,"unit":"bytes"}}}}"#);
        let ready =
            r#"{"status":"ok","slots":4,"busy_slots":0,"requests":7,"tokens_generated":99}"#.to_owned();
        let (status, body) = match behaviour.as_str() {
            "stuck" => (503, loading(1)),
            once if once.starts_with("once:") => {
                let mark = once.trim_start_matches("once:");
                if std::fs::exists(mark).unwrap() && asked == 0 {
                    stuck = true;
                }
                std::fs::write(mark, "").unwrap();
                if stuck { (503, loading(1)) } else { (200, ready) }
            }
            "grows" if started.elapsed() < Duration::from_secs(3) => {
                leaked.push(std::hint::black_box(vec![7_u8; 1 << 20]));
                (503, r#"{"error":{"code":503,"message":"Loading model"}}"#.to_owned())
            }
            "quits" if asked > 1 => std::process::exit(7),
            "quits" => (503, loading(asked)),
            "leaks" => {
                // Written to, or no memory is taken.
                leaked.push(std::hint::black_box(vec![7_u8; LEAK_BYTES]));
                (200, ready)
            }
            "slow" if asked < 8 => (503, loading(asked)),
            "breaks" if asked > 2 => {
                println!("the tensor is bad");
                write_report(
                    r#"{"state":"failed","failure":{"code":"model_unsupported","message":"no"}}"#.into(),
                );
                std::process::exit(69);
            }
            "breaks" => (503, loading(asked)),
            _ => (200, ready),
        };
        let answer = format!(
            "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let _written = connection.write_all(answer.as_bytes());
    }
}

#[tokio::test]
async fn a_worker_becomes_ready_and_stops() {
    let hive = Hive::new();
    let (worker, said) = narrated(hive.start("healthy")).await;
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
        assert!(says(&said, action, text), "{action} {text}: {said:#?}");
    }
    let secret = hive.workers.secret(worker.pid).unwrap();
    assert!(!said.iter().any(|narration| narration.message.contains(secret.expose())));
    #[cfg(target_os = "linux")]
    {
        let argv = std::fs::read(format!("/proc/{}/cmdline", worker.pid)).unwrap();
        assert!(!String::from_utf8_lossy(&argv).contains(secret.expose()));
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", worker.pid)).unwrap();
        assert!(score.trim().parse::<i32>().unwrap() >= 300, "it goes before the daemon");
    }
    assert!(hive.workers.serves("healthy") && hive.workers.ready("healthy", Some(&Device::CPU)).is_some());
    hive.workers.refresh().await;
    let measured = hive.workers.get(worker.pid).unwrap();
    assert!(measured.rss_bytes > 100_000 && measured.requests == 7 && measured.tokens_generated == 99);

    let (stopped, said) = narrated(hive.workers.stop(worker.pid, LONG)).await;
    let stopped = stopped.unwrap();
    assert_eq!((stopped.pid, stopped.signal.as_deref()), (worker.pid, Some("SIGTERM")));
    assert!(stopped.freed_bytes > 100_000);
    assert!(says(&said, "worker_gone", "is gone"), "{said:#?}");
    assert!(hive.workers.list().is_empty());
    assert!(hive.folder.path().join("workers").join(&worker.worker_id).join("worker.log").exists());
    hive.finish().await;
}

#[tokio::test]
async fn load_progress_is_narrated_and_keeps_the_deadline_away() {
    let hive = Hive::tuned(|config| config.timers.progress = Duration::ZERO.into());
    let (worker, said) = narrated(hive.start("slow")).await;
    worker.unwrap();
    let done: Vec<_> = said.iter().filter_map(|narration| Some(narration.progress.as_ref()?.done)).collect();
    assert_eq!(done, [0, 1, 2, 3, 4, 5, 6, 7]);
    hive.finish().await;
}

#[tokio::test]
async fn the_workers_own_failure_is_passed_on() {
    let (failure, _) = Hive::new().failure("fails").await;
    assert_eq!(failure.code, Code::ModelCorrupt);
    assert_eq!(failure.message, "the file is truncated");
    assert_eq!(failure.hint.as_deref(), Some("download it again"));
    assert_eq!(failure.causes, ["tensor 3 ends beyond the file"]);
    assert_eq!((failure.stage.as_deref(), failure.exit_code), (Some("start"), Some(65)));

    let (failure, _) = Hive::new().failure("breaks").await;
    assert_eq!((failure.code, failure.exit_code), (Code::ModelUnsupported, Some(69)));
    assert_eq!(failure.stage.as_deref(), Some("load"));
    assert!(failure.log_tail.iter().any(|line| line == "the tensor is bad"), "{:?}", failure.log_tail);
}

#[tokio::test]
async fn an_exit_before_ready_has_its_code_and_the_end_of_the_log() {
    let (failure, said) = Hive::new().failure("exits").await;
    assert_eq!((failure.code, failure.exit_code), (Code::WorkerFailed, Some(3)));
    assert_eq!(failure.log_tail, ["fake worker: exits", "line one", "the reason"]);
    assert!(failure.message.ends_with("ended before it was ready: exit code 3"), "{}", failure.message);
    assert!(says(&said, "worker_log", "the reason") && says(&said, "worker_gone", "Nothing is left"));
}

#[tokio::test]
async fn an_exit_code_that_stands_for_a_kill_is_read_as_one() {
    let (failure, _) = Hive::new().failure("passes_on").await;
    assert_eq!((failure.exit_code, failure.signal), (Some(137), None));
    assert!(failure.message.ends_with("exit code 137, which stands for SIGKILL"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("memory"));
}

#[tokio::test]
async fn what_the_log_says_last_becomes_the_next_step() {
    let (failure, _) = Hive::new().failure("starves").await;
    assert_eq!(failure.exit_code, Some(1));
    assert!(failure.hint.unwrap().starts_with("memory ran out"), "{:?}", failure.log_tail);
}

#[tokio::test]
async fn an_exit_while_it_loads_is_told_from_one_before_it_listens() {
    let (failure, said) = Hive::new().failure("quits").await;
    assert_eq!((failure.code, failure.exit_code), (Code::WorkerFailed, Some(7)));
    assert_eq!(failure.stage.as_deref(), Some("load"));
    assert!(says(&said, "worker_listen", "loads the model"), "{said:#?}");
}

#[tokio::test]
async fn a_worker_that_leaks_is_seen_to_grow_and_gives_all_of_it_back() {
    let hive = Hive::new();
    let worker = hive.start("leaks").await.unwrap();
    let mut seen = vec![worker.rss_bytes];
    let began = Instant::now();
    // Samples too close to each other are one.
    while seen.last().unwrap() - seen[0] < 4 * LEAK_BYTES as u64 {
        assert!(began.elapsed() < LONG, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        hive.workers.refresh().await;
        seen.push(hive.workers.get(worker.pid).unwrap().rss_bytes);
    }
    assert!(seen.is_sorted(), "{seen:?}");
    let stopped = hive.workers.stop(worker.pid, LONG).await.unwrap();
    assert!(stopped.freed_bytes >= *seen.last().unwrap(), "{stopped:?} after {seen:?}");
    hive.finish().await;
}

#[tokio::test]
async fn a_kill_before_ready_names_memory_as_the_likely_cause() {
    let (failure, _) = Hive::new().failure("killed").await;
    assert_eq!((failure.code, failure.signal.as_deref()), (Code::WorkerFailed, Some("SIGKILL")));
    assert!(failure.hint.unwrap().contains("memory"));
}

#[tokio::test]
async fn a_leader_that_ends_takes_its_group_along() {
    let (failure, _) = Hive::new().failure("orphans").await;
    assert_eq!(failure.exit_code, Some(5));
}

#[tokio::test]
async fn a_secret_in_the_log_is_not_passed_on() {
    let (failure, said) = Hive::new().failure("tells").await;
    assert_eq!(failure.log_tail[1], "the key is [secret]");
    assert!(says(&said, "worker_log", "the key is [secret]"));
}

#[tokio::test]
async fn silence_ends_in_a_timeout_that_says_what_was_awaited() {
    let hasty = |config: &mut Config| config.timers.readiness = Duration::from_millis(600).into();
    let (failure, _) = Hive::tuned(hasty).failure("silent").await;
    assert_eq!((failure.code, failure.stage.as_deref()), (Code::Timeout, Some("start")));
    assert!(failure.message.contains("its report of where it listens"), "{}", failure.message);

    let later = |config: &mut Config| config.timers.readiness = Duration::from_secs(3).into();
    let (failure, _) = Hive::tuned(later).failure("stuck").await;
    assert_eq!((failure.code, failure.stage.as_deref()), (Code::Timeout, Some("load")));
    assert!(failure.message.contains("/health to answer"), "{}", failure.message);
}

#[tokio::test]
async fn a_report_that_is_none_is_refused() {
    let (failure, _) = Hive::new().failure("garbles").await;
    assert_eq!(failure.code, Code::WorkerFailed);
    assert!(failure.message.contains("report"), "{}", failure.message);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_port_of_another_process_is_refused_before_it_is_asked() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let port = other.local_addr().unwrap().port();
    let (failure, _) = Hive::new().failure(&format!("foreign:{port}")).await;
    assert_eq!(failure.code, Code::WorkerFailed);
    assert!(failure.message.contains("not the worker's"), "{}", failure.message);
    assert!(other.accept().is_err(), "nobody connected");
}

#[tokio::test]
async fn a_cancelled_start_leaves_nothing() {
    let mut hive = Hive::new();
    let stop = CancellationToken::new();
    let (workers, token) = (hive.workers.clone(), stop.clone());
    let job = spawn::task(async move { narrated(workers.start(request("silent"), &token)).await });
    hive.reaches(Status::Starting).await;
    stop.cancel();
    let (result, said) = job.await.unwrap();
    assert_eq!(result.unwrap_err().code, Code::Cancelled);
    assert!(says(&said, "worker_stop", "half-started") && says(&said, "worker_gone", "Nothing is left"));
    assert!(hive.workers.list().is_empty());
    hive.check_gone();
}

#[tokio::test]
async fn a_dropped_start_leaves_nothing() {
    let mut hive = Hive::new();
    let workers = hive.workers.clone();
    let job = spawn::task(async move { workers.start(request("stuck"), &CancellationToken::new()).await });
    hive.reaches(Status::Loading).await;
    job.abort();
    hive.reaches(Status::Stopped).await;
    assert!(hive.workers.list().is_empty());
    hive.check_gone();
}

#[tokio::test]
async fn a_start_whose_worker_is_stopped_says_so() {
    let mut hive = Hive::new();
    let workers = hive.workers.clone();
    let job = spawn::task(async move { workers.start(request("stuck"), &CancellationToken::new()).await });
    let worker = hive.reaches(Status::Loading).await;
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    let failure = job.await.unwrap().unwrap_err();
    assert!(failure.message.contains("stopped by another request"), "{}", failure.message);
    hive.check_gone();
}

#[tokio::test]
async fn a_worker_that_ignores_sigterm_is_killed_once_for_all_who_wait() {
    let hive = Hive::new();
    let worker = hive.start("stubborn").await.unwrap();
    let grace = Duration::from_millis(100);
    let (stops, said) = narrated(async {
        tokio::join!(hive.workers.stop(worker.pid, grace), hive.workers.stop(worker.pid, LONG))
    })
    .await;
    let (first, second) = (stops.0.unwrap(), stops.1.unwrap());
    assert_eq!(first.signal.as_deref(), Some("SIGKILL"));
    assert_eq!(first, second);
    assert!(says(&said, "worker_stop", "SIGKILL"), "{said:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn grandchildren_go_with_their_worker() {
    let hive = Hive::new();
    let worker = hive.start("family").await.unwrap();
    #[cfg(target_os = "linux")]
    assert_eq!(process::members(worker.pid).len(), 2);
    hive.workers.stop(worker.pid, Duration::from_secs(5)).await.unwrap();
    assert!(process::gone(worker.pid));
    hive.finish().await;
}

#[tokio::test]
async fn only_workers_can_be_stopped() {
    let hive = Hive::new();
    for pid in [0, 1, std::process::id(), u32::MAX] {
        let failure = hive.workers.stop(pid, Duration::ZERO).await.unwrap_err();
        assert_eq!(failure.code, Code::WorkerNotFound);
        assert_eq!(failure.message, format!("process {pid} is not a worker of this hive"));
    }
    hive.finish().await;
}

#[tokio::test]
async fn a_flood_of_log_is_thinned_out() {
    let hive = Hive::new();
    let (worker, said) = narrated(hive.start("floods")).await;
    worker.unwrap();
    let lines = said.iter().filter(|narration| narration.action == "worker_log").count();
    assert!((50..2000).contains(&lines), "{lines} lines");
    assert!(says(&said, "worker_log", "left out"));
    hive.finish().await;
}

#[tokio::test]
async fn requests_in_flight_are_waited_for_and_no_others_let_in() {
    let mut hive = Hive::new();
    let first = hive.start("healthy").await.unwrap();
    let second = hive.start("healthy").await.unwrap();
    let one = hive.workers.endpoint("healthy").unwrap();
    let other = hive.workers.endpoint("healthy").unwrap();
    assert_ne!(one.pid, other.pid, "the one with fewer requests is chosen");
    assert_eq!(hive.workers.get(one.pid).unwrap().status, Status::Busy);
    assert_eq!(one.secret.expose().len(), 64);
    drop(other);
    let spare = if one.pid == first.pid { second.pid } else { first.pid };
    hive.workers.stop(spare, LONG).await.unwrap();

    let (workers, pid) = (hive.workers.clone(), one.pid);
    let job = spawn::task(async move { narrated(workers.stop(pid, LONG)).await });
    hive.reaches(Status::Stopping).await;
    assert!(hive.workers.endpoint("healthy").is_none());
    assert!(!process::gone(pid) && !job.is_finished());
    drop(one);
    let (stopped, said) = job.await.unwrap();
    assert_eq!(stopped.unwrap().signal.as_deref(), Some("SIGTERM"));
    assert!(says(&said, "worker_drain", "1 in flight"), "{said:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn a_request_that_does_not_end_holds_a_stop_up_no_longer_than_the_grace() {
    let hive = Hive::new();
    let worker = hive.start("healthy").await.unwrap();
    let _endless = hive.workers.endpoint("healthy").unwrap();
    hive.workers.stop(worker.pid, Duration::from_millis(50)).await.unwrap();
    hive.finish().await;
}

#[tokio::test]
async fn a_crash_is_noticed_kept_and_deleted() {
    let mut hive = Hive::new();
    let worker = hive.start("healthy").await.unwrap();
    let leader = rustix::process::Pid::from_raw(worker.pid.cast_signed()).unwrap();
    rustix::process::kill_process(leader, rustix::process::Signal::ABORT).unwrap();
    let crashed = hive.reaches(Status::Crashed).await;
    assert_eq!((crashed.pid, crashed.last_exit.as_deref()), (worker.pid, Some("killed by SIGABRT")));
    assert!(hive.workers.endpoint("healthy").is_none() && !hive.workers.serves("healthy"));
    assert_eq!(hive.workers.list().len(), 1);
    let stopped = hive.workers.stop(worker.pid, LONG).await.unwrap();
    assert_eq!(stopped.signal.as_deref(), Some("SIGABRT"));
    assert!(hive.workers.list().is_empty());
    hive.finish().await;
}

#[tokio::test]
async fn a_ready_worker_replaces_a_crashed_one() {
    let mut hive = Hive::new();
    let worker = hive.start("healthy").await.unwrap();
    let leader = rustix::process::Pid::from_raw(worker.pid.cast_signed()).unwrap();
    rustix::process::kill_process(leader, rustix::process::Signal::KILL).unwrap();
    hive.reaches(Status::Crashed).await;
    let next = hive.start("healthy").await.unwrap();
    let pids: Vec<_> = hive.workers.list().iter().map(|worker| worker.pid).collect();
    assert_eq!(pids, [next.pid]);
    hive.finish().await;
}

#[tokio::test]
async fn after_the_last_stop_nothing_starts() {
    let hive = Hive::new();
    hive.start("healthy").await.unwrap();
    hive.start("stubborn").await.unwrap();
    hive.workers.stop_all(Duration::from_millis(200)).await;
    assert!(hive.workers.list().is_empty());
    assert_eq!(hive.start("healthy").await.unwrap_err().code, Code::ShuttingDown);
    hive.finish().await;
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let hive = Hive::tuned(|config| config.worker_program = Some("/no/such/program".into()));
    let failure = hive.start("healthy").await.unwrap_err();
    assert_eq!(failure.code, Code::WorkerFailed);
    assert!(failure.message.starts_with("/no/such/program"), "{}", failure.message);
    let left = std::fs::read_dir(hive.config.workers_dir()).unwrap().count();
    assert_eq!(left, 0, "no folder of a worker that never was");
    hive.finish().await;
}

#[tokio::test]
async fn telemetry_is_taken_while_somebody_looks() {
    let hive = Hive::tuned(|config| config.timers.telemetry = Duration::from_millis(20).into());
    let worker = hive.start("healthy").await.unwrap();
    let telemetry = Telemetry::new(&hive.config, hive.workers.clone());
    assert!(!telemetry.is_running());
    let (mut one, mut other) = (telemetry.subscribe(), telemetry.subscribe());
    one.changed().await.unwrap();
    other.changed().await.unwrap();
    let sample = one.borrow_and_update().clone();
    let json = serde_json::to_value(&sample.workers).unwrap();
    let keys: Vec<_> = json[0].as_object().unwrap().keys().map(String::as_str).collect();
    let contract = "pid group instance cpu_pct rss_mb io_r_mb_s io_w_mb_s uptime_s gpu_util_pct vram_mb \
                    total_vram_mb model";
    assert_eq!(keys, contract.split_whitespace().collect::<Vec<_>>());
    assert_eq!((sample.workers[0].pid, sample.workers[0].rss_mb > 0), (worker.pid, true));
    assert!(sample.system.ram_total_bytes > 0);
    drop(one);
    other.changed().await.unwrap();
    drop(other);
    let asked = Instant::now();
    while telemetry.is_running() {
        assert!(asked.elapsed() < LONG, "the loop ends with its last reader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut again = telemetry.subscribe();
    again.changed().await.unwrap();
    hive.finish().await;
}

#[tokio::test]
async fn logs_are_narrated_at_info() {
    let hive = Hive::new();
    let (worker, said) = narrated(hive.start("healthy")).await;
    assert!(said.iter().any(|line| line.action == "worker_log" && line.level == Level::Info));
    let log = hive.workers.log(worker.unwrap().pid).unwrap();
    assert!(Path::new(&log).ends_with("worker.log"));
    hive.finish().await;
}

/// Settings under which ready workers are left to the next supervisor.
fn leaving(config: &mut Config) {
    config.workers.lifeline = false;
    config.workers.keep_on_shutdown = true;
}

/// Ends a supervisor as a stop of the hive does, and starts another on the same folder.
async fn succeed(hive: Hive, tune: impl FnOnce(&mut Config)) -> Hive {
    let Hive { workers, mut config, folder, .. } = hive;
    workers.stop_all(LONG).await;
    drop(workers);
    config.workers.keep_on_shutdown = false;
    tune(&mut config);
    let workers = Supervisor::new(&config).unwrap();
    let changes = workers.changes();
    workers.adopt().await;
    Hive { workers, config, changes, folder }
}

#[tokio::test]
async fn workers_that_were_left_are_taken_over_and_proven_gone_when_stopped() {
    let hive = Hive::tuned(leaving);
    let (one, other) = (hive.start("healthy").await.unwrap(), hive.start("family").await.unwrap());
    let secret = hive.workers.secret(one.pid).unwrap().expose().to_owned();
    let mut hive = succeed(hive, |_| {}).await;
    let listed: Vec<_> = hive.workers.list().iter().map(|worker| (worker.pid, worker.port)).collect();
    assert_eq!(listed, [(one.pid, one.port), (other.pid, other.port)]);
    assert_eq!(hive.workers.adoption().unwrap().adopted, [one.pid, other.pid]);
    let again = hive.workers.get(one.pid).unwrap();
    assert_eq!((again.worker_id, again.started_at), (one.worker_id.clone(), one.started_at.clone()));
    assert_eq!(again.status, Status::Ready);
    assert_eq!(hive.workers.endpoint("healthy").unwrap().secret.expose(), secret);
    let told = hive.changes.try_recv().unwrap();
    assert!(
        told.cause == Some(Cause::Adopted) || hive.changes.try_recv().unwrap().cause == Some(Cause::Adopted)
    );
    hive.workers.refresh().await;
    assert_eq!(hive.workers.get(one.pid).unwrap().tokens_generated, 99);

    let (stopped, said) = narrated(hive.workers.stop(other.pid, LONG)).await;
    let stopped = stopped.unwrap();
    assert_eq!((stopped.exit_code, stopped.signal), (None, None), "only a parent learns how a process ended");
    assert!(says(&said, "worker_gone", "unknown"), "{said:#?}");
    assert!(process::gone(other.pid), "grandchildren go too");

    // A crash of an adopted worker is noticed, and says that its exit is unknown.
    let leader = rustix::process::Pid::from_raw(one.pid.cast_signed()).unwrap();
    rustix::process::kill_process(leader, rustix::process::Signal::KILL).unwrap();
    let crashed = hive.reaches(Status::Crashed).await;
    assert!(crashed.last_exit.unwrap().starts_with("unknown"));
    let records = record::read_all(&hive.config.workers_dir()).unwrap();
    assert!(records.is_empty(), "nothing is left to look for: {records:?}");
    hive.finish().await;
}

#[tokio::test]
async fn what_does_not_fit_is_ended_not_taken_over() {
    let hive = Hive::tuned(leaving);
    let (moved, unready) = (hive.start("healthy").await.unwrap(), hive.start("family").await.unwrap());
    let folder = hive.config.workers_dir();
    let record = |worker: &Worker| folder.join(&worker.worker_id).join("record.json");
    // Its record names the port of another: that port is never trusted with a request.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut altered = record::Record::read(&record(&moved)).unwrap();
    altered.port = Some(other.local_addr().unwrap().port());
    altered.write(&record(&moved)).unwrap();
    let mut altered = record::Record::read(&record(&unready)).unwrap();
    altered.ready = false;
    altered.write(&record(&unready)).unwrap();
    let hive = succeed(hive, |_| {}).await;
    assert!(hive.workers.list().is_empty());
    let found = hive.workers.adoption().unwrap();
    let why: Vec<_> = found.ended.iter().map(|(pid, why)| (*pid, &why[..8])).collect();
    assert_eq!(why, [(moved.pid, "its port"), (unready.pid, "it was n")]);
    assert_eq!((found.stuck, found.adopted.len()), (0, 0));
    assert!(process::gone(moved.pid) && process::gone(unready.pid));
    hive.finish().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_without_its_record_is_swept_up_by_its_mark() {
    let hive = Hive::tuned(leaving);
    let worker = hive.start("family").await.unwrap();
    let folder = hive.config.workers_dir().join(&worker.worker_id);
    let hive = succeed(hive, |_| std::fs::remove_file(folder.join("record.json")).unwrap()).await;
    let found = hive.workers.adoption().unwrap();
    assert_eq!((found.orphans, found.stuck), (2, 0), "{found:?}");
    assert!(process::gone(worker.pid));
    hive.finish().await;
}

#[tokio::test]
async fn records_in_a_folder_that_others_can_enter_are_not_trusted() {
    use std::os::unix::fs::PermissionsExt;

    let hive = Hive::new();
    let folder = hive.config.workers_dir();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o770)).unwrap();
    hive.workers.adopt().await;
    assert!(hive.workers.adoption().unwrap().refused.unwrap().contains("other users"));
    hive.finish().await;
}

/// Processes of others with a worker's id, by every way in which an id can mislead: another start
/// time, another boot. Each tells of any signal that it gets.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_stale_records_that_name_live_strangers_signal_nobody() {
    use std::os::unix::fs::DirBuilderExt;

    use super::identity::Identity;

    let hive = Hive::new();
    let told = hive.folder.path().join("signals");
    let script = "for s in HUP INT QUIT TERM USR1 USR2 CONT; do trap \"echo $s >>$0\" $s; done; \
                  echo up >>$0.up; while :; do sleep 0.05; done";
    let mut strangers = Vec::new();
    for _ in 0..4 {
        let mut command = spawn::command("sh");
        command.arg("-c").arg(script).arg(&told).process_group(0).kill_on_drop(true);
        strangers.push(command.spawn().unwrap());
    }
    let up = told.with_extension("up");
    while std::fs::read_to_string(&up).unwrap_or_default().lines().count() < strangers.len() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut named: Vec<u32> = strangers.iter().map(|child| child.id().unwrap()).collect();
    named.extend([1, std::process::id()]);

    std::fs::DirBuilder::new().mode(0o700).create(hive.config.workers_dir()).unwrap();
    for n in 0..1000_usize {
        let pid = named[n % named.len()];
        let identity = Identity::of(pid).unwrap();
        let (boot_id, start_time) = match n % 2 {
            0 => (identity::boot_id(), identity.start_time - 1),
            _ => (uuid::Uuid::new_v4().to_string(), identity.start_time),
        };
        let worker_id = format!("worker-{n:04}");
        let folder = hive.config.workers_dir().join(&worker_id);
        std::fs::create_dir(&folder).unwrap();
        let record = record::Record {
            worker_id,
            boot_id,
            process: Identity { pid, start_time },
            started_at: jiff::Timestamp::now(),
            engine: "builtin".to_owned(),
            device: Device::CPU,
            request: request("healthy"),
            secret: "s".to_owned(),
            port: Some(1),
            ready: n % 3 == 0,
        };
        record.write(&folder.join("record.json")).unwrap();
    }
    std::fs::write(hive.config.workers_dir().join("worker-0000").join("record.json"), "nonsense").unwrap();
    hive.workers.adopt().await;
    let found = hive.workers.adoption().unwrap();
    assert_eq!((found.stale, found.adopted.len(), found.ended.len(), found.orphans), (1000, 0, 0, 0));
    assert!(hive.workers.list().is_empty());
    assert!(!told.exists(), "signals were sent: {:?}", std::fs::read_to_string(&told));
    for stranger in &mut strangers {
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger ended");
        stranger.kill().await.unwrap();
    }
    hive.finish().await;
}

fn hasty_restarts(config: &mut Config) {
    config.workers.restart = crate::config::RestartPolicy::OnFailure;
    config.workers.restart_first = Duration::from_millis(10).into();
    config.workers.restart_longest = Duration::from_millis(40).into();
}

#[tokio::test]
async fn a_crashed_worker_is_started_again_where_its_policy_says_so() {
    let mut hive = Hive::tuned(hasty_restarts);
    let mut pid = hive.start("healthy").await.unwrap().pid;
    for _ in 0..3 {
        let mut news = hive.workers.changes();
        let leader = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(leader, rustix::process::Signal::KILL).unwrap();
        let mut causes = Vec::new();
        pid = tokio::time::timeout(LONG, async {
            loop {
                let Change { worker, cause, .. } = news.recv().await.unwrap();
                causes.extend(cause);
                if worker.status == Status::Ready && worker.pid != pid {
                    return worker.pid;
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(causes, [Cause::Crash, Cause::Restart]);
        let listed = || hive.workers.list().iter().map(|worker| worker.pid).collect::<Vec<_>>();
        while listed() != [pid] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    hive.workers.stop(pid, LONG).await.unwrap();
    hive.check_gone();
    assert!(hive.workers.list().is_empty(), "a stop is no crash");
    hive.finish().await;
}

#[tokio::test]
async fn a_crashed_worker_that_is_deleted_is_not_started_again() {
    let mut hive = Hive::tuned(|config| {
        hasty_restarts(config);
        config.workers.restart_first = LONG.into();
        config.workers.restart_longest = LONG.into();
    });
    let pid = hive.start("healthy").await.unwrap().pid;
    let leader = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(leader, rustix::process::Signal::KILL).unwrap();
    hive.reaches(Status::Crashed).await;
    assert_eq!(hive.workers.give_up("healthy"), [pid]);
    assert!(hive.workers.list().is_empty() && hive.workers.give_up("healthy").is_empty());
    hive.finish().await;
}

#[tokio::test]
async fn a_restart_that_somebody_stops_is_not_tried_again() {
    let mut hive = Hive::tuned(hasty_restarts);
    // Ready at first, and never again.
    let behaviour = format!("once:{}", hive.folder.path().join("once").display());
    let pid = hive.start(&behaviour).await.unwrap().pid;
    let mut news = hive.workers.changes();
    let leader = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(leader, rustix::process::Signal::KILL).unwrap();
    let again = hive.reaches(Status::Loading).await;
    hive.workers.stop(again.pid, LONG).await.unwrap();
    let gone = tokio::time::timeout(LONG, async {
        loop {
            let Change { change, worker, .. } = news.recv().await.unwrap();
            if change == ChangeKind::Removed && worker.pid == pid {
                return;
            }
        }
    });
    gone.await.unwrap();
    assert!(hive.workers.list().is_empty());
    hive.finish().await;
}

#[tokio::test]
async fn a_failed_load_and_a_stop_have_causes_of_their_own() {
    let hive = Hive::new();
    let mut news = hive.workers.changes();
    hive.start("exits").await.unwrap_err();
    let worker = hive.start("healthy").await.unwrap();
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    let mut causes = Vec::new();
    while let Ok(change) = news.try_recv() {
        causes.extend(change.cause);
    }
    assert_eq!(causes, [Cause::FailedLoad, Cause::UserStop]);
    hive.finish().await;
}

/// How much of something is done: `few` here, and `full` where `RBEE_HIVE_TEST_ROUNDS` says that there
/// is time: where it asks for 20 rounds or more.
fn as_time_allows<T>(few: T, full: T) -> T {
    let asked = std::env::var("RBEE_HIVE_TEST_ROUNDS").map(|rounds| rounds.parse().expect("a number"));
    if asked.is_ok_and(|asked: usize| asked >= 20) { full } else { few }
}

/// 100 stops where there is time. Several workers at once: what is waited for are graces.
#[tokio::test]
async fn stopped_again_and_again_nothing_is_ever_left() {
    use futures::StreamExt;

    let mut hive = Hive::new();
    let grace = Duration::from_millis(200);
    let stops = futures::stream::iter(0..as_time_allows(3_usize, 100)).map(|round| {
        let hive = &hive;
        async move {
            let behaviour = ["healthy", "family", "stubborn"][round % 3];
            let worker = hive.start(behaviour).await.unwrap();
            let asked = Instant::now();
            hive.workers.stop(worker.pid, grace).await.unwrap();
            let took = asked.elapsed();
            assert!(process::gone(worker.pid), "{behaviour}");
            (worker.pid, took)
        }
    });
    let (pids, mut took): (Vec<u32>, Vec<Duration>) = stops.buffer_unordered(4).unzip().await;
    // Twice the grace: for requests in flight, of which there are none, and for the process. Of the
    // most of them, so that one pause of a busy machine is no failure.
    took.sort_unstable();
    assert!(took[took.len() / 2] < grace * 2 + Duration::from_secs(1), "{took:?}");
    // None is left as a zombie either, as one of this process's children would be.
    #[cfg(target_os = "linux")]
    for process in procfs::process::all_processes().unwrap().flatten() {
        if let Ok(stat) = process.stat() {
            let stopped = pids.contains(&stat.pgrp.cast_unsigned());
            assert!(!stopped || stat.ppid.cast_unsigned() != std::process::id(), "{stat:?} is left");
        }
    }
    assert_eq!(pids.len(), as_time_allows(3, 100));
    hive.check_gone();
    hive.finish().await;
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/workers/fixtures");

/// Settings under which there is a `llama-server`, which ends with the test's process.
fn with_llama_server(config: &mut Config) {
    config.llama_server.enabled = true;
    config.llama_server.program = Some(format!("{FIXTURES}/fake-llama-server.sh").into());
    config.llama_server.flash_attention = Some(crate::config::FlashAttention::Auto);
}

#[tokio::test]
async fn llama_server_is_found_preferred_and_given_its_flags_but_never_its_key() {
    let hive = Hive::tuned(with_llama_server);
    let engines: Vec<_> = hive.workers.engines().await.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(engines, ["llama-server", "builtin"]);
    assert_eq!(hive.workers.engines().await[0].version.as_deref(), Some("4567 (0a1b2c3)"));
    let asked = StartRequest { slots: Some(3), ..request("healthy") };
    let (worker, said) = narrated(hive.workers.start(asked, &CancellationToken::new())).await;
    let worker = worker.unwrap();
    assert_eq!((worker.engine.as_str(), worker.slots), ("llama-server", 4));
    assert!(says(&said, "worker_choose", "preferred for cpu to builtin"), "{said:#?}");
    for flags in ["--host 127.0.0.1", "--ctx-size 24576 --parallel 3", "--flash-attn auto", "--threads"] {
        assert!(says(&said, "worker_command", flags), "{flags}: {said:#?}");
    }
    let log = std::fs::read_to_string(hive.workers.log(worker.pid).unwrap()).unwrap();
    assert!(log.contains("LLAMA_API_KEY"), "the key is in its environment: {log}");
    let secret = hive.workers.secret(worker.pid).unwrap();
    assert!(!said.iter().any(|line| line.message.contains(secret.expose())));
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    hive.finish().await;
}

#[tokio::test]
async fn progress_that_an_engine_tells_in_its_log_alone_is_narrated() {
    let hive = Hive::tuned(|config| {
        with_llama_server(config);
        config.timers.progress = Duration::ZERO.into();
    });
    let gate = hive.folder.path().join("gate");
    let behaviour = format!("dots:{}", gate.display());
    let (worker, said) = narrated(async {
        let start = hive.start(&behaviour);
        tokio::pin!(start);
        // The engine writes the next dots when it is told to: each turn of the log sees fewer than all.
        for turn in 1..=4 {
            let told = async {
                while std::fs::read_to_string(gate.with_extension("at")).unwrap_or_default().lines().count()
                    < turn
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                tokio::time::sleep(Duration::from_millis(150)).await;
                std::fs::write(gate.with_extension(turn.to_string()), "").unwrap();
            };
            tokio::select! { done = &mut start => return done, () = told => {} }
        }
        start.await
    })
    .await;
    hive.workers.stop(worker.unwrap().pid, LONG).await.unwrap();
    let percent: Vec<_> =
        said.iter().filter_map(|narration| Some(narration.progress.as_ref()?.done)).collect();
    assert!(percent.is_sorted() && percent.contains(&25) && percent.contains(&75), "{percent:?}: {said:#?}");
    assert!(says(&said, "worker_load", "has loaded 50 %"), "{said:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn memory_that_is_taken_is_progress_where_the_engine_tells_none() {
    let hive = Hive::tuned(|config| {
        with_llama_server(config);
        config.timers.readiness = Duration::from_millis(1500).into();
    });
    let (worker, said) = narrated(hive.start("grows")).await;
    // It loads for twice as long as it may make no progress.
    hive.workers.stop(worker.unwrap().pid, LONG).await.unwrap();
    let held: Vec<_> = said.iter().filter_map(|narration| Some(narration.progress.as_ref()?.done)).collect();
    assert!(held.len() > 1 && held.is_sorted(), "{held:?}");
    assert!(says(&said, "worker_load", "has taken"), "{said:#?}");
    hive.finish().await;
}

#[tokio::test]
async fn a_worker_that_ends_while_its_port_is_looked_at_is_not_taken_for_a_stranger() {
    let hive = Hive::tuned(with_llama_server);
    for _ in 0..as_time_allows(4, 40) {
        let (failure, said) = narrated(hive.start("flashes")).await;
        let failure = failure.unwrap_err();
        assert_eq!((failure.code, failure.exit_code), (Code::WorkerFailed, Some(1)), "{said:#?}");
        assert!(failure.hint.unwrap().contains("update the engine"));
        assert!(!says(&said, "worker_retry", ""), "{said:#?}");
    }
    hive.finish().await;
}

#[tokio::test]
async fn a_port_that_was_taken_in_the_meantime_is_changed_three_times() {
    let hive = Hive::tuned(with_llama_server);
    std::fs::create_dir(hive.config.jobs_dir()).unwrap();
    let state = hive.folder.path().join("failures");
    let behaviour = format!("taken:{}", state.display());
    std::fs::write(&state, "1\n2\n3\n").unwrap();
    let (worker, said) = narrated(hive.start(&behaviour)).await;
    hive.workers.stop(worker.unwrap().pid, LONG).await.unwrap();
    let retries = said.iter().filter(|line| line.action == "worker_retry").count();
    assert_eq!(retries, 3, "{said:#?}");
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
async fn an_engine_of_the_settings_is_run_as_they_say() {
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
    let hive = Hive::tuned(|config| config.engines = parsed.engines);
    let engines: Vec<_> = hive.workers.engines().await.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(engines, ["other", "builtin"]);
    let absent = hive.workers.absent_engines().await;
    assert_eq!(
        absent,
        [("absent".to_owned(), "/no/such/program is not there, or may not be executed".to_owned())]
    );
    let asked = StartRequest { engine: "other".to_owned(), device: Device::Auto, ..request("healthy") };
    let (worker, said) = narrated(hive.workers.start(asked, &CancellationToken::new())).await;
    let worker = worker.unwrap();
    assert!(says(&said, "worker_command", "--max-model-len=512 --slots 1"), "{said:#?}");
    let log = std::fs::read_to_string(hive.workers.log(worker.pid).unwrap()).unwrap();
    assert!(log.contains("LLAMA_DEVICE") && log.contains("LLAMA_SECRET"), "{log}");
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    hive.finish().await;

    for (wrong, what) in [
        (settings.replace("engines.other", "engines.cuda"), "its name is taken"),
        (settings.replace("{device}", "{devise}"), "{devise}"),
        (settings.replace("\"{port}\"", "\"8000\""), "where {port} goes"),
        (settings.replace("devices = [\"cpu\"]", "devices = []"), "at least one kind"),
        (settings.replace("/no/such/program", ""), "begin with a program"),
        (format!("{settings}\nhealth_route = \"health\""), "health_route 'health'"),
        (format!("{settings}\nchat_route = \"/v1 chat\""), "chat_route '/v1 chat'"),
        (format!("{settings}\nsecret_env = \"A=B\""), "secret_env has 'A=B'"),
    ] {
        let failure = toml::from_str::<Config>(&wrong).unwrap().validate().unwrap_err();
        assert!(failure.message.contains(what), "{what}: {}", failure.message);
    }
}

#[test]
fn settings_of_workers_that_nothing_can_keep_to_are_refused_by_name() {
    for (wrong, named) in [
        ("[workers]\nrestart_first = \"0s\"", "[workers] restart_first cannot be 0s"),
        ("[workers]\nrestart_longest = \"0s\"", "[workers] restart_longest cannot be 0s"),
        ("[workers]\nrestart_longest = \"48h\"", "[workers] restart_longest cannot be"),
        ("[workers]\nrestart_first = \"5m\"", "[workers] restart_longest of 60s is less than restart_first"),
        ("[workers]\nthreads = 5000", "[workers] threads cannot be 5000"),
        ("[llama_server]\nprogram = \"\"", "[llama_server] program is empty"),
        (
            "[llama_server]\nmmproj = \"/no/such.gguf\"",
            "[llama_server] mmproj names /no/such.gguf, which is no file",
        ),
        (
            "[llama_server]\nkv_type = \"q8_0\"\nflash_attention = \"off\"",
            "[llama_server] kv_type \"q8_0\" needs flash",
        ),
        ("[llama_server]\ngpu_layers = 100000", "[llama_server] gpu_layers cannot be 100000"),
    ] {
        let failure = toml::from_str::<Config>(wrong).unwrap().validate().unwrap_err();
        assert!(failure.message.starts_with(named), "{wrong}: {}", failure.message);
        assert_eq!((failure.code, failure.hint.is_some()), (Code::ConfigInvalid, true), "{wrong}");
    }
    for (wrong, named) in [
        ("[workers]\nthreads = 0", "threads"),
        ("[workers]\nrestart = \"sometimes\"", "restart"),
        ("[llama_server]\nkv_type = \"q9\"", "kv_type"),
        ("[llama_server]\nflash_attention = true", "flash_attention"),
        ("[llama_server]\ngpu_layers = -1", "gpu_layers"),
        ("[llama_server]\nextra_args = [\"--log-file\"]", "extra_args"),
    ] {
        let error = toml::from_str::<Config>(wrong).unwrap_err().to_string();
        assert!(error.contains(named), "{wrong}: {error}");
    }
    toml::from_str::<Config>("[llama_server]\nenabled = false\nmmproj = \"/no/such.gguf\"")
        .unwrap()
        .validate()
        .unwrap();
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_before_a_process_starts_unless_it_is_forced() {
    use crate::engine::sample_model::SampleModel;

    let hive = Hive::new();
    let path = hive.folder.path().join("m.gguf");
    // Trained for a context whose cache no machine holds.
    SampleModel { context_length: u32::MAX, ..SampleModel::default() }.write(&path).unwrap();
    let asked =
        StartRequest { model_path: path, context_length: Some(u64::from(u32::MAX)), ..request("exits") };
    let (refused, said) = narrated(hive.workers.start(asked.clone(), &CancellationToken::new())).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::OutOfMemory);
    assert!(refused.hint.unwrap().contains("\"force\": true"));
    for part in ["weights", "cache", "overhead", "are free"] {
        assert!(says(&said, "memory_check", part), "{part}: {said:#?}");
    }
    let forced = StartRequest { force: true, ..asked };
    let failure = hive.workers.start(forced, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::WorkerFailed, "it was started");
    hive.finish().await;
}

/// 64 MiB of log here, 1 GiB where there is time.
#[tokio::test]
async fn a_gush_of_log_neither_holds_its_worker_up_nor_fills_the_disk() {
    let mib = as_time_allows(64, 1024);
    let hive = Hive::new();
    let worker = hive.start(&format!("gushes:{}", mib << 20)).await.unwrap();
    let folder = hive.config.workers_dir().join(&worker.worker_id);
    let size = || -> u64 {
        let files = std::fs::read_dir(&folder).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    // Looked at once a second.
    let asked = Instant::now();
    while size() > 40 << 20 {
        assert!(asked.elapsed() < LONG, "{} bytes are left", size());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(folder.join("worker.log.old").exists());
    hive.workers.stop(worker.pid, LONG).await.unwrap();
    hive.finish().await;
}
